"""What a model takes: memory, time."""
