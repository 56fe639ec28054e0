"""A generated set as a teacher: the log-probabilities that a server gave with its answers, in place of a network."""
