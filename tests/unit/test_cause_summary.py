"""What the causes of a receipt come to: how much, where, and what it makes of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from crossfoot.ledger.cause_pages import CAUSE_PAGES
from crossfoot.ledger.entry import CAUSE_KINDS, MOST_CAUSES_OF_A_KIND, NO_STEP, Cause, StepEntry
from crossfoot.receipts.cause_summary import CauseSummary, distinct_helps, summarise
from ledger_cases import Data

DATA = Data(list(range(4)), [5] * 4, [2] * 4)
PLANNED = {"sample": 50_000, "forward": 12_500, "step": 500}


def line(step: int, causes: Sequence[Cause], cause_count: int = 0, **other: int) -> StepEntry:
    plan = DATA.plan(0, [[[0], [1]], [[2], [3]]], lr=1e-5)
    entry = DATA.reconciler(2).step(plan, DATA.obey(plan))
    count = cause_count or len(causes)
    return replace(entry, step=step, causes=tuple(causes), cause_count=count, **other)


def of_kind(kind: str, step: int = 0, rank: int | None = 0, number: int = 1) -> list[Cause]:
    return [Cause(step, rank, at, kind, "words") for at in range(number)]


def summary_of(lines: Sequence[StepEntry], more: dict[str, int] | None = None) -> CauseSummary:
    causes = [cause for entry in lines for cause in entry.causes]
    return summarise(causes, lines, more or {}, PLANNED)[0]


def test_one_of_very_many() -> None:
    one = summary_of([line(4, [Cause(4, 1, 0, "missing sample", "words", 17, "a.json:18", 1, 0)])])
    assert (one.code, one.causes) == ("CF710", 1)
    assert one.amount == "1 of 50,000 samples (0.002 %)" and one.where == "in step 5, on rank 1"
    assert one.weights == "usable: those of a run that left these samples out of these steps"


def test_half_of_them_though_lines_do_not_list_all() -> None:
    lost = [Cause(step, 1, at, "missing sample", "", 0, None, 5, 0) for step in range(1) for at in range(8)]
    lines = [
        line(step, [replace(cause, step=step) for cause in lost], 10, planned_samples=100, real_samples=50)
        for step in range(500)
    ]
    half = summary_of(lines)
    assert half.amount == "25,000 of 50,000 samples (50 %)"
    assert half.where == "in steps 1, 2, 3 and 497 more, on rank 1"
    assert half.weights == "those of a run on less data; not the planned ones: train again"


def test_what_a_line_does_not_list_is_counted_or_at_least() -> None:
    many = of_kind("trained twice", number=MOST_CAUSES_OF_A_KIND)
    alone = summary_of([line(0, many, 30)])
    assert (alone.amount, alone.causes, alone.is_exact) == ("30 of 50,000 samples (0.06 %)", 30, True)
    other = of_kind("other slot", number=MOST_CAUSES_OF_A_KIND)
    both = summary_of([line(0, [*many, *other], 30)])
    assert (both.amount, both.is_exact) == ("at least 8 of 50,000 samples (0.016 %)", False)
    promised = summary_of([line(9, of_kind("rate not promised", 9, None))], {"rate not promised": 20})
    assert promised.amount == "21 of 500 steps (4.2 %)" and promised.where == "in steps 10 and 20 more"


def test_steps_that_are_missing_one_after_the_other() -> None:
    causes = [Cause(1, None, None, "step missing", "", None, None, 4, 0), *of_kind("step missing", 9, None)]
    (one,) = summarise(causes, [], {}, PLANNED)
    assert one.amount == "5 of 500 steps (1 %)" and one.where == "in steps 2, 3, 4 and 2 more"


def test_how_far_off_rates_and_weights_are() -> None:
    causes = [Cause(step, 0, None, "rate differs", "", None, None, 2.0, 2.0 * step) for step in (1, 3)]
    assert summary_of([line(0, causes)]).amount.endswith("(0.4 %), 1 to 3 times as much as planned")
    assert summary_of([line(0, causes[1:])]).amount.endswith(", 3 times as much as planned")


@pytest.mark.parametrize(
    ("step", "applied", "weights"),
    [
        (0, False, "usable as they were before: the update was left out"),
        (0, True, "not usable: an update was made from it"),
        (NO_STEP, False, "not usable: they, or their validation loss, are NaN or infinite"),
    ],
)
def test_a_loss_that_is_no_number(step: int, applied: bool, weights: str) -> None:
    causes = of_kind("not finite", step)
    lines = [replace(line(0, []), applied=applied)]
    (one,) = summarise(causes, lines, {}, PLANNED)
    assert one.weights == weights
    assert (one.amount == "the run as a whole") is (step == NO_STEP)


def test_every_kind_says_what_it_makes_of_the_weights_and_what_to_do() -> None:
    assert CAUSE_PAGES.keys() == CAUSE_KINDS.keys()
    starts = ("usable", "not usable", "not known", "as ", "not this run's", "not touched", "trained beyond")
    for kind, page in CAUSE_PAGES.items():
        assert page.weights.startswith(starts) or kind == "nothing trained", kind
        assert page.helps and not page.weights_many.startswith("usable"), kind
        assert all(not text.endswith(".") and text[0].islower() for text in page.helps), kind
        assert "rm " not in " ".join(page.helps)


def test_what_there_is_to_do_is_said_once() -> None:
    causes = [*of_kind("missing sample"), *of_kind("extra forward"), *of_kind("trained twice")]
    summaries = summarise(causes, [line(0, causes)], {}, PLANNED)
    assert [one.code for one in summaries] == ["CF710", "CF712", "CF713"]
    assert list(distinct_helps(summaries)) == list(CAUSE_PAGES["missing sample"].helps)
