"""The public benchmark."""
