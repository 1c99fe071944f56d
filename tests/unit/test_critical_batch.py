"""The critical batch: against hyperbolas, and against the noisy quadratic model, of which all is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crossfoot.arithmetic.critical_batch import fitted, largest_within
from crossfoot.arithmetic.to_target import At, loss_after, samples_to
from support.noisy_quadratic import BATCHES, TARGET, best, loss, steps

EXACT = {1: 90322, 16: 5801, 32: 2994, 64: 1611, 100: 1136, 128: 963, 256: 690, 512: 572, 1024: 513}
HYPERBOLA = {batch: 300 * (1 + 180 / batch) for batch in (16, 32, 64, 100, 128, 256)}


def test_the_noisy_quadratic_model_takes_so_many_steps() -> None:
    assert {batch: best(batch)[0] for batch in BATCHES} == EXACT
    assert steps(1.86, 1024) == 514  # one more, 1 % beside the best rate


def _curve(batch: int, validations: int) -> list[At]:
    """As a study sees it: the loss now and then, until a third more than it takes."""
    most, rate = best(batch)
    at = np.linspace(0, 1.3 * most, validations + 1).astype(int)
    return [At(int(step) * batch, loss(int(step), rate, batch)) for step in at]


def test_steps_to_a_target_are_read_from_curves_and_the_hyperbola_is_near() -> None:
    read = {batch: samples_to(_curve(batch, 20), TARGET) for batch in BATCHES}
    measured = {batch: samples / batch for batch, samples in read.items() if samples is not None}
    assert measured == pytest.approx(EXACT, rel=0.01)
    fit = fitted(measured)
    assert fit is not None
    assert fit.least_steps == pytest.approx(395, rel=0.01)
    assert fit.least_samples == pytest.approx(82_600, rel=0.01)
    assert fit.critical_batch.low < 0.9 * fit.critical_batch.value < 1.1 * fit.critical_batch.value
    assert fit.critical_batch.high > 1.1 * fit.critical_batch.value
    for batch, ratio in fit.misfit.items():
        assert ratio == pytest.approx(measured[batch] / fit.steps(batch))
    assert max(fit.misfit.values()) == pytest.approx(1.088, abs=0.01)
    assert min(fit.misfit.values()) == pytest.approx(0.925, abs=0.01)


def test_of_an_exact_hyperbola_the_fit_is_exact() -> None:
    fit = fitted(HYPERBOLA)
    assert fit is not None
    assert (fit.least_steps, fit.least_samples) == pytest.approx((300, 54_000), rel=1e-6)
    assert fit.critical_batch.value == pytest.approx(180, rel=1e-6)
    assert 178 < fit.critical_batch.low <= 180 <= fit.critical_batch.high < 182
    assert {batch: fit.steps(batch) for batch in HYPERBOLA} == pytest.approx(HYPERBOLA)
    assert fit.samples(100) == pytest.approx(100 * HYPERBOLA[100])


def test_the_fit_is_the_smallest_sum_of_squares() -> None:
    noise = dict(zip(HYPERBOLA, (1.05, 0.93, 1.02, 0.98, 1.06, 0.97), strict=True))
    measured = {batch: number * noise[batch] for batch, number in HYPERBOLA.items()}
    fit = fitted(measured)
    assert fit is not None

    def squares(least: float, critical: float) -> float:
        return sum(
            math.log(number / (least * (1 + critical / batch))) ** 2 for batch, number in measured.items()
        )

    here = squares(fit.least_steps, fit.critical_batch.value)
    for of_steps in (0.999, 1, 1.001):
        for of_batch in (0.999, 1, 1.001):
            there = squares(fit.least_steps * of_steps, fit.critical_batch.value * of_batch)
            assert there >= here


@pytest.mark.parametrize(
    ("batches", "noise"), [((16, 32, 64, 100, 128, 256), 0.03), ((32, 64, 100, 256), 0.08)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(batches: tuple[int, ...], noise: float) -> None:
    held = 0
    for seed in range(200):
        chance = np.random.default_rng(seed).normal(0, noise, len(batches))
        fit = fitted(
            {
                batch: 300 * (1 + 180 / batch) * math.exp(each)
                for batch, each in zip(batches, chance, strict=True)
            }
        )
        assert fit is not None
        held += fit.critical_batch.low <= 180 <= fit.critical_batch.high
    assert 0.85 <= held / 200 <= 0.99


def test_what_the_steps_do_not_bound_is_without_end() -> None:
    linear = fitted({batch: 50_000 / batch * (1 + batch % 3 / 50) for batch in (16, 32, 64, 100)})
    assert linear is not None
    assert linear.critical_batch.high == math.inf and linear.critical_batch.low > 100
    equal = fitted({16: 100.0, 32: 101.0, 64: 99.0, 100: 100.0})
    assert equal is not None
    assert equal.critical_batch.low == 0.0 and equal.critical_batch.high < 16
    assert equal.steps(1000) == pytest.approx(100, rel=0.02)
    without = fitted({batch: 50_000 / batch for batch in (16, 32, 64)})
    assert without is not None
    assert (without.critical_batch.value, without.least_steps) == (math.inf, 0.0)
    assert without.least_samples == pytest.approx(50_000) == without.samples(7)


def test_two_batches_are_not_fitted() -> None:
    assert fitted({}) is fitted({16: 100.0, 32: 60.0}) is None


def test_the_largest_batch_within_a_fifth_more_samples() -> None:
    found = largest_within({batch: batch * number for batch, number in EXACT.items()})
    assert found is not None and found.is_bounded and (found.fewest_at, found.fewest_samples) == (1, 90322)
    assert 64 < found.batch < 100  # 103,104 samples, and 113,600; at most 108,386
    exact = largest_within({batch: 54_000 * (1 + batch / 180) for batch in range(1, 200)})
    assert exact is not None and exact.batch == pytest.approx(180 * (1.2 * (1 + 1 / 180) - 1), rel=1e-3)
    later = largest_within({16: 1500.0, 32: 1000.0, 64: 1100.0, 128: 1400.0})
    assert later is not None and later.fewest_at == 32
    assert later.batch == pytest.approx(64 * 2 ** (math.log(1200 / 1100) / math.log(1400 / 1100)))
    not_yet = largest_within({32: 900.0, 16: 1000.0, 64: 950.0})
    assert not_yet is not None and not not_yet.is_bounded
    assert (not_yet.batch, not_yet.fewest_at) == (64, 32)
    assert largest_within({}) is None


def test_a_curve_comes_down_to_a_target_between_two_measurements() -> None:
    curve = [At(0, 4.0), At(100, 3.0), At(400, 2.0), At(500, 2.5), At(600, 1.0)]
    assert samples_to(curve, 3.5) == 50
    assert samples_to(curve, 3.0) == pytest.approx(100)
    assert samples_to(curve, 2.5) == pytest.approx(200)  # the first time
    assert samples_to(curve, 0.9) is None is samples_to([], 1.0)
    assert samples_to(curve, 4.0) == 0
    assert samples_to([At(0, 4.0), At(9, math.nan)], 3.0) is None
    for target in (3.7, 3.1, 2.9, 2.1):
        found = samples_to(curve, target)
        assert found is not None and loss_after(curve, found) == pytest.approx(target)
    assert math.isnan(loss_after(curve, 601)) and loss_after(curve, 600) == 1.0
