"""The pages of docs/ about clusters, followed as they stand: every command typed, every line held against
what comes.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.lab import HEAD, Lab, lab_of
from support.launching import ROOT, SCRIPTS
from support.pages import HOME, Command, Console, follow_page, read_page
from support.slurm_lab import slurm_of
from support.steering import Hold, Steering, wait_until_held

pytestmark = [pytest.mark.distributed, pytest.mark.cluster, pytest.mark.slow]

IN_TIME = 420.0
CHECKOUT = ("configs", "data", "ds_configs", "launch", "train.py")
RANKS = 2
"""Of the runs that a page does something to."""
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
        steering = Steering(tmp_path / "steering")
        lab.environ |= steering.variables
        path = ROOT / "docs" / f"{page}.md"
        follow_page(path, checkout, Typist(lab, checkout, tmp_path, steering, path))


class Typist:
    """Types the commands of a page on the machines of a lab. checkout: where. said: folder for what comes.

    What a page does to a run in step N is done to ranks that wait there, from the command that starts this
    run until the block that does it has been typed.
    """

    def __init__(self, lab: Lab, checkout: Path, said: Path, steering: Steering, page: Path) -> None:
        self._lab, self._checkout, self._said = lab, checkout, said
        blocks = [
            block for block in read_page(page.read_text(encoding="utf-8")) if isinstance(block, Console)
        ]
        directions = [one for block in blocks for one in block.directions]
        runs = {one["run"] or one["at_run"]: one["step"] or one["at_step"] for one in directions}
        self._steps = {run: int(step) for run, step in runs.items() if run}
        self._steering = steering
        self._holds: dict[str, Hold] = {}

    def __call__(self, block: Console) -> dict[Command, tuple[int, str]]:
        before = [one for one in block.directions if not one["at_step"]]
        for direction in before:
            if direction["step"]:
                wait_until_held(self._holds[direction["run"]], RANKS)
            elif direction["verb"]:
                self._pull(direction)
        if block.together or len(before) < len(block.directions):
            return self._at_once(block)
        came = {command: self._typed(command) for command in block.commands}
        for direction in before:
            if direction["step"]:
                self._holds[direction["run"]].go()
        return came

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
                hold = self._holds[direction["at_run"]]
                wait_until_held(hold, RANKS, said=lambda: "\n".join(map(_text_of, said.values())))
                self._pull(direction)
                hold.go()
        return {
            command: (process.wait(IN_TIME), _text_of(said[command])) for command, process in started.items()
        }

    def _words(self, command: Command) -> list[str]:
        """A shell of the machine's own goes there: a folder entered from outside is of another disk."""
        for run, step in self._steps.items():
            if f"run.dir={run} " in f"{command.words} ":
                self._holds[run] = self._steering.hold("step", step)
        return ["bash", "-c", f'cd "{self._checkout}" && {command.words}']

    def _pull(self, direction: re.Match[str]) -> None:
        (self._lab.cut if direction["verb"] == "cut" else self._lab.mend)(direction["node"])


def _text_of(file: Path) -> str:
    return file.read_text(errors="replace")


def _machine(command: Command) -> str:
    return HEAD if command.machine == HOME else command.machine
