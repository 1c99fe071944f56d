"""Intervals of shares and of paired differences: against their own equations, published examples, and every
case there is.
"""

from __future__ import annotations

import math
from itertools import product
from statistics import NormalDist, fmean

import pytest

from crossfoot.arithmetic.intervals import CONFIDENCE, Pairs, wilson

Z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2)


@pytest.mark.parametrize(("right", "of"), [(1, 2), (3, 12), (81, 263), (1, 29), (500, 1346), (11, 12)])
def test_the_ends_of_an_interval_are_the_shares_that_a_score_test_just_bears(right: int, of: int) -> None:
    found = wilson(right, of)
    assert found.value == right / of
    for end in (found.low, found.high):
        assert abs(found.value - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / of), rel=1e-9)


def test_wilson_at_its_edges_and_as_it_was_published() -> None:
    assert (wilson(0, 12).low, wilson(12, 12).high) == (0.0, 1.0)
    assert wilson(0, 12).high == pytest.approx(Z * Z / (12 + Z * Z))
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value) and (nothing.low, nothing.high) == (0.0, 1.0)
    # Newcombe, Statistics in Medicine 17, 1998, 857-872, table I, method 3
    for right, of, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = wilson(right, of)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_the_exact_test_is_the_share_of_all_throws() -> None:
    for one, other in product(range(6), repeat=2):
        heads = [sum(throw) for throw in product((0, 1), repeat=one + other)]
        as_uneven = [abs(2 * each - one - other) >= abs(one - other) for each in heads]
        assert Pairs(7, one, other, 2).p_value() == pytest.approx(fmean(as_uneven))
    assert Pairs(5, 0, 0, 5).p_value() == 1.0
    assert Pairs(0, 900, 1100, 0).p_value() == pytest.approx(8.5e-6, rel=0.05)


def test_the_difference_as_it_was_published() -> None:
    """Newcombe, Statistics in Medicine 17, 1998, 2635-2650, table III, method 10; first less second there."""
    found = Pairs(36, 2, 12, 0).difference()
    assert (round(found.low, 4), round(found.high, 4)) == (0.0569, 0.3404)


def test_both_directions_and_degenerate_tables() -> None:
    for counts in product(range(4), repeat=4):
        one = Pairs(*counts)
        other = Pairs(counts[0], counts[2], counts[1], counts[3])
        there, back = one.difference(), other.difference()
        if not one.items:
            assert math.isnan(there.value)
            continue
        assert there.low <= there.value <= there.high
        assert there.low >= -1 and there.high <= 1
        assert (-back.high, -back.low) == pytest.approx((there.low, there.high))
        assert one.p_value() == other.p_value()


def test_the_true_difference_lies_in_the_interval_as_often_as_is_said() -> None:
    """Every table of twelve items, weighted by how likely it is."""
    items = 12
    tables = [counts for counts in product(range(items + 1), repeat=4) if sum(counts) == items]
    found = {counts: Pairs(*counts).difference() for counts in tables}
    covered = []
    for truth in ((0.5, 0.1, 0.2, 0.2), (0.3, 0.2, 0.2, 0.3), (0.25, 0.05, 0.3, 0.4), (0.6, 0.15, 0.1, 0.15)):
        gap = truth[2] - truth[1]
        covered.append(
            math.fsum(
                _chance(counts, truth) for counts in tables if found[counts].low <= gap <= found[counts].high
            )
        )
    assert min(covered) > 0.93 and fmean(covered) == pytest.approx(0.96, abs=0.015)


def _chance(counts: tuple[int, ...], truth: tuple[float, ...]) -> float:
    ways = math.factorial(sum(counts)) // math.prod(map(math.factorial, counts))
    return ways * math.prod(share**count for share, count in zip(truth, counts, strict=True))
