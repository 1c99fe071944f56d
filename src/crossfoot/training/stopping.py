"""Why a run ends before its last step, and how a signal asks for it."""

from __future__ import annotations

import enum
import os
import signal
import time
from types import FrameType, TracebackType


class Stop(enum.IntEnum):
    """Reasons to stop, by urgency. A rank's wish travels with its witness; all ranks obey the largest at one
    step.
    """

    NO = 0
    TERMINATED = 1
    INTERRUPTED = 2
    NOT_WRITABLE = 3
    NOT_FINITE = 4


class StopRequest:
    """While steps are trained a signal is a wish to stop after the step; before, it ends the run at once.

    A launcher passes Ctrl-C on as SIGTERM too, so only a second SIGINT, at least a second later, counts as
    impatience, and stops at once whatever goes on.
    """

    def __init__(self) -> None:
        self.reason = Stop.NO
        self._is_training = False
        self._asked = 0.0
        self._before: dict[int, object] = {}

    def ask(self, reason: Stop) -> None:
        """Ask for a stop after the current step."""
        self.reason = max(self.reason, reason)

    def begin(self) -> None:
        """From here on steps are trained. Raises KeyboardInterrupt if a library swallowed an earlier one."""
        if self.reason is not Stop.NO:
            raise KeyboardInterrupt
        self._is_training = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not Stop.NO and time.monotonic() - self._asked > 1:
            os._exit(130)
        is_first = self.reason is Stop.NO
        if is_first:
            self._asked = time.monotonic()
        self.ask(Stop.INTERRUPTED if number == signal.SIGINT else Stop.TERMINATED)
        if is_first and not self._is_training:
            raise KeyboardInterrupt

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
