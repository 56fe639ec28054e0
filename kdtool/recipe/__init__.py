"""Recipes: what a run consists of, typed, checked and written down."""
