"""For any data, duplicates included, and any layout: obedience always foots, any single mutation never
does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crossfoot.ledger import rank_counts
from crossfoot.ledger.entry import StepEntry, entry_of
from crossfoot.ledger.reconcile import PlannedStep
from crossfoot.ledger.witness import SegmentWitness, StepWitness, pack, packed_width, unpack
from crossfoot.receipts.receipt import make_receipt
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.ending import Ending
from ledger_cases import Data, rows_of, with_segments

FEW = settings(max_examples=80, deadline=None)


@dataclass(frozen=True)
class Run:
    """Data, and the plan of a whole run over it: every sample once in each epoch."""

    data: Data
    plans: list[PlannedStep]
    dp_degree: int

    def ledger(self, told: list[list[StepWitness]]) -> list[StepEntry]:
        """By whole columns where nothing differs, and sample by sample: both must say the same."""
        by_column, by_sample = (self.data.reconciler(self.dp_degree) for _ in range(2))
        lines = []
        for plan, words in zip(self.plans, told, strict=True):
            lines.append(by_column.book(plan, rows_of(words)))
            assert repr(lines[-1]) == repr(by_sample.step(plan, words))
        return lines

    def obey(self) -> list[list[StepWitness]]:
        return [self.data.obey(plan) for plan in self.plans]

    def receipt(self, entries: list[StepEntry]) -> Receipt:
        ids = [[int(i) for slots in plan.slots for s in slots for i in s] for plan in self.plans]
        flat = [i for step in ids for i in step]
        expects = {
            "total_steps": len(self.plans),
            "samples": len(flat),
            "distinct_samples": len(set(flat)),
            "real_tokens": sum(self.data.lengths[i] for i in flat),
            "trained_tokens": sum(self.data.trained[i] for i in flat),
            "forwards": sum(plan.forwards for plan in self.plans),
        }
        ending = Ending("finished", len(self.plans), 0, len(self.plans))
        return make_receipt({"name": "random", "sha256": "0" * 64, "expects": expects}, entries, ending)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    size = draw(st.integers(1, 14))
    contents = draw(st.lists(st.integers(0, 6), min_size=size, max_size=size))  # few values: many duplicates
    data = Data(contents, [3 + c for c in contents], [1 + c for c in contents])
    dp_degree, forwards = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    step_size, epochs = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    is_carried = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    orders = [[(epoch, int(i)) for i in rng.permutation(size)] for epoch in range(epochs)]
    parts = [[pair for order in orders for pair in order]] if is_carried else orders
    assume(not is_carried or step_size <= size)
    steps = [part[i : i + step_size] for part in parts for i in range(0, len(part), step_size)]
    plans = []
    for number, pairs in enumerate(steps):
        slots: list[list[list[int]]] = [[[] for _ in range(forwards)] for _ in range(dp_degree)]
        for _, sample in pairs:
            slots[rng.integers(dp_degree)][rng.integers(forwards)].append(sample)
        plan = data.plan(number, slots, lr=1e-5 * (number + 1), epoch=pairs[0][0])
        samples, of = np.array([i for _, i in pairs]), np.array([epoch for epoch, _ in pairs])
        plans.append(replace(plan, samples=samples, sample_epochs=of))
    return Run(data, plans, dp_degree)


def places(told: list[list[StepWitness]]) -> list[tuple[int, int, int, int]]:
    """(step, rank, forward, position) of every segment."""
    return [
        (step, witness.rank, forward.forward, position)
        for step, witnesses in enumerate(told)
        for witness in witnesses
        for forward in witness.forwards
        for position in range(len(forward.segments))
    ]


def segment_at(told: list[list[StepWitness]], place: tuple[int, int, int, int]) -> SegmentWitness:
    step, rank, forward, position = place
    return told[step][rank].forwards[forward].segments[position]


def put(
    told: list[list[StepWitness]], place: tuple[int, int, int, int], *new: SegmentWitness
) -> list[list[StepWitness]]:
    """The same run, but other segments at one place."""
    step, rank, forward, position = place
    changed = [list(witnesses) for witnesses in told]
    changed[step][rank] = with_segments(
        told[step][rank], forward, lambda segments: (*segments[:position], *new, *segments[position + 1 :])
    )
    return changed


def never_foots(run: Run, told: list[list[StepWitness]], step: int) -> None:
    entries = run.ledger(told)
    assert entries[step].cause_count > 0
    receipt = run.receipt(entries)
    assert not receipt.foots and not receipt.foots_so_far and receipt.causes


@FEW
@given(runs())
def test_an_undisturbed_run_foots(run: Run) -> None:
    width = packed_width(3, 6)
    told = [[unpack(pack(witness, width)) for witness in reversed(words)] for words in run.obey()]
    entries = run.ledger(told)
    assert [entry.causes for entry in entries] == [()] * len(entries)
    receipt = run.receipt(entries)
    assert receipt.foots, receipt


@FEW
@given(runs())
def test_the_short_form_of_many_ranks_says_what_the_columns_say(run: Run) -> None:
    whole = run.ledger(run.obey())
    with mock.patch.object(rank_counts, "MOST_RANKS_LISTED", 0):
        short = run.ledger(run.obey())
    for one, other in zip(whole, short, strict=True):
        columns = one.per_rank.columns
        assert columns is not None and other.per_rank.columns is None
        assert other.per_rank.sha256 == one.per_rank.sha256 == columns.sha256
        assert replace(other, per_rank=one.per_rank) == one == entry_of(one.to_line())
        assert entry_of(other.to_line()) == other


@FEW
@given(runs(), st.data())
def test_a_dropped_segment_never_foots(run: Run, draw: st.DataObject) -> None:
    told = run.obey()
    place = draw.draw(st.sampled_from(places(told)))
    never_foots(run, put(told, place), place[0])


@FEW
@given(runs(), st.data())
def test_a_doubled_segment_never_foots(run: Run, draw: st.DataObject) -> None:
    told = run.obey()
    place = draw.draw(st.sampled_from(places(told)))
    segment = segment_at(told, place)
    never_foots(run, put(told, place, segment, segment), place[0])


@FEW
@given(runs(), st.data())
def test_an_altered_digest_never_foots(run: Run, draw: st.DataObject) -> None:
    told = run.obey()
    place = draw.draw(st.sampled_from(places(told)))
    segment = segment_at(told, place)
    flipped = segment.digest ^ (1 << draw.draw(st.integers(0, 63)))
    token_digest = segment.token_digest ^ draw.draw(st.sampled_from([0, 1 << 63]))
    altered = replace(segment, digest=flipped, token_digest=token_digest)
    never_foots(run, put(told, place, altered), place[0])


@FEW
@given(runs(), st.data())
def test_a_swap_of_different_content_never_foots(run: Run, draw: st.DataObject) -> None:
    told = run.obey()
    one, other = draw.draw(st.sampled_from(places(told))), draw.draw(st.sampled_from(places(told)))
    first, second = segment_at(told, one), segment_at(told, other)
    assume(one[:3] != other[:3] and first != second)
    never_foots(run, put(put(told, one, second), other, first), one[0])


@FEW
@given(runs(), st.data())
def test_a_skipped_forward_never_foots(run: Run, draw: st.DataObject) -> None:
    told = run.obey()
    step = draw.draw(st.integers(0, len(told) - 1))
    rank = draw.draw(st.integers(0, run.dp_degree - 1))
    forwards = told[step][rank].forwards
    skipped = draw.draw(st.sampled_from(forwards))
    told[step][rank] = replace(told[step][rank], forwards=tuple(f for f in forwards if f is not skipped))
    never_foots(run, told, step)


@FEW
@given(runs(), st.data())
def test_a_lost_doubled_or_moved_line_never_foots(run: Run, draw: st.DataObject) -> None:
    entries = run.ledger(run.obey())
    at = draw.draw(st.integers(0, len(entries) - 1))
    to = draw.draw(st.integers(0, len(entries) - 1))
    without = entries[:at] + entries[at + 1 :]
    assert not run.receipt(without).foots
    assert not run.receipt([*without[:to], entries[at], *without[to:]]).foots or to == at
    assert not run.receipt([*entries[: to + 1], entries[at], *entries[to + 1 :]]).foots
