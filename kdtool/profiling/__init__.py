"""What networks cost on this machine: size, arithmetic, memory and time."""
