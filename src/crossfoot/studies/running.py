"""Runs of a study on this machine: one after another, or several at once; each the real command, in a
process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from crossfoot.launch.start import LOOK_SECONDS, Signals
from crossfoot.liveness.living import living
from crossfoot.output import tell
from crossfoot.processes import end_with
from crossfoot.studies.design import RunDesign
from crossfoot.studies.machine import Machine

LOG = "study.log"
"""In the folder of a run: what it said, over all attempts."""


@dataclass(frozen=True)
class Start:
    """A run that is to be trained. words: all its overrides."""

    run: RunDesign
    run_dir: str
    words: tuple[str, ...]


@dataclass
class _Child:
    start: Start
    place: int
    process: subprocess.Popen[bytes]


class Runner:
    """Trains runs. stopped: the signal that ended it, None while none has come."""

    def __init__(self, config: str, machine: Machine, is_over: Callable[[Start, int, float], None]) -> None:
        """is_over: told of each run that has ended, with its exit code and its seconds."""
        self._config, self._machine, self._is_over = config, machine, is_over
        self._signals = Signals()
        self.stopped: int | None = None

    def train(self, starts: Iterable[Start]) -> None:
        """Train all of them; none is begun after a signal. Each is told of a signal, saves and ends."""
        waiting, children = deque(starts), list[tuple[_Child, float]]()
        with self._signals:
            while (waiting and self.stopped is None) or children:
                while waiting and self.stopped is None and len(children) < self._machine.at_once:
                    place = min(set(range(self._machine.at_once)) - {one.place for one, _ in children})
                    children.append((self._begin(waiting.popleft(), place), time.monotonic()))
                self._hand_on([child for child, _ in children])
                for child, begun in list(children):
                    if (code := child.process.poll()) is not None:
                        children.remove((child, begun))
                        self._is_over(child.start, code, time.monotonic() - begun)
                time.sleep(LOOK_SECONDS)

    def _begin(self, start: Start, place: int) -> _Child:
        self._wait_for_rest(start.run_dir)
        os.makedirs(start.run_dir, exist_ok=True)
        with open(os.path.join(start.run_dir, LOG), "ab") as log:
            process = subprocess.Popen(
                self._machine.command(self._config, start.words, place),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._machine.environ(place),
                start_new_session=True,  # Ctrl-C in the terminal comes here only, and from here to it
                preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),
            )
        return _Child(start, place, process)

    def _wait_for_rest(self, run_dir: str) -> None:
        """Ranks that have outlived a study that was killed save and end; that is waited for."""
        said = False
        while living(run_dir) and self.stopped is None:
            if not said:
                tell(f"waiting for an earlier attempt in {run_dir} to end ...")
                said = True
            self._hand_on([])
            time.sleep(LOOK_SECONDS)

    def _hand_on(self, children: Sequence[_Child]) -> None:
        for number in self._signals.take():
            if self.stopped is None:
                self.stopped = number
                tell("stopping: each run saves a checkpoint and ends ..." if children else "stopping ...")
            for child in children:
                with suppress(ProcessLookupError):
                    if self._signals.is_insisted(number):
                        os.killpg(child.process.pid, signal.SIGKILL)
                    else:
                        child.process.send_signal(number)


def tail_of(path: str, lines: int = 40) -> str:
    """The end of what a run said: from its last finding on, where there is one."""
    try:
        with open(path, "rb") as file:
            said = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    last = said[-lines:]
    begins = [place for place, line in enumerate(last) if line.startswith("error[")]
    return "\n".join(last[begins[0] if begins else max(0, len(last) - 10) :])
