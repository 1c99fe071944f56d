"""Checkpoints on disk: what is in one, which is the newest good one, which may go."""
