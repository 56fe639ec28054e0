"""Networks: names and aliases, construction and weights, taps, measuring and saving."""
