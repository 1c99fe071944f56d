"""`crossfoot evaluate`: what a model, an adapter or a run scores, whatever is computed at a time."""
