"""The DeepSpeed file against the plan and against DeepSpeed's own vocabulary."""
