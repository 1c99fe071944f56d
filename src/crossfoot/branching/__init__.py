"""`crossfoot branch`: a run that begins as the past of another one, up to a checkpoint of it."""
