"""What is noted of validations, and a run that ends for them: training's arithmetic against the receipt's."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.receipts.early_stop import early_stop
from crossfoot.runs.ending import Ending
from crossfoot.runs.validations import (
    VALIDATIONS_FILE,
    Validation,
    append_validation,
    best_of,
    is_out_of_patience,
    read_validations,
)

ONE = Validation(step=2, attempt=1, loss=1.5, next_token_accuracy=0.25, samples=3, trained_tokens=40)


def lock(patience: int | None, least: float = 0.0) -> dict[str, Any]:
    return {"config": {"validation": {"patience": patience, "min_improvement": least}}}


def noted(losses: list[float]) -> list[Validation]:
    """A validation after every second step."""
    return [replace(ONE, step=2 * place, loss=loss) for place, loss in enumerate(losses, start=1)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Twice after the same step: the later one counts. Torn lines and NaN are no trouble."""
    assert read_validations(str(tmp_path)) == ()
    append_validation(str(tmp_path), ONE)
    with open(tmp_path / VALIDATIONS_FILE, "a", encoding="utf-8") as file:
        file.write('{"step": 4, "att')
    append_validation(str(tmp_path), replace(ONE, step=6, loss=math.inf))
    append_validation(str(tmp_path), replace(ONE, attempt=2, loss=1.25))
    first, last = read_validations(str(tmp_path))
    assert first == replace(ONE, attempt=2, loss=1.25) and (last.step, last.loss) == (6, math.inf)
    assert best_of([first, last]) == first and best_of([last]) is None
    lines = (tmp_path / VALIDATIONS_FILE).read_text().splitlines()
    assert json.loads(lines[0])["perplexity"] == pytest.approx(math.exp(1.5))
    assert replace(ONE, loss=1e4).perplexity == math.inf


losses_of_runs = st.lists(st.sampled_from([1.0, 1.1, 1.2, 1.3, 1.35, math.nan, math.inf]), min_size=1)


@given(losses_of_runs, st.integers(1, 4), st.sampled_from([0.0, 0.05, 0.15]))
def test_the_receipt_finds_the_end_where_training_does(
    losses: list[float], patience: int, least: float
) -> None:
    for done in range(1, len(losses) + 1):
        ended = is_out_of_patience(losses[:done], patience, least)
        ending = Ending("patience", 2 * done, 0, 100)
        steps, notes = early_stop(lock(patience, least), ending, noted(losses))
        assert (steps == 2 * done) is ended, notes


@pytest.mark.parametrize(
    ("patience", "losses", "said"),
    [
        (2, [1.0, 1.1, 1.2], None),
        (3, [1.0, 1.1, 1.2], "the last 2 are no better"),
        (2, [1.0, 1.1], "no validation after 6 steps"),
        (None, [1.0, 1.1, 1.2], "its plan has none"),
    ],
)
def test_an_end_that_nobody_bears_out(patience: int | None, losses: list[float], said: str | None) -> None:
    steps, (note,) = early_stop(lock(patience), Ending("patience", 6, 0, 100), noted(losses))
    assert steps == (6 if said is None else None)
    assert (said or "the validation loss was lowest after 2 steps, 1.0000") in note


def test_other_ends_are_no_business_of_it() -> None:
    assert early_stop(lock(1), Ending("finished", 6, 0, 6), noted([1.0, 1.1, 1.2])) == (None, ())
