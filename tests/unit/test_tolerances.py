"""How far a rate and a token's weight may be from the planned one: just inside is rounding, just outside is a
fault.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.naming import rate_is_planned
from ledger_cases import Data, six_samples

SLOTS = [[[0, 1], [2]], [[3], []]]
INSIDE, OUTSIDE = 0.99, 1.01


@pytest.mark.parametrize("sign", (1, -1))
@pytest.mark.parametrize("planned", (2e-5, 5.8e-3, 1e30, 5e-300))
def test_a_rate_is_the_planned_one_to_a_billionth(planned: float, sign: int) -> None:
    assert rate_is_planned(planned, planned)
    assert rate_is_planned(planned * (1 + sign * INSIDE * 1e-9), planned)
    assert not rate_is_planned(planned * (1 + sign * OUTSIDE * 1e-9), planned)


def test_a_rate_of_none_or_of_nothing() -> None:
    assert rate_is_planned(0.0, 0.0) and not rate_is_planned(5e-324, 0.0)
    assert not rate_is_planned(math.nan, 1e-3) and not rate_is_planned(math.inf, 1e-3)


def told(lr: float = 1.0, weights: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.0, 1.0))) -> StepEntry:
    """The line of a step whose second rank stepped at `lr` times the rate; weights: times the planned one, of
    each rank and forward.
    """
    data: Data = six_samples()
    planned = data.plan(0, SLOTS)
    witnesses = data.obey(planned)
    changed = []
    for witness, times in zip(witnesses, weights, strict=True):
        forwards = tuple(
            replace(forward, token_weight=forward.token_weight * time)
            for forward, time in zip(witness.forwards, times, strict=True)
        )
        changed.append(replace(witness, forwards=forwards))
    changed[1] = replace(changed[1], lr=planned.lr * lr)
    return data.reconciler(2).step(planned, changed)


@pytest.mark.parametrize("sign", (1, -1))
def test_a_step_at_a_rate_that_is_off(sign: int) -> None:
    inside, outside = told(lr=1 + sign * INSIDE * 1e-9), told(lr=1 + sign * OUTSIDE * 1e-9)
    assert inside.wrong_rate_ranks == 0
    assert [cause.kind for cause in inside.causes] == ["ranks disagree"]
    assert (outside.wrong_rate_ranks, outside.lr) == (1, 2e-5 * (1 + sign * OUTSIDE * 1e-9))
    assert [cause.kind for cause in outside.causes] == ["rate differs", "ranks disagree"]
    assert outside.causes[0].rank == 1


@pytest.mark.parametrize("sign", (1, -1))
def test_a_token_weighs_what_is_planned_to_a_millionth(sign: int) -> None:
    inside = told(weights=((1 + sign * INSIDE * 1e-6, 1.0), (1.0, 1.0)))
    assert (inside.wrong_weight_forwards, inside.causes) == (0, ())
    outside = told(weights=((1.0, 1 + sign * OUTSIDE * 1e-6), (1.0, 1.0)))
    (cause,) = outside.causes
    assert outside.wrong_weight_forwards == 1
    assert (cause.kind, cause.rank, cause.forward) == ("token weight differs", 0, 1)
    assert cause.planned == 2 / 26 and cause.real == 2 / 26 * (1 + sign * OUTSIDE * 1e-6)
