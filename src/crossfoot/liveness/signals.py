"""The signals that end a process, taken as requests; and a thread that hears them while the main one cannot.

Python runs a handler between two instructions of the main thread, which may be for minutes in one forward or
collective of torch's. A byte in a pipe comes at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType

from crossfoot.environment.ending_signals import ENDING, TIMERS

INSISTENT = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Sent again they mean: now. The others are warnings, which may come as often as they like."""
PATIENT_SECONDS = 1.0
"""One Ctrl-C reaches a rank more than once: from the terminal, and from its launcher."""
_SHELLS_OWN = (signal.SIGINT, signal.SIGQUIT)
"""A script's shell lets all that it starts with `&` ignore these: that says nothing about what is wanted."""

Handler = Callable[[int, FrameType | None], None]


def taken(handler: Handler) -> dict[int, object]:
    """Handle every signal that ends a process; returns what was there before. One that whoever started this
    process lets it ignore (nohup, `trap '' HUP`) stays ignored. On the main thread only.
    """
    before: dict[int, object] = {}
    for number in ENDING:
        found = signal.getsignal(number)
        is_kept = number not in _SHELLS_OWN and found is signal.SIG_IGN
        if not is_kept and not (number.name in TIMERS and callable(found)):
            before[number] = signal.signal(number, handler)
    return before


def restored(before: Mapping[int, object]) -> None:
    """Put back what `taken` returned."""
    for number, handler in before.items():
        signal.signal(number, handler)  # type: ignore[arg-type]


class SignalWatch:
    """A thread that hears of every signal with a handler at once. It ends the process when one of the
    insistent ones comes again, at least a second later. on_first: called in it, with the first of all.
    """

    def __init__(self, on_first: Callable[[int], None] | None = None) -> None:
        self._on_first = on_first
        self._first: dict[int, float] = {}
        self._before = self._read = self._write = -1
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)

    def begin(self) -> None:
        """On the main thread."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread.start()

    def end(self) -> None:
        """On the main thread."""
        signal.set_wakeup_fd(self._before)
        os.close(self._write)
        self._thread.join(PATIENT_SECONDS)

    def _listen(self) -> None:
        with suppress(OSError):
            while heard := os.read(self._read, 64):
                for number in heard:
                    self.hear(number)
        os.close(self._read)

    def hear(self, number: int) -> None:
        """What the thread does with one."""
        now = time.monotonic()
        is_first = not self._first
        if number in INSISTENT and now - self._first.setdefault(number, now) > PATIENT_SECONDS:
            os._exit(128 + number)
        if is_first and number in ENDING:
            self._first.setdefault(number, now)
            if self._on_first is not None:
                self._on_first(number)
