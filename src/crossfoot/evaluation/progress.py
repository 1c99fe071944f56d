"""How far an evaluation is, on stderr: of the rank that speaks."""

from __future__ import annotations

import time

from crossfoot.output import tell
from crossfoot.phrases import clock


class Progress:
    """Says it every few seconds. items, tokens: that this rank is to score."""

    def __init__(self, items: int, tokens: int, *, speaks: bool, every_seconds: float = 5.0) -> None:
        self._items, self._tokens, self._speaks, self._every = items, tokens, speaks, every_seconds
        self._done_items = self._done_tokens = 0
        self._began = self._told = time.monotonic()

    def add(self, tokens: int) -> None:
        """One more item."""
        self._done_items += 1
        self._done_tokens += tokens
        now = time.monotonic()
        if not self._speaks or now - self._told < self._every or self._done_items == self._items:
            return
        self._told = now
        spent = now - self._began
        left = spent * (self._tokens - self._done_tokens) / max(1, self._done_tokens)
        speed = self._done_items / spent
        tell(f"{self._done_items:,} of {self._items:,} items, {speed:.2g} a second, about {clock(left)} left")
