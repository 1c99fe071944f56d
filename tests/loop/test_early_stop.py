"""A run ends when its validation loss falls no more: also one that was stopped between, and the receipt knows
whether it was right to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from crossfoot.cli import main
from crossfoot.findings.finding import Refused
from crossfoot.runs.validations import VALIDATIONS_FILE, read_validations
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    """The second loss is no better than the first by a whole nat, on samples held out of the data."""
    return room.validated(
        data={"validation": 3},
        lr={"reference": 0.001},
        validation={"every_steps": 1, "patience": 1, "min_improvement": 1.0},
        train={"max_steps": 6},
    )


def test_the_run_ends_where_it_learns_no_more(
    values: dict[str, Any], trains: Callable[..., Watched], capsys: pytest.CaptureFixture[str]
) -> None:
    trains(values, stop_after=1)
    run = trains(values, continues=True)
    assert run.exit_code == 0 and len(run.ledger) == 2
    assert run.paper(2, "ending.json")["reason"] == "patience"
    said = capsys.readouterr().out
    assert "the first 2 of 6 steps: it learned no more" in said and "foots: yes" in said
    assert "3 samples held out for validation, as worked out again from the data index" in said
    assert "as validation.patience 1 says" in said and (run.run_dir / "adapter").is_dir()
    first, second = read_validations(str(run.run_dir))
    assert (first.step, first.attempt, second.step, second.attempt) == (1, 1, 2, 2)
    assert first.samples == 3 and run.paper(2, "plan.lock.json")["plan"]["samples_per_epoch"] == 23
    assert run.judging == math.ceil(first.samples / 4), "the last weights are validated once"
    assert main(["receipt", str(run.run_dir)]) == 0
    with pytest.raises(Refused, match="CF755"):
        trains(values, is_repeated=True)
    (run.run_dir / VALIDATIONS_FILE).unlink()
    assert main(["receipt", str(run.run_dir)]) == 3
    said = capsys.readouterr().out
    assert "not complete: 2 of 6 steps done" in said and "validations.jsonl has no validation after 2" in said
