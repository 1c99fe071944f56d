"""A receipt does not foot over a run that trained nothing, nor over a number that is none."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from crossfoot.ledger.entry import NotFinite, StepEntry
from crossfoot.receipts.receipt import make_receipt
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.ending import Ending
from ledger_cases import Data, sealed

STEPS = 3
FINISHED = Ending("finished", STEPS, 0, STEPS)


def lines(trained: int = 50) -> list[StepEntry]:
    """Of an undisturbed run of samples that have so many trained tokens each."""
    data = Data(list(range(STEPS)), [100 + i for i in range(STEPS)], [trained] * STEPS)
    reconciler = data.reconciler(1)
    plans = [data.plan(step, [[[step]]], lr=1e-5 * (step + 1)) for step in range(STEPS)]
    return [reconciler.step(plan, data.obey(plan)) for plan in plans]


def receipt(
    entries: list[StepEntry], ending: Ending = FINISHED, trained: int = 50, nonfinite: str = "stop"
) -> Receipt:
    expects = {"total_steps": STEPS, "samples": STEPS, "distinct_samples": STEPS, "forwards": STEPS}
    sums = {"real_tokens": 303, "trained_tokens": STEPS * trained}
    lock = sealed({**expects, **sums}, config={"faults": {"nonfinite": nonfinite, "overflow": "retry"}})
    return make_receipt(lock, entries, ending)


def told(found: Receipt) -> list[tuple[int, str, str]]:
    assert found.foots == found.foots_so_far == (not found.causes) and found.complete
    return [(cause.step, cause.code, cause.message) for cause in found.causes]


def silent(entry: StepEntry, **change: object) -> StepEntry:
    """The line as a program writes it that sees no fault in it."""
    return replace(entry, causes=(), cause_count=0, **change)  # type: ignore[arg-type]


def test_an_undisturbed_run_foots() -> None:
    assert told(receipt(lines())) == []


def test_steps_without_a_target_are_named_in_their_lines() -> None:
    what = "no token of the step's samples is a target"
    assert told(receipt(lines(0), trained=0)) == [(step, "CF780", what) for step in range(STEPS)]


def test_and_where_their_lines_are_silent() -> None:
    entries = [silent(entry) for entry in lines(0)]
    assert [math.isnan(entry.loss) for entry in entries] == [True] * STEPS
    assert told(receipt(entries, trained=0)) == [
        (step, "CF780", "the step trained no token") for step in range(STEPS)
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"loss": math.nan},
        {"loss": -math.inf},
        {"grad_norm": math.nan},
        {"grad_norm": math.inf},
        {"not_finite": (NotFinite("loss", math.nan, 0, 0),)},
    ],
)
def test_a_number_that_is_none_in_a_silent_line(change: dict[str, object]) -> None:
    first, second, last = lines()
    ((step, code, message),) = told(receipt([first, silent(second, **change), last]))
    assert (step, code) == (1, "CF723") and message.endswith("and no cause is named")


def test_a_step_that_was_skipped_on_purpose_may_have_one() -> None:
    first, second, last = lines()
    left_out = silent(second, loss=math.nan, applied=False, skipped="not finite")
    assert told(receipt([first, left_out, last], nonfinite="skip")) == []


def test_but_not_every_step() -> None:
    entries = [silent(one, loss=math.nan, applied=False, skipped="not finite") for one in lines()]
    found = receipt(entries, nonfinite="skip")
    assert told(found) == [(-1, "CF780", "the update of every step was left out: 3 of 3")]
    assert found.exit_code == 3
    begun = receipt(entries[:1], Ending("signal", 1, 75, STEPS), nonfinite="skip")
    assert not begun.complete and not begun.causes  # other steps may come


def test_a_run_of_zero_gradients() -> None:
    assert told(receipt([silent(entry, grad_norm=0.0) for entry in lines()])) == [
        (-1, "CF780", "the gradient of every step was zero")
    ]
    first, *others = lines()
    assert told(receipt([silent(first, grad_norm=0.0), *others])) == []


@pytest.mark.parametrize(("loss", "wrong"), [(math.nan, True), (math.inf, True), (2.5, False), (None, False)])
def test_a_validation_loss_that_is_no_number(loss: float | None, wrong: bool) -> None:
    found = told(receipt(lines(), replace(FINISHED, validation_loss=loss)))
    assert found == ([(-1, "CF723", f"the validation loss is {loss!r}")] if wrong else [])


def test_weights_that_are_no_numbers() -> None:
    found = told(receipt(lines(), replace(FINISHED, weights_are_finite=False)))
    assert found == [(-1, "CF723", "the trained weights are NaN or infinite at the end")]
