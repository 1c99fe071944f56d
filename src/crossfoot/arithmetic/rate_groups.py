"""Kinds of parameters that may be trained at a rate of their own."""

BASE_RATE = "lr.reference"
"""Whose rate parameters have that are in no group."""
GROUPS = ("lora_A", "lora_B", "embed_tokens", "lm_head", "other")
"""Kinds of trained parameters that may have a rate of their own. embed_tokens, lm_head: the input embedding
and the output layer, whatever a model calls them; a tied one is embed_tokens.
"""
