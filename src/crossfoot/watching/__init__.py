"""A run seen from its files alone, while it runs or afterwards."""
