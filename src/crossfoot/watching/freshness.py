"""How long ago something last changed, though the clocks of the hosts differ."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable


class Freshness:
    """At first the stamp on a thing has to be believed, which is of its host's clock. From the first change
    that is seen here, the clock is this process's own.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall, self._steady = wall, steady
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def age(self, thing: Hashable, value: object, stamp: float) -> float:
        """Seconds since `value` changed. stamp: UNIX time at which its host says that it did."""
        now = self._steady()
        if thing not in self._seen:
            self._seen[thing] = (value, now - max(0.0, self._wall() - stamp))
        elif self._seen[thing][0] != value:
            self._seen[thing] = (value, now)
        return now - self._seen[thing][1]

    def time_of(self, age_seconds: float) -> float:
        """UNIX time of something that is so old, by the clock of this host."""
        return self._wall() - age_seconds
