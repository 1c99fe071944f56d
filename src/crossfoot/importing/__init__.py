"""A recipe of another trainer: read, carried over into a run config, and held against what trains there."""
