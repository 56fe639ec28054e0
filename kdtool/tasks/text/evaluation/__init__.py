"""Text: evaluation."""
