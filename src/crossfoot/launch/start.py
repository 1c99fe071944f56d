"""Starts what was rendered on this machine, hands signals on to the ranks, and says how the run ended."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from types import FrameType, TracebackType

from crossfoot.launch.job import Job, Rendered
from crossfoot.launch.outcome import Outcome, outcome_of, wait_for_word
from crossfoot.launch.ranks_here import (
    MARK_VARIABLE,
    is_started_by,
    living,
    rank_processes,
    ranks_elsewhere,
    signal_over_ssh,
    signal_ranks,
)
from crossfoot.liveness.signals import INSISTENT, restored, taken
from crossfoot.output import tell
from crossfoot.processes import state_of, this_machine
from crossfoot.runs.attempts import attempt_numbers

LOOK_SECONDS = 0.2
LINGER_SECONDS = 120.0
"""A launcher may be gone before its ranks, which then notice it, save and end."""
_INSISTS = 3


def start(rendered: Rendered, job: Job) -> Outcome:
    """Start it and wait. A signal goes to the ranks, on other machines too; they save and end, and the
    launcher with them.
    """
    before, mark = attempt_numbers(job.run_dir), secrets.token_hex(16)
    environ = {**os.environ, MARK_VARIABLE: mark}
    with Signals() as signals:
        # a session of its own: Ctrl-C in the terminal comes here only, and from here to the ranks
        with subprocess.Popen(
            rendered.command, stdin=subprocess.DEVNULL, start_new_session=True, env=environ
        ) as child:
            while child.poll() is None:
                for number in signals.take():
                    hand_on(number, child.pid, job, before, mark)
                    if signals.is_insisted(number):
                        end_all(child.pid)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK_SECONDS)
            if child.returncode < 0 and job.reaches_over_ssh:
                _end_ranks_elsewhere(job, before, mark)
        _let_ranks_end(job, before, signals, mark)
    return outcome_of(job.run_dir, before, child.returncode, signals.first, f"{job.options.target} launcher")


class Signals:
    """While it is open, signals are kept and not obeyed. first: the number of the first one."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._waiting: list[int] = []
        self._counts: Counter[int] = Counter()
        self._before: dict[int, object] = {}

    def take(self) -> list[int]:
        """Those that came since the last call."""
        taken, self._waiting = self._waiting, []
        return taken

    def is_insisted(self, number: int) -> bool:
        """Whether it came for the third time. A scheduler's warning may come as often as it likes."""
        return number in INSISTENT and self._counts[number] >= _INSISTS

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self.first = number if self.first is None else self.first
        self._counts[number] += 1
        self._waiting.append(number)

    def __enter__(self) -> Signals:
        self._before = taken(self._keep)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        restored(self._before)


def hand_on(number: int, launcher: int, job: Job, before: list[int], mark: str) -> None:
    """Give a signal to the ranks; where none can be found, end the launcher and all that it has started."""
    if signal_ranks(rank_processes(launcher), number):
        return
    if job.reaches_over_ssh:
        ranks = ranks_elsewhere(job.run_dir, before)
        if signal_over_ssh(ranks, signal.Signals(number).name.removeprefix("SIG"), mark):
            return
    with suppress(ProcessLookupError):
        os.killpg(launcher, signal.SIGTERM)


def _end_ranks_elsewhere(job: Job, before: list[int], mark: str) -> None:
    """The launcher was killed. What it has started on other machines would train on, and nobody would hear of
    it: ask the ranks to save and end, and wait for them a while.
    """
    ranks = ranks_elsewhere(job.run_dir, before)
    if not ranks:
        return
    tell("the launcher was killed; its ranks are asked to save and end ...")
    signal_over_ssh(ranks, "TERM", mark)
    deadline = time.monotonic() + LINGER_SECONDS
    while living(job.run_dir, before) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def end_all(launcher: int) -> None:
    """Kill the launcher and its ranks on this machine."""
    signal_ranks(rank_processes(launcher), signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(launcher, signal.SIGKILL)


def _let_ranks_end(job: Job, before: list[int], signals: Signals, mark: str) -> None:
    """Wait for ranks that have outlived their launcher, and for the word of rank 0 when it is on another
    machine; not for ever.
    """
    deadline, said = time.monotonic() + LINGER_SECONDS, False
    while left := _ranks_left(job.run_dir, before, mark):
        if time.monotonic() > deadline:
            return
        if not said:
            tell("the launcher is gone; waiting for its ranks to end ...")
            said = True
        for number in signals.take():
            signal_ranks(left, number)
        time.sleep(LOOK_SECONDS)
    if job.num_nodes > 1:
        wait_for_word(job.run_dir, before)


def _ranks_left(run_dir: str, before: list[int], mark: str) -> list[int]:
    """Ranks of the new attempt that still run on this machine, and that this launch has started."""
    here = this_machine()
    mine = [beat.pid for beat in living(run_dir, before) if here and beat.machine == here]
    return [pid for pid in mine if state_of(pid) == "running" and is_started_by(pid, mark)]
