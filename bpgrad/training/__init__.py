"""Training: configuration, the one loop, checkpoints."""
