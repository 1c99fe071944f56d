"""What a path names: a run, an adapter or a model, with all that is needed to load it and to ask it."""
