"""Runs of a study on this machine: one after another, or several at once; each the real command, in a
process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from crossfoot.launch.start import LOOK_SECONDS, Signals
from crossfoot.liveness.living import living
from crossfoot.output import tell
from crossfoot.phrases import counted
from crossfoot.processes import end_with
from crossfoot.shell_words import quoted_path
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
    begun: float


def spawn(command: Sequence[str], environ: Mapping[str, str], log: str) -> subprocess.Popen[bytes]:
    """Start it in a session of its own: Ctrl-C in the terminal comes here only, and from here to it. It is
    asked to end when this process is gone, by kill -9 too. What it says is added to a file.
    """
    with open(log, "ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
            preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),
        )


class Runner:
    """Trains runs. stopped: the signal that ended it, None while none has come."""

    detached = False

    def __init__(self, config: str, machine: Machine, is_over: Callable[[Start, int, float], None]) -> None:
        """is_over: told of each run that has ended, with its exit code and its seconds."""
        self._config, self._machine, self._is_over = config, machine, is_over
        self._signals, self._children = Signals(), list[_Child]()
        self.stopped: int | None = None

    def train(self, starts: Iterable[Start]) -> None:
        """Train all of them; none is begun after a signal. Each is told of a signal, saves and ends."""
        waiting = deque(starts)
        with self._signals:
            while (waiting and self.stopped is None) or self._children:
                if waiting and self.stopped is None and len(self._children) < self._machine.at_once:
                    self._begin(waiting.popleft())
                self._hand_on()
                for child in [one for one in self._children if one.process.poll() is not None]:
                    self._children.remove(child)
                    self._is_over(child.start, child.process.wait(), time.monotonic() - child.begun)
                time.sleep(LOOK_SECONDS)

    def _begin(self, start: Start) -> None:
        self._wait_for_rest(start.run_dir)
        if self.stopped is not None:
            return
        os.makedirs(start.run_dir, exist_ok=True)
        place = min(set(range(self._machine.at_once)) - {child.place for child in self._children})
        command = self._machine.command(self._config, start.words, place)
        process = spawn(command, self._machine.environ(place), os.path.join(start.run_dir, LOG))
        watch = f"crossfoot watch {quoted_path(start.run_dir)}"
        tell(f"{start.run.name} begins: {counted(start.run.steps, 'step')}; {watch}")
        self._children.append(_Child(start, place, process, time.monotonic()))

    def _wait_for_rest(self, run_dir: str) -> None:
        """Ranks that have outlived a study that was killed save and end; that is waited for."""
        said = False
        while self.stopped is None and living(run_dir):
            if not said:
                tell(f"waiting for an earlier attempt in {run_dir} to end ...")
                said = True
            self._hand_on()
            time.sleep(LOOK_SECONDS)

    def _hand_on(self) -> None:
        for number in self._signals.take():
            if self.stopped is None:
                self.stopped = number
                tell("stopping: each run saves a checkpoint and ends ...")
            for child in self._children:
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
