"""The accounting of 1,024 ranks, whose functions are called directly: a short line as planned, a named rank
otherwise, and a receipt that holds the short line against the lock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from crossfoot.arithmetic.layout import PackedLayout
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.ledger.entry import StepEntry, entry_of
from crossfoot.ledger.matching import PlannedStep
from crossfoot.ledger.reconcile import Reconciler
from crossfoot.ledger.witness import Lost, StepWitness
from crossfoot.receipts.promise_audit import Promise
from crossfoot.receipts.promised_sets import terms_of
from crossfoot.receipts.receipt import make_receipt
from crossfoot.receipts.run_promise import RunPromise
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.ending import Ending
from ledger_cases import Data, rows_of, sealed, with_columns, with_segments

RANKS, STEPS, WIDTH = 1024, 2, 80
SIZE = RANKS * STEPS
DATA = Data(range(SIZE), [8 + i % 9 for i in range(SIZE)], [5 + i % 4 for i in range(SIZE)])
SCHEDULE = Schedule(SIZE, RANKS, 0, "short", epochs=1)
Told = Callable[[list[StepWitness]], list[StepWitness]]


def plan(step: int) -> PlannedStep:
    ids = SCHEDULE.samples(step)
    slots = PackedLayout(RANKS, 1, 1, 50, RANKS).slots(ids, np.array(DATA.lengths)[ids])
    lists = [[own.tolist() for own in forwards] for forwards in slots]
    return DATA.plan(step, lists, lr=1e-5 * (step + 1))


@pytest.fixture(scope="module")
def reconciler() -> Reconciler:
    return DATA.reconciler(RANKS)


@pytest.fixture(scope="module")
def lines(reconciler: Reconciler) -> list[StepEntry]:
    """Of ranks that do what they are told; no sample is looked at by itself."""
    with mock.patch.object(Reconciler, "step", side_effect=AssertionError("as planned")):
        return [reconciler.book(one, rows_of(DATA.obey(one), WIDTH)) for one in map(plan, range(STEPS))]


def lock() -> dict[str, Any]:
    sums = {"real_tokens": sum(DATA.lengths), "trained_tokens": sum(DATA.trained), "forwards": SIZE}
    expects = {"total_steps": STEPS, "samples": SIZE, "distinct_samples": SIZE, **sums}
    sizes = {"samples_per_epoch": SIZE, "global_batch_size": RANKS, "micro_batch_size": 1}
    data = {"data": {"last_step": "short", "layout": "packed", "index_dir": "no-such-folder"}}
    return sealed(expects, (RANKS, 1), data, {"plan": sizes})


def receipt(lines: list[StepEntry]) -> Receipt:
    """As it is made later, from lines that are read again, the lock and the index."""
    own = lock()
    promise = RunPromise(Promise({1: terms_of(own)}, DATA.reconciler(RANKS)._content), (), ())
    read = [entry_of(line.to_line()) for line in lines]
    return make_receipt(own, read, Ending("finished", STEPS, 0, STEPS), run_promise=promise)


def test_a_step_as_planned_is_a_short_line_and_foots(lines: list[StepEntry]) -> None:
    for line in lines:
        assert len(line.to_line()) < 4000 and line.cause_count == 0
        assert (line.per_rank.ranks, line.per_rank.columns) == (RANKS, None)
    assert receipt(lines).foots


def test_who_was_slow_is_in_the_short_line() -> None:
    told = DATA.obey(plan(0))
    told[700] = replace(told[700], seconds=3.5)
    told[9] = replace(told[9], seconds=0.125)
    line = DATA.reconciler(RANKS).book(plan(0), rows_of(told, WIDTH))
    times = (line.seconds, line.median_seconds, line.fastest_seconds, line.slowest_rank)
    assert times == (3.5, 0.25, 0.125, 700) and line.per_rank.columns is None


def another(told: list[StepWitness], rank: int, *samples: int) -> list[StepWitness]:
    segments = tuple(DATA.segment(sample) for sample in samples)
    return [with_segments(w, 0, lambda _: segments) if w.rank == rank else w for w in told]


def own_sample(rank: int) -> int:
    return int(plan(1).slots[rank][0][0])


def alike(told: list[StepWitness]) -> list[StepWitness]:
    """On one rank a sample of the step before, as long as its own and with as many targets."""
    own = own_sample(701)
    others = SCHEDULE.samples(0).tolist()
    return another(told, 701, next(i for i in others if i % 36 == own % 36))


def miscounted(told: list[StepWitness]) -> list[StepWitness]:
    wrong = replace(told[701].forwards[0].segments[0], trained_tokens=1)
    return [with_segments(w, 0, lambda _: (wrong,)) if w.rank == 701 else w for w in told]


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        (lambda told: another(told, 701, int(plan(0).slots[3][0][0])), {"missing sample", "not planned"}),
        (lambda told: [one for one in told if one.rank != 701], {"missing witness", "missing sample"}),
        (lambda told: another(told, 701, *[own_sample(701)] * 2), {"trained twice"}),
        (alike, {"missing sample", "not planned"}),
        (miscounted, {"count differs"}),
    ],
    ids=[
        "a wrong sample",
        "a rank that is missing",
        "a sample twice",
        "a sample that looks alike",
        "tokens counted otherwise",
    ],
)
def test_a_fault_of_one_rank_is_named_with_the_rank(fault: Told, kinds: set[str]) -> None:
    told = fault(DATA.obey(plan(1)))
    line = DATA.reconciler(RANKS).book(plan(1), rows_of(told, WIDTH))
    assert {(cause.kind, cause.rank) for cause in line.causes} == {(kind, 701) for kind in kinds}
    columns = line.per_rank.columns
    assert columns is not None and len(columns.rank) == len(told) and columns.sha256 == line.per_rank.sha256


def of_forward(**change: Any) -> Callable[[StepWitness], StepWitness]:
    return lambda one: replace(one, forwards=(replace(one.forwards[0], **change),))


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda one: replace(one, lost=Lost(1, 2, 9, 9, 9)), {"witness cut"}),
        (lambda one: replace(one, step=5), {"wrong witness"}),
        (lambda one: replace(one, lr=one.lr * 1.1), {"rate differs", "ranks disagree"}),
        (lambda one: replace(one, applied=False), {"update not applied"}),
        (lambda one: replace(one, loss_sum=math.nan), {"not finite"}),
        (lambda one: replace(one, grad_norm=math.inf), {"not finite"}),
        (of_forward(loss_sum=math.inf), {"not finite"}),
        (of_forward(token_weight=1.0), {"token weight differs"}),
        (of_forward(misplaced=1), {"not placed by itself"}),
        (of_forward(forward=1), {"extra forward", "missing forward", "other slot"}),
    ],
)
def test_whatever_one_rank_says_of_itself_is_seen(
    change: Callable[[StepWitness], StepWitness], kinds: set[str]
) -> None:
    told = [change(one) if one.rank == 701 else one for one in DATA.obey(plan(1))]
    line = DATA.reconciler(RANKS).book(plan(1), rows_of(told, WIDTH))
    assert {cause.kind for cause in line.causes} == kinds
    assert {cause.rank for cause in line.causes} <= {701, None} and line.per_rank.columns is not None


def test_a_rate_that_all_ranks_share_is_seen() -> None:
    told = [replace(one, lr=one.lr * 1.1) for one in DATA.obey(plan(1))]
    line = DATA.reconciler(RANKS).book(plan(1), rows_of(told, WIDTH))
    assert [(cause.kind, cause.rank) for cause in line.causes] == [("rate differs", None)]


def test_a_rank_that_says_it_is_another_is_seen() -> None:
    told = [replace(one, rank=700) if one.rank == 701 else one for one in DATA.obey(plan(1))]
    line = DATA.reconciler(RANKS).book(plan(1), rows_of(told, WIDTH))
    named = {(cause.kind, cause.rank) for cause in line.causes}
    assert {("missing witness", 701), ("wrong witness", 700)} <= named


def test_a_sample_of_an_earlier_step_is_seen() -> None:
    own = DATA.reconciler(RANKS)
    for _ in range(2):
        line = own.book(plan(0), rows_of(DATA.obey(plan(0)), WIDTH))
    assert {cause.kind for cause in line.causes} == {"already trained"} and line.cause_count == RANKS


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *[(name, "CF734") for name in ("real_samples", "real_tokens", "trained_tokens", "real_forwards")],
        *[("ranks", "CF734"), ("sha256", "CF787"), ("slots_sha256", "CF739")],
    ],
)
def test_a_short_line_that_was_edited_does_not_foot(lines: list[StepEntry], name: str, code: str) -> None:
    document = json.loads(lines[1].to_line())
    holder = document if name in document else document["per_rank"]
    holder[name] = "0" * 16 if isinstance(holder[name], str) else holder[name] + 1
    for planned in (f"planned_{name}", f"planned_{name.removeprefix('real_')}"):
        if planned in document:  # whoever edits one number edits the other too
            document[planned] = holder[name]
    made = receipt([lines[0], entry_of(json.dumps(document))])
    assert not made.foots and [(cause.code, cause.step) for cause in made.causes] == [(code, 1)]


def test_two_ranks_that_were_told_each_other_s_samples(lines: list[StepEntry]) -> None:
    """The loop does what it is told, so its own line sees nothing: the lock promises something else."""
    planned = plan(1)
    slots = [list(forwards) for forwards in planned.slots]
    slots[3], slots[900] = slots[900], slots[3]
    swapped = replace(planned, slots=slots)
    reconciler = DATA.reconciler(RANKS)
    reconciler.book(plan(0), rows_of(DATA.obey(plan(0)), WIDTH))
    line = reconciler.book(swapped, rows_of(DATA.obey(swapped), WIDTH))
    assert line.cause_count == 0 and line.per_rank.columns is None
    made = receipt([lines[0], line])
    assert not made.foots and [(cause.code, cause.step) for cause in made.causes] == [("CF739", 1)]


def test_columns_that_agree_with_themselves_and_not_with_the_lock(lines: list[StepEntry]) -> None:
    """One token more on one rank and one less on another: totals, samples and slots are the promised ones."""
    with mock.patch("crossfoot.ledger.rank_counts.MOST_RANKS_LISTED", RANKS):
        full = DATA.reconciler(RANKS).step(plan(0), DATA.obey(plan(0)))

    def shift(column: list[int], name: str) -> list[int]:
        return [column[0] + 1, column[1] - 1, *column[2:]] if name == "real_tokens" else column

    assert receipt([full, lines[1]]).foots
    made = receipt([with_columns(full, shift), lines[1]])
    assert [(cause.code, cause.step) for cause in made.causes] == [("CF787", 0)]
