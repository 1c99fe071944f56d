"""What was promised against what was measured: the receipt of a run."""
