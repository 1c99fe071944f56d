"""What came of an evaluation: a line for each item, the scores, their summary, and what differs."""
