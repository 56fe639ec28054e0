"""Two networks and a method, looked at without training: what they are, what is paired, what a step costs."""
