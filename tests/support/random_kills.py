"""Kill a run at random instants, continue it, and hold the outcome against the run that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
from safetensors.torch import load_file

from crossfoot.launch.ranks_here import is_rank
from crossfoot.processes import state_of, words_of
from support.launching import ROOT, SCRIPTS, environment, free_port, ledger
from support.steering import Steering, until

MARK = "CROSSFOOT_TEST_FAMILY"
GONE_SECONDS = 240.0
INSTANTS = {
    "launching": ("launching", 6.0),
    "loading": ("loading", 4.0),
    "step": ("step", 0.3),
    "saving": ("saving", 0.03),
    "saved": ("commit", 0.01),
}
"""Moment -> where ranks are held for it, and within how many seconds from there they are killed. Nobody is
held at launching: it begins with the command.
"""
MOMENTS = {"launching": 1, "loading": 1, "step": 5, "saving": 4, "saved": 3}
TRAINING = {"step": 2, "saving": 1, "saved": 1}
LEFT_STEPS = 6
"""Of a run, where every attempt but the last is killed. Orphans train two steps more, and save."""


@dataclass(frozen=True)
class Leg:
    """How one attempt is started: `ranks` under a launcher, or None: one plain process."""

    ranks: int | None = 2
    words: tuple[str, ...] = ()
    launcher: str = "deepspeed"

    def command(self, config: Path, words: Sequence[str]) -> list[str]:
        """The whole command line."""
        port, number = str(free_port()), str(self.ranks)
        head = [sys.executable, "-m"]
        if self.ranks is not None and self.launcher == "deepspeed":
            head = [str(SCRIPTS / "deepspeed"), "--num_gpus", number, "--master_port", port, "--module"]
        elif self.ranks is not None:
            head = [str(SCRIPTS / "torchrun"), "--nproc-per-node", number, "--master-port", port, "-m"]
        return [*head, "crossfoot", "train", str(config), *self.words, *words]


@dataclass
class Torment:
    """What was done to a run. killed: (moment, victim)."""

    config: Path
    run_dir: Path
    killed: list[tuple[str, str]] = field(default_factory=list)
    output: str = ""

    @cached_property
    def steering(self) -> Steering:
        """Holds its ranks."""
        return Steering(self.run_dir.with_name(f"steering-{self.run_dir.name}"))


def train(leg: Leg, config: Path, run_dir: Path) -> None:
    """Train undisturbed to the end."""
    attempt(Torment(config, run_dir), leg, None)


def attempt(torment: Torment, leg: Leg, killer: Killer | None) -> None:
    """One attempt, killed by the killer where there is one. Nothing of it is alive afterwards."""
    is_begun = (torment.run_dir / "attempt-001").exists()
    words = ["--continue", str(torment.run_dir)] if is_begun else [f"run.dir={torment.run_dir}"]
    mark = uuid.uuid4().hex
    torment.steering.release()
    if killer is not None:
        killer.prepare(leg)
    log = torment.run_dir.parent / f"log-{mark[:8]}.txt"
    with log.open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            leg.command(torment.config, words),
            cwd=ROOT,
            env=environment(**{MARK: mark}, **torment.steering.variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        done = None
        try:
            done = killer(process, mark, log) if killer is not None else None
            process.wait(timeout=600)
            if done is not None:
                torment.killed.append(done)
            wait_until_gone(mark)
        finally:
            for pid in family(mark):
                kill(pid)
        output.seek(0)
        torment.output = output.read()
    assert done is not None or process.returncode == 0, torment.output


class Killer:
    """Kills an attempt at an instant and with a victim chosen by chance, the same for the same seed.

    Near the instant the ranks are held, let go, and left to themselves for a random while: on a machine of
    any speed the kill falls somewhere into what was meant. Before the last steps of the run they are held in
    any case, and killed there: no attempt outlives its killer.
    """

    def __init__(self, torment: Torment, steps: int, seed: int, moments: Mapping[str, int] = MOMENTS) -> None:
        self._torment, self._moments, self._last = torment, moments, steps - LEFT_STEPS
        self._draw = random.Random(seed)

    def prepare(self, leg: Leg) -> None:
        """Before the attempt is started: choose, and hold its ranks there."""
        draw, steering = self._draw, self._torment.steering
        self._moment = draw.choices([*self._moments], [*self._moments.values()])[0]
        self._victim = draw.choices(["all", "a rank", "the launcher"], [3, 1, 1])[0]
        self._ranks, self._later, more = leg.ranks or 1, draw.random(), draw.randint(1, 4)
        place, self._seconds = INSTANTS[self._moment]
        number = min(self._done() + more, self._last) if place == "step" else 0
        self._end = steering.hold("step", self._last)
        self._instant = self._end if number == self._last else steering.hold(place, number)

    def __call__(self, process: subprocess.Popen[str], mark: str, log: Path) -> tuple[str, str]:
        """Wait for the instant, then kill; (moment, victim)."""
        if self._moment == "launching":
            time.sleep(self._seconds * self._later)
            return self._moment, self._kill(mark, "all")
        until(self._is_there, process, lambda: f"no {self._moment}\n{log.read_text()[-3000:]}")
        if len(self._end.ranks()) == self._ranks:
            return "the end", self._kill(mark, "all")
        self._instant.go()
        time.sleep(self._seconds * self._later)
        return self._moment, self._kill(mark, self._victim)

    def _is_there(self) -> bool:
        enough = 1 if self._moment == "saved" else self._ranks
        return len(self._instant.ranks()) == enough or len(self._end.ranks()) == self._ranks

    def _kill(self, mark: str, victim: str) -> str:
        alive = family(mark)
        ranks = [pid for pid in alive if is_rank(words_of(pid))]
        launchers = set(alive) - set(ranks)
        if victim == "a rank" and ranks:
            kill(self._draw.choice(ranks))
        elif victim == "the launcher" and ranks and launchers:
            self._torment.steering.hold("step")  # its ranks train on until they notice, but not far
            for pid in launchers:
                kill(pid)
        else:
            victim = "all"
            while alive:
                for pid in alive:
                    kill(pid)
                alive = family(mark)
        return victim

    def _done(self) -> int:
        """The steps that the ledger has lines of; an attempt begins there, or somewhat before."""
        path = self._torment.run_dir / "ledger.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # the last one may be torn
        return 1 + max((json.loads(line)["step"] for line in lines), default=-1)


def family(mark: str) -> list[int]:
    """Every living process that was started with this mark in its surroundings."""
    found = []
    for pid in psutil.pids():
        with suppress(psutil.Error):
            if psutil.Process(pid).environ().get(MARK) == mark and state_of(pid) != "gone":
                found.append(pid)
    return found


def kill(pid: int) -> None:
    """kill -9, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_until_gone(mark: str) -> None:
    """Nothing that was started may outlive its attempt by more than a while."""
    deadline = time.monotonic() + GONE_SECONDS
    while alive := family(mark):
        assert time.monotonic() < deadline, f"orphans: {alive}"
        time.sleep(0.1)


def counted_losses(run_dir: Path) -> dict[int, float]:
    """Step -> loss of the last line that was written for it."""
    return {line["step"]: line["loss"] for line in ledger(run_dir)}


def assert_same_tensors(folder: Path, other: Path) -> None:
    """Every tensor of two folders of safetensors files, bit by bit."""
    mine, others = ({} for _ in range(2))
    for tensors, place in ((mine, folder), (others, other)):
        for file in sorted(place.glob("*.safetensors")):
            tensors.update(load_file(file))
    assert mine and mine.keys() == others.keys()
    for name, tensor in mine.items():
        assert tensor.equal(others[name]), name
