"""Language: models."""
