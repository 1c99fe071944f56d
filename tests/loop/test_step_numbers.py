"""All that people read counts steps in one way: every number that a run, its receipt and its pages print is
held against the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from crossfoot.cli import main
from crossfoot.liveness.heartbeats import doing, read_heartbeats
from crossfoot.runs.validations import read_validations
from crossfoot.training import progress
from support.loop_room import Room
from support.watched_run import Watched

from .test_first_step import a_sample_dropped

pytestmark = pytest.mark.xdist_group("loop")

Trains = Callable[..., Watched]
STEPS, BEFORE, FAULT = 6, 3, 4
"""Of the run; done by the first attempt; the index of the one whose sample is dropped, the second of two."""
NUMBER = re.compile(r"\bsteps?[- ](\d+)|\bafter (\d+) steps?\b")
"""Every number of a step, and every count of steps behind `after`."""


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    return room.validated(validation={"every_steps": 2}, train={"max_steps": STEPS})


def checks(run: Watched) -> Mapping[str, Callable[[str, int], bool]]:
    """Pattern of a line -> whether a number in it is right: (line, number) -> bool."""
    lines = {line["step"]: line for line in run.ledger}
    caused = {line["step"] + 1 for line in run.ledger if line["causes"]}

    def is_line(text: str, number: int) -> bool:
        line = lines[number - 1]
        return f"loss {line['loss']:.4f}" in text and f"lr {line['lr']:.3e}" in text

    return {
        r"^step \d+/[36] ": is_line,
        r"does not foot: CF710|CF710 +step": lambda _, number: number in caused,
        r"began with step|from step \d+   1 rank": lambda _, number: number in (1, BEFORE + 1),
        r"from step-|CONTINUING": lambda _, number: number == BEFORE,
        r"checkpoints/step-": lambda _, number: number == STEPS - 1,
        r"validation loss": lambda _, number: number in (2, 4, STEPS),
        r"^  validation|^  checkpoint|checkpoint after|finished after": lambda _, number: number == STEPS,
        r"the adapter after": lambda _, number: number == STEPS - 1,
    }


def wrong(text: str, known: Mapping[str, Callable[[str, int], bool]]) -> list[str]:
    """The lines with a number of a step that is not right, or that no pattern knows."""
    found = []
    for line in text.splitlines():
        for match in NUMBER.finditer(line):
            number = int(match[1] or match[2])
            rules = [rule for pattern, rule in known.items() if re.search(pattern, line)]
            if not any(rule(line, number) for rule in rules):
                found.append(line)
    return found


def test_every_number_of_a_step_is_the_ledgers(
    values: dict[str, Any],
    trains: Trains,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_LINE_SECONDS", 0.0)
    trains(values, stop_after=BEFORE)
    with a_sample_dropped(in_step=FAULT - BEFORE):
        run = trains(values, continues=True)
    assert run.exit_code == 3
    assert [line["step"] for line in run.ledger if line["causes"]] == [FAULT], "files count from 0"
    folder = str(run.run_dir)
    assert main(["receipt", folder]) == 3
    main(["watch", folder, "--once"])
    main(["watch", folder, "--plain"])
    assert main(["export", folder, f"{folder}-out", "--step", str(STEPS - 1)]) == 0
    said = "\n".join(capsys.readouterr())
    assert not wrong(said, checks(run))
    for words in (f"step {FAULT + 1} does not foot", f"step {FAULT + 1}/6", f"CF710  step {FAULT + 1}"):
        assert words in said
    assert f"step 4   validation loss {_validation(run):.4f}" in said
    assert "attempt 2 began with step 4 from step-000003" in said


def _validation(run: Watched) -> float:
    return {one.step: one.loss for one in read_validations(str(run.run_dir))}[4]


def test_a_rank_is_in_the_step_that_the_progress_line_will_name(
    values: dict[str, Any], trains: Trains, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trains(values, stop_after=BEFORE)
    (beat,) = read_heartbeats(run.run_dir)
    assert beat.step == BEFORE - 1, "files count from 0"
    assert f"step {BEFORE}/{BEFORE}" in capsys.readouterr().err
    assert doing("training", beat.step) == f"in step {BEFORE}"
    assert doing("saving", BEFORE) == f"writing a checkpoint after {BEFORE} steps"
