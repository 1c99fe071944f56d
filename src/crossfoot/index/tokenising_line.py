"""What a person sees while data is tokenised, when that takes long: a plain line on stderr now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from crossfoot.output import tell

FIRST_LINE_SECONDS = 2.0
LINE_SECONDS = 5.0


class TokenisingLine:
    """`ensure_index`'s progress: fed with (records done, what counts all of them), silent for the first
    seconds.

    The number of records in all is an estimate for large files, and said as such.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._began_at_records = 0
        self._next = 0.0

    def __call__(self, done: int, count: Callable[[], int | None]) -> None:
        """Say how far the reading is, if it is time to."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._began_at_records = now, done
            self._next = now + FIRST_LINE_SECONDS
        if now < self._next:
            return
        self._next = now + LINE_SECONDS
        speed = (done - self._began_at_records) / (now - self._began)
        total = count()
        line = f"tokenising   {done:,} records"
        if total is not None and total >= done and speed > 0:
            minutes, seconds = divmod(round((total - done) / speed), 60)
            line += f" of about {total:,}   {speed:,.0f} records/s   {minutes:,}:{seconds:02d} left"
        tell(line)
