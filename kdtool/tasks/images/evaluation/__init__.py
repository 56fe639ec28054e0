"""Measuring a network that is ready: a run's student, a model, or an exported file, on any data."""
