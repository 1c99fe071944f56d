"""How many tokens a forward may hold. It follows the memory, and decides nothing but the time: a row gives
the same whatever it is computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

FIRST = 4096
"""Tokens: where `auto` begins, if memory holds them."""
MOST = 32768
"""Beyond that, matrices are no faster."""
_SHARE = 0.5
"""Of the free memory that a forward may take: estimates err, and others take memory too."""
_SPARE = 1.25
"""On top of what was seen to be taken."""
_TELLING = 1024
"""Tokens: what a smaller forward takes is the libraries' own, most of it."""


@dataclass
class Budget:
    """tokens: that a forward may hold now, those of its prefix counted for each row. most: never more. grows:
    whether it may begin below that. free: bytes on the device. report: hears of each change, and why.
    bytes_a_token: by the estimate; later, what was seen.
    """

    most: int
    grows: bool
    free: Callable[[], int]
    report: Callable[[int, str, int], None]
    bytes_a_token: float
    tokens: int = 0
    _fitted: int = 0
    _has_failed: bool = False
    _seen: float = field(default=0.0)

    def begin(self) -> None:
        """Choose the first one, and say so."""
        free = self.free()
        if not self.grows:
            self._change(self.most, "as asked", free)
            return
        holds = self._held_by(free)
        first = min(FIRST, self.most, holds)
        why = "to begin with" if first == FIRST else f"memory for {holds:,}, by the estimate"
        self._change(first, why, free)

    def rows(self, row_tokens: int) -> int:
        """Of a forward. row_tokens: that each of its rows holds. One row is always tried."""
        rows, _ = divmod(self.tokens, row_tokens)
        return max(1, rows)

    def succeeded(self, held: int, taken_bytes: int) -> None:
        """A forward has fitted. held: tokens in it. taken_bytes: more than before it."""
        self._fitted = max(self._fitted, held)
        if held >= _TELLING:
            self._seen = max(self._seen, _SPARE * taken_bytes / held)
            self.bytes_a_token = self._seen or self.bytes_a_token
        if 2 * held < self.tokens or self.tokens >= self.most:
            return
        if self._has_failed:
            if self._fitted > self.tokens:
                self._change(min(self._fitted, self.most), "so many have fitted", self.free())
            return
        if not self.grows:
            return
        free = self.free()
        larger = min(2 * self.tokens, self.most, self._held_by(free))
        if larger > self.tokens:
            self._change(larger, "the last forward has fitted", free)

    def failed(self, held: int) -> None:
        """A forward of so many tokens has not fitted."""
        self._has_failed = True
        half, _ = divmod(held, 2)
        if self._fitted >= held:  # it has fitted once; who knows what else has taken memory since
            self._fitted = half
        self._change(max(1, half), f"out of memory at {held:,}", self.free())

    def _held_by(self, free: int) -> int:
        return max(1, int(_SHARE * free / self.bytes_a_token))

    def _change(self, tokens: int, why: str, free: int) -> None:
        self.tokens = tokens
        self.report(tokens, why, free)
