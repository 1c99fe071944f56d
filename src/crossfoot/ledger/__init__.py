"""What really happened, step by step, and whether it foots."""
