"""Why a run ends before its last step, and how a signal asks for it."""

from __future__ import annotations

import enum
import os
import signal
import time
from types import FrameType, TracebackType

PATIENT_SECONDS = 1.0
"""One Ctrl-C reaches a rank more than once: from the terminal, and from its launcher."""


class Stop(enum.IntEnum):
    """What a rank asks for between two steps, by urgency. It travels with the step's witness, and all
    ranks obey the largest value at the same step. All but the first two end the run.
    """

    NO = 0
    SAVE = 1
    ORPHANED = 2
    TERMINATED = 3
    INTERRUPTED = 4
    NOT_WRITABLE = 5
    NOT_AS_PLANNED = 6
    NOT_FINITE = 7

    @property
    def ends(self) -> bool:
        """Whether the run ends with this step."""
        return self > Stop.SAVE


class Stopped(KeyboardInterrupt):
    """A signal before the first step. exit_code: 75 where the job may be started again, 130 by hand."""

    def __init__(self, reason: Stop) -> None:
        super().__init__()
        self.exit_code = 130 if reason is Stop.INTERRUPTED else 75


class StopRequest:
    """While steps are trained a signal asks to stop after the step; before, it ends the run at once.

    SIGINT is a person's, SIGTERM and SIGUSR1 a scheduler's (SLURM sends the second before the time limit,
    where `--signal` asks for it). A launcher passes Ctrl-C on as SIGTERM too, and a scheduler's warning is
    followed by a SIGTERM. So only the same signal again, at least a second later, counts as impatience, and
    stops at once whatever goes on; a warning may come as often as it likes.
    """

    def __init__(self) -> None:
        self.reason = Stop.NO
        self.asked_seconds: float | None = None
        """Monotonic clock at the first signal."""
        self._is_training = False
        self._last: dict[int, float] = {}
        self._before: dict[int, object] = {}

    def ask(self, reason: Stop) -> None:
        """Ask for something after the current step; what is more urgent stands."""
        self.reason = max(self.reason, reason)

    def saved(self) -> None:
        """A checkpoint was written: nobody asks for one any more."""
        if self.reason is Stop.SAVE:
            self.reason = Stop.NO

    def begin(self) -> None:
        """From here on steps are trained. Raises Stopped if a library swallowed an earlier one."""
        if self.reason.ends:
            raise Stopped(self.reason)
        self._is_training = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        before = self._last.setdefault(number, now)
        if number != signal.SIGUSR1 and now - before > PATIENT_SECONDS:
            os._exit(128 + number)
        is_first = self.asked_seconds is None
        if is_first:
            self.asked_seconds = now
        self.ask(Stop.INTERRUPTED if number == signal.SIGINT else Stop.TERMINATED)
        if is_first and not self._is_training:
            raise Stopped(self.reason)

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
