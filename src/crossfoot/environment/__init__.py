"""What the launchers say about ranks, nodes and GPUs."""
