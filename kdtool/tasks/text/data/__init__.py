"""Text: data."""
