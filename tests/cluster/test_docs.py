"""The pages of docs/ about clusters, followed as they stand: every command typed, every line held against
what comes.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crossfoot.heartbeats import read_heartbeats
from support.lab import HEAD, Lab, lab_of, wait_for
from support.launching import ROOT, SCRIPTS
from support.pages import HOME, Command, Console, follow_page
from support.slurm_lab import slurm_of

pytestmark = [pytest.mark.distributed, pytest.mark.cluster, pytest.mark.slow]

IN_TIME = 420.0
CHECKOUT = ("configs", "data", "ds_configs", "launch", "train.py")
LABS = {"slurm": slurm_of, "hostfile": lab_of, "by-hand": lab_of}


@pytest.mark.parametrize("page", LABS)
def test_a_page_is_true_from_its_first_command_to_its_last(tmp_path: Path, page: str) -> None:
    checkout, bin_folder = tmp_path / "crossfoot", tmp_path / "bin"
    for folder in (checkout, bin_folder):
        folder.mkdir()
    for name in CHECKOUT:
        (checkout / name).symlink_to(ROOT / name)
    command = bin_folder / "crossfoot"
    command.write_text(f'#!/bin/sh\nexec {SCRIPTS / "python"} -m crossfoot "$@"\n')
    command.chmod(0o755)
    with LABS[page](tmp_path / "lab") as lab:
        lab.environ["PATH"] = f"{bin_folder}:{lab.environ['PATH']}"
        del lab.environ["ACCELERATE_USE_CPU"]  # the pages do not set it
        follow_page(ROOT / "docs" / f"{page}.md", checkout, Typist(lab, checkout, tmp_path))


class Typist:
    """Types the commands of a page on the machines of a lab. checkout: where. said: folder for what comes."""

    def __init__(self, lab: Lab, checkout: Path, said: Path) -> None:
        self._lab, self._checkout, self._said = lab, checkout, said

    def __call__(self, block: Console) -> dict[Command, tuple[int, str]]:
        before = [one for one in block.directions if not one["at_step"]]
        for direction in before:
            if direction["step"]:
                self._until(direction["run"], int(direction["step"]))
            elif direction["verb"]:
                self._pull(direction)
        if block.together or len(before) < len(block.directions):
            return self._at_once(block)
        return {command: self._typed(command) for command in block.commands}

    def _typed(self, command: Command) -> tuple[int, str]:
        done = self._lab.run(_machine(command), *self._words(command), timeout=IN_TIME)
        return done.returncode, done.stdout

    def _at_once(self, block: Console) -> dict[Command, tuple[int, str]]:
        said = {command: self._said / f"line-{command.line}.txt" for command in block.commands}
        started = {
            command: self._lab.popen(_machine(command), *self._words(command), said=file)
            for command, file in said.items()
        }
        for direction in block.directions:
            if direction["at_step"]:
                self._until(direction["at_run"], int(direction["at_step"]), *said.values())
                self._pull(direction)
        return {
            command: (process.wait(IN_TIME), said[command].read_text(errors="replace"))
            for command, process in started.items()
        }

    def _words(self, command: Command) -> list[str]:
        """A shell of the machine's own goes there: a folder entered from outside is of another disk."""
        return ["bash", "-c", f'cd "{self._checkout}" && {command.words}']

    def _until(self, run: str, step: int, *said: Path) -> None:
        def has_come() -> bool:
            return any(beat.step >= step for beat in read_heartbeats(self._checkout / run))

        wait_for(has_come, IN_TIME, lambda: "\n".join(file.read_text(errors="replace") for file in said))

    def _pull(self, direction: re.Match[str]) -> None:
        (self._lab.cut if direction["verb"] == "cut" else self._lab.mend)(direction["node"])


def _machine(command: Command) -> str:
    return HEAD if command.machine == HOME else command.machine
