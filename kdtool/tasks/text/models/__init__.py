"""Text: models."""
