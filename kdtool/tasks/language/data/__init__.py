"""Language: data."""
