"""`crossfoot study`: the same samples in the same order with other batches, and what that does. Pure."""
