"""The data index: what the run trains on, tokenised and counted once, found again by content."""
