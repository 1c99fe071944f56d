"""Faults of other ranks: who is lost, how that is noticed, and what is said about it. Pure: no torch."""
