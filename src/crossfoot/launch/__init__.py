"""Starts a run anywhere: renders the start as plain text, checks it, and starts it. Pure: no torch."""
