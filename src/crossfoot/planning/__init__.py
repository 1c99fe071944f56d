"""From a config (and an index) to the plan, its lock file and its page."""
