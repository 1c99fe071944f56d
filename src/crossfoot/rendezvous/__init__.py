"""Ranks meet, show that they are one run, and agree, before a weight is loaded."""
