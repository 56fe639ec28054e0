"""Language: evaluation."""
