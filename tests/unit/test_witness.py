"""Witnesses survive the trip through 64-bit integers, and say so when they do not fit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from crossfoot.ledger.witness import (
    ForwardWitness,
    Lost,
    SegmentWitness,
    StepWitness,
    pack,
    packed_width,
    unpack,
)

HIGH = (1 << 64) - 1


def witness(forwards: int = 2, segments: int = 3) -> StepWitness:
    def segment(i: int) -> SegmentWitness:
        return SegmentWitness(HIGH - i, (1 << 63) + i, 20 + i, 10 + i)

    parts = tuple(
        ForwardWitness(f, 100 + f, 0.1 + f, tuple(segment(f * segments + i) for i in range(segments)), -1.5)
        for f in range(forwards)
    )
    return StepWitness(3, 41, parts, 1.999e-5, True, 12.3456789, 0.1, 0.25, False, 2, retries=7)


def test_a_witness_comes_back_bit_for_bit() -> None:
    row = pack(witness(), packed_width(2, 3))
    assert row.dtype == np.int64 and row.shape == (packed_width(2, 3),)
    assert unpack(row) == witness()
    assert not unpack(row).lost


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("nonfinite", [True, False])
def test_flags_do_not_mix(applied: bool, nonfinite: bool) -> None:
    told = unpack(pack(replace(witness(), applied=applied, nonfinite=nonfinite), 200))
    assert (told.applied, told.nonfinite) == (applied, nonfinite)


def test_floats_without_a_finite_value_come_back() -> None:
    told = unpack(pack(replace(witness(), lr=-0.0, loss_sum=math.nan, grad_norm=-math.inf), 200))
    assert math.copysign(1, told.lr) == -1 and math.isnan(told.loss_sum) and told.grad_norm == -math.inf


def test_an_empty_forward_is_kept() -> None:
    empty = replace(witness(), forwards=(ForwardWitness(0, 2, 0.0, ()),))
    assert unpack(pack(empty, packed_width(1, 1))) == empty


def test_what_finds_no_room_is_counted() -> None:
    whole = witness(forwards=3, segments=3)
    for width in range(21, 85):
        told = unpack(pack(whole, width))
        stored = [segment for forward in told.forwards for segment in forward.segments]
        assert len(stored) + told.lost.segments == 9
        assert len(told.forwards) + told.lost.forwards == 3
        assert sum(s.real_tokens for s in stored) + told.lost.real_tokens == sum(range(20, 29))
        assert sum(s.trained_tokens for s in stored) + told.lost.trained_tokens == sum(range(10, 19))
        assert sum(f.token_slots for f in told.forwards) + told.lost.token_slots == 303
        assert bool(told.lost) == (told != whole)
    assert unpack(pack(whole, 21)).lost.forwards == 3
    assert unpack(pack(whole, 75)) == whole


def test_a_row_has_room_for_two_forwards_and_eight_samples_more_than_planned() -> None:
    whole, width = witness(forwards=4, segments=3), packed_width(2, 2)
    assert unpack(pack(whole, width)) == whole  # 12 samples, where 4 are planned
    more = ForwardWitness(4, 7, 0.0, ())
    assert unpack(pack(replace(whole, forwards=(*whole.forwards, more)), width)).lost.forwards == 1
    wide = witness(forwards=4, segments=13)  # a micro batch of 20 more than the 40 planned
    assert not unpack(pack(wide, packed_width(2, 20))).lost


def test_packing_what_was_cut_before_keeps_the_count() -> None:
    cut = unpack(pack(witness(3, 3), 40))
    assert cut.lost and unpack(pack(cut, 40)).lost == cut.lost
    assert unpack(pack(replace(witness(), lost=Lost(1, 2, 3, 4, 5)), 200)).lost == Lost(1, 2, 3, 4, 5)


def test_foreign_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="not a packed witness"):
        unpack(np.zeros(60, dtype=np.int64))
    with pytest.raises(ValueError, match="ends before"):
        unpack(pack(witness(), 200)[:30])
    with pytest.raises(ValueError, match="at least"):
        pack(witness(), 3)
