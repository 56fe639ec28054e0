"""Training sets that are too large to be held: counted once, and read from their shards as they pass."""
