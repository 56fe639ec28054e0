"""A distillation method as a stranger would ship it."""
