"""Records on disk: written whole or not at all, readable by their owner only."""
