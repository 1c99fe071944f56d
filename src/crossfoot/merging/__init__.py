"""Base and adapters become one model folder, proven."""
