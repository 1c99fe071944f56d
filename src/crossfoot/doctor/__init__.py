"""What the machines have, and what would fail on them. Nothing is repaired, nothing is left behind."""
