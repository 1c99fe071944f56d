"""Kill a run at random instants, continue it, and hold the outcome against the run that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from safetensors.torch import load_file

from crossfoot.launching.ranks_here import is_rank
from crossfoot.processes import state_of, words_of
from support.launching import ROOT, SCRIPTS, environment, free_port, ledger

MARK = "CROSSFOOT_TEST_FAMILY"
LOOK_SECONDS = 0.002
GONE_SECONDS = 90.0
MOMENTS = {"start": 1, "step": 4, "saving": 3, "saved": 2}
TRAINING = {"step": 2, "saving": 1, "saved": 1}


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
    """What was done to a run. killed: (moment, victim, step lines at that instant)."""

    config: Path
    run_dir: Path
    killed: list[tuple[str, str, int]] = field(default_factory=list)
    output: str = ""
    exit_code: int = -1


def train(leg: Leg, config: Path, run_dir: Path) -> None:
    """Train undisturbed to the end."""
    attempt(Torment(config, run_dir), leg, None)


def attempt(
    torment: Torment,
    leg: Leg,
    disturb: Callable[[subprocess.Popen[str], str], tuple[str, str] | None] | None,
) -> None:
    """One attempt, killed by `disturb` (None: nobody kills it). Nothing of it is alive afterwards."""
    is_begun = (torment.run_dir / "attempt-001").exists()
    words = ["--continue", str(torment.run_dir)] if is_begun else [f"run.dir={torment.run_dir}"]
    mark = uuid.uuid4().hex
    log = torment.run_dir.parent / f"log-{mark[:8]}.txt"
    with log.open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            leg.command(torment.config, words),
            cwd=ROOT,
            env=environment(**{MARK: mark}),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        done = None
        try:
            done = disturb(process, mark) if disturb is not None else None
            process.wait(timeout=600)
            if done is not None:
                lines = len(ledger(torment.run_dir)) if (torment.run_dir / "ledger.jsonl").exists() else 0
                torment.killed.append((*done, lines))
            wait_until_gone(mark)
        finally:
            for pid in family(mark):
                kill(pid)
        output.seek(0)
        torment.output, torment.exit_code = output.read(), process.returncode
    assert done is not None or process.returncode == 0, torment.output


class Killer:
    """Chooses an instant and a victim by chance, the same for the same seed. moments: with their weights."""

    def __init__(self, run_dir: Path, seed: int, moments: Mapping[str, int] = MOMENTS) -> None:
        self._run_dir = run_dir
        self._moments = moments
        self._draw = random.Random(seed)

    def __call__(self, process: subprocess.Popen[str], mark: str) -> tuple[str, str] | None:
        """Wait for the instant, then kill; (moment, victim), or None when the run ended before it."""
        draw = self._draw
        moment = draw.choices([*self._moments], [*self._moments.values()])[0]
        victim = draw.choices(["all", "a rank", "the launcher"], [3, 1, 1])[0]
        steps, later = draw.randint(1, 4), draw.random()
        before = self._lines()
        checkpoints = self._folders("step-*")
        if moment == "start":
            time.sleep(0.5 + 7.0 * later)
        else:
            while process.poll() is None:
                if moment == "step" and self._lines() >= before + steps:
                    time.sleep(0.3 * later)
                    break
                if moment == "saving" and self._folders(".partial-*"):
                    time.sleep(0.03 * later)
                    break
                if moment == "saved" and self._folders("step-*") - checkpoints:
                    time.sleep(0.01 * later)
                    break
                time.sleep(LOOK_SECONDS)
        if process.poll() is not None:
            return None
        self._kill(process, mark, victim)
        return moment, victim

    def _kill(self, process: subprocess.Popen[str], mark: str, victim: str) -> None:
        alive = family(mark)
        ranks = [pid for pid in alive if is_rank(words_of(pid))]
        if victim == "a rank" and ranks:
            kill(self._draw.choice(ranks))
        elif victim == "the launcher" and ranks:
            for pid in set(alive) - set(ranks):
                kill(pid)
        else:
            while alive:
                for pid in alive:
                    kill(pid)
                alive = family(mark)

    def _lines(self) -> int:
        path = self._run_dir / "ledger.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def _folders(self, pattern: str) -> set[str]:
        return {path.name for path in (self._run_dir / "checkpoints").glob(pattern)}


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
