"""crossfoot: the batch you planned is the batch that trains, measured and signed for."""

__version__ = "0.1.0"
