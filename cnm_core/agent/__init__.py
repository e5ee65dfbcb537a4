"""The overlay's long-lived part, one process on each host."""
