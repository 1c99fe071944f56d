"""Runs that wait at named places until the test lets them go. A test that is steered races nothing: it waits
until the ranks stand, does what it has to do to them, and lets them go.

The product knows nothing of it. A folder on PYTHONPATH, which every launcher hands on, holds a
`sitecustomize.py`; it stops the ranks (support/held_rank.py). Places, each with a number:

    step N         before step N, which is after N steps
    validating N   before a validation after N steps
    saving N       before a checkpoint after N steps
    commit 0       rank 0 alone: all files of a checkpoint are written, and it has no name yet
    loading 0      torch is imported, ranks have not met in it, no weight is loaded
    closing 0      after the last step, before the last checkpoint and the adapter
    meeting 0      before ranks look for each other
    import.X 0     before the module X is imported, when the rank's heart beats

A rank is held at the first place at or after the number. It is let go by the test, or by being asked to stop
(a signal, a launcher that is gone): then only this rank goes on, so that a wish that does not reach all of
them shows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from crossfoot.liveness.processes import state_of
from support.launching import PYTHON_PATH

PATIENCE_SECONDS = 600.0
_LOOK_SECONDS = 0.01
_SITE = """\
from support.held_rank import begin

begin({folder!r})
"""


@dataclass(frozen=True)
class Hold:
    """A place at which ranks are held."""

    folder: Path

    def ranks(self) -> dict[int, int]:
        """The ranks that have come, and their processes as they number themselves."""
        found = (path.name.split("-") for path in self.folder.glob("rank-*"))
        return {int(rank): int(pid) for _, rank, pid in found}

    def processes(self) -> list[int]:
        """The processes that have come, where two may say that they are one rank."""
        return [int(path.name.split("-")[2]) for path in self.folder.glob("rank-*")]

    def asked(self) -> set[int]:
        """The ranks that were asked to stop while they were held, and have gone on."""
        return {int(path.name.removeprefix("asked-")) for path in self.folder.glob("asked-*")}

    def go(self) -> None:
        """Let them go; who comes later is not held."""
        (self.folder / "go").touch()


class Steering:
    """Holds runs that are started with `variables` around them. folder: on a disk that all ranks see."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        (folder / "sitecustomize.py").write_text(_SITE.format(folder=str(folder)), encoding="utf-8")

    @property
    def variables(self) -> dict[str, str]:
        """For the surroundings of what is started."""
        return {"PYTHONPATH": os.pathsep.join([str(self._folder), PYTHON_PATH])}

    def hold(self, place: str, number: int = 0) -> Hold:
        """From now on ranks are held there. Not those that were let go from here before: see `Hold`."""
        folder = self._folder / f"{place}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return Hold(folder)

    def release(self) -> None:
        """Let go of all, everywhere."""
        for folder in self._folder.glob("*-*"):
            Hold(folder).go()


def wait_until_held(
    hold: Hold, ranks: int, process: subprocess.Popen | None = None, said: Callable[[], str] = lambda: ""
) -> dict[int, int]:
    """Wait until so many ranks stand there; their processes. AssertionError when `process` ends before."""
    until(
        lambda: len(hold.ranks()) == ranks, process, lambda: f"only {hold.ranks()} at {hold.folder}\n{said()}"
    )
    return hold.ranks()


def wait_until_asked(hold: Hold, ranks: Iterable[int], said: Callable[[], str] = lambda: "") -> None:
    """Wait until these ranks, which are held there, were asked to stop."""
    wanted = set(ranks)
    until(lambda: hold.asked() >= wanted, None, lambda: f"only {hold.asked()} were asked\n{said()}")


def until_gone(pids: Iterable[int]) -> None:
    """Wait until processes of this machine are gone."""
    alive = list(pids)
    until(lambda: all(state_of(pid) == "gone" for pid in alive), None, lambda: f"of {alive} some live")


def until(
    is_so: Callable[[], bool],
    process: subprocess.Popen | None = None,
    story: Callable[[], str] = lambda: "",
) -> None:
    """Wait until something is so. AssertionError with the story when it takes too long, or `process` ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        has_ended = process is not None and process.poll() is not None
        if has_ended and is_so():
            return
        assert not has_ended, f"ended with {process.returncode} before it\n{story()}"
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s\n{story()}"
        time.sleep(_LOOK_SECONDS)
