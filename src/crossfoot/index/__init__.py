"""Data, tokenised once into a content-addressed index."""
