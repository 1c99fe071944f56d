"""Why a run ends before its last step, and how a signal asks for it."""

from __future__ import annotations

import enum
import signal
import time
from types import FrameType, TracebackType

from crossfoot.liveness.signals import INSISTENT, SignalWatch, restored, taken
from crossfoot.output import tell


class Stop(enum.IntEnum):
    """What a rank asks for between two steps, by urgency. It travels with the step's witness, and all
    ranks obey the largest value at the same step. All but the first two end the run.
    """

    NO = 0
    SAVE = 1
    NO_BETTER = 2
    ORPHANED = 3
    TERMINATED = 4
    INTERRUPTED = 5
    NOT_WRITABLE = 6
    NOT_AS_PLANNED = 7
    NOT_FINITE = 8

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

    SIGINT is a person's; all others that end a process (liveness/signals.py) are a scheduler's, a terminal's,
    a limit's. A launcher passes Ctrl-C on as SIGTERM too, and a scheduler's warning is followed by a SIGTERM,
    so only one that insists stops at once whatever goes on. speaks: whether this rank says what it will do.
    """

    def __init__(self, *, speaks: bool = True) -> None:
        self.reason = Stop.NO
        self.asked_seconds: float | None = None
        """Monotonic clock at the first signal."""
        self._is_training = False
        self._watch = SignalWatch(self._say if speaks else None)
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
        is_first = self.asked_seconds is None
        if is_first:
            self.asked_seconds = time.monotonic()
        self.ask(Stop.INTERRUPTED if number == signal.SIGINT else Stop.TERMINATED)
        if is_first and not self._is_training:
            raise Stopped(self.reason)

    def _say(self, number: int) -> None:
        """At once, however long the main thread stays in a step."""
        if self._is_training:
            again = "; the same again stops it at once" if number in INSISTENT else ""
            what = "this step is finished, a checkpoint is written, and the run stops"
            tell(f"{signal.Signals(number).name}: {what}{again}")

    def __enter__(self) -> StopRequest:
        self._before = taken(self._on_signal)
        self._watch.begin()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._watch.end()
        restored(self._before)
