"""A model: loaded, its vocabulary grown, adapted, saved. Knows nothing of training."""
