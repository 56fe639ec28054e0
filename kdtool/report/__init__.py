"""A report: one self-contained page on runs and comparisons, that opens without a network."""
