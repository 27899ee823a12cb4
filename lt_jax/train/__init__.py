"""The training loop and what it needs: state, steps, sharding, checkpoints, feature extraction."""
