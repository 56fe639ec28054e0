"""What networks and steps cost on this machine."""
