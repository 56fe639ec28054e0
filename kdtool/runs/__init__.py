"""One run, from recipe to result."""
