"""Launch files against the plan and against each other."""
