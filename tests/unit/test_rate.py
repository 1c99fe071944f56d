"""The rate of every step: published rates, shapes, exact warm-ups, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from crossfoot.arithmetic.rate import RateImpossible, RatePlan, half_life_beta, plan_rate


def rate(**changes: Any) -> RatePlan:
    numbers: dict[str, Any] = {
        "reference": 1e-4,
        "reference_batch": None,
        "rule": "none",
        "global_batch_size": 64,
        "schedule": "cosine",
        "min_ratio": 0.0,
        "total_steps": 100,
    }
    return plan_rate(**{**numbers, **changes})


@pytest.mark.parametrize(
    ("reference", "reference_batch", "rule", "batch", "peak"),
    [
        (1e-4, 8, "none", 64, 1e-4),
        (1e-4, 8, "linear", 64, 8e-4),
        (1e-4, 8, "sqrt", 64, 2.8284271247e-4),
        (2e-4, 8, "sqrt", 8, 2e-4),
        (2e-5, 128, "linear", 256, 4e-5),
        (5e-6, 128, "linear", 256, 1e-5),
        (1e-4, 8, "linear", 24, 3e-4),
        (1e-4, 8, "linear", 1, 1.25e-5),
    ],
)
def test_peak_follows_the_batch(
    reference: float, reference_batch: int, rule: str, batch: int, peak: float
) -> None:
    plan = rate(
        reference=reference,
        reference_batch=reference_batch,
        rule=rule,
        global_batch_size=batch,
        warmup_steps=3,
    )
    assert plan.peak == pytest.approx(peak, rel=1e-10, abs=0)
    assert plan.at(2) == plan.at(3) == plan.peak


def test_a_linear_rate_is_the_decimal_that_a_person_expects() -> None:
    assert rate(reference_batch=8, rule="linear", global_batch_size=24).peak == 3e-4
    assert 1e-4 * (24 / 8) != 3e-4  # what plain floats make of it


@pytest.mark.parametrize(
    ("given", "total_steps", "steps"),
    [
        ({}, 100, 0),
        ({"warmup_steps": 0}, 100, 0),
        ({"warmup_steps": 100}, 100, 100),
        ({"warmup_fraction": 0.07}, 100, 7),  # math.ceil(0.07 * 100) is 8
        ({"warmup_fraction": 0.03}, 102, 4),
        ({"warmup_fraction": 0.05}, 1, 1),
        ({"warmup_fraction": 0.0}, 100, 0),
        ({"warmup_fraction": 1.0}, 100, 100),
        ({"warmup_fraction": 1e-5}, 100_000, 1),
        ({"warmup_samples": 640}, 100, 10),
        ({"warmup_samples": 641}, 100, 11),
        ({"warmup_samples": 1}, 100, 1),
    ],
)
def test_warmup_is_rounded_up_exactly(given: dict[str, float], total_steps: int, steps: int) -> None:
    assert rate(total_steps=total_steps, **given).warmup_steps == steps


def test_cosine_by_hand() -> None:
    plan = rate(reference=1.0, warmup_steps=2, total_steps=6, min_ratio=0.2)
    half = math.sqrt(0.5)
    expected = [0.5, 1.0, 1.0, 0.2 + 0.4 * (1 + half), 0.6, 0.2 + 0.4 * (1 - half)]
    np.testing.assert_allclose(plan.every(), expected, rtol=1e-15)


def test_linear_and_constant_by_hand() -> None:
    linear = rate(reference=1.0, warmup_steps=2, total_steps=6, min_ratio=0.2, schedule="linear")
    np.testing.assert_allclose(linear.every(), [0.5, 1.0, 1.0, 0.8, 0.6, 0.4], rtol=1e-15)
    constant = rate(reference=1.0, warmup_steps=2, total_steps=6, min_ratio=0.2, schedule="constant")
    assert constant.every().tolist() == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("shape", "fall"),
    [
        ("linear", [1.0, 0.8, 0.6, 0.4]),
        ("sqrt", [1.0, 0.2 + 0.8 * 0.5, 0.2 + 0.8 * (1 - math.sqrt(0.5)), 0.2 + 0.8 * (1 - math.sqrt(0.75))]),
        ("cosine", [1.0, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5)]),
    ],
)
def test_warmup_stable_decay_by_hand(shape: str, fall: list[float]) -> None:
    wsd = rate(
        reference=1.0,
        warmup_steps=2,
        total_steps=9,
        min_ratio=0.2,
        schedule="wsd",
        decay_fraction=0.4,
        decay_shape=shape,
    )
    assert (wsd.decay_steps, wsd.decay_begin) == (4, 5)
    np.testing.assert_allclose(wsd.every(), [0.5, 1, 1, 1, 1, *fall], rtol=1e-15)


@pytest.mark.parametrize(
    ("fraction", "warmup", "decay"), [(0.07, 0, 7), (0.0, 0, 0), (1.0, 0, 100), (0.5, 60, 40), (1e-5, 0, 1)]
)
def test_the_decay_takes_its_share_of_all_steps_after_the_warmup(
    fraction: float, warmup: int, decay: int
) -> None:
    plan = rate(schedule="wsd", decay_fraction=fraction, warmup_steps=warmup)
    assert plan.decay_steps == decay
    assert (plan.every()[warmup : plan.decay_begin] == plan.peak).all()


def test_every_cosine_begins_at_the_peak() -> None:
    plan = rate(reference=1.0, warmup_steps=1, total_steps=11, schedule="cosine_with_restarts", cycles=3)
    half = [(1 + math.cos(math.pi * share)) / 2 for share in (0, 0.3, 0.6, 0.9, 0.2, 0.5, 0.8, 0.1, 0.4, 0.7)]
    np.testing.assert_allclose(plan.every(), [1.0, *half], rtol=1e-12)
    even = rate(total_steps=100, schedule="cosine_with_restarts", cycles=4).every()
    assert even[[0, 25, 50, 75]].tolist() == [1e-4] * 4 and even[:25].tolist() == even[75:].tolist()
    one = rate(total_steps=100, schedule="cosine_with_restarts", cycles=1).every()
    assert one.tolist() == rate(total_steps=100).every().tolist()


def test_more_cosines_than_steps_do_not_exist() -> None:
    with pytest.raises(RateImpossible, match="cycles 41 are more than the 40 steps") as caught:
        rate(schedule="cosine_with_restarts", cycles=41, warmup_steps=60)
    assert caught.value.helps == ("set lr.cycles to 4, or make the run longer",)
    assert rate(schedule="cosine", cycles=41, warmup_steps=60).cycles == 1


def test_a_group_has_its_ratio_of_every_rate() -> None:
    plan = rate(groups={"lora_B": 16.0}, warmup_steps=3)
    assert [plan.groups_at(k)["lora_B"] for k in range(100)] == [16.0 * plan.at(k) for k in range(100)]
    assert rate().groups_at(0) == {}


def test_a_second_beta_keeps_its_half_life_in_samples() -> None:
    assert half_life_beta(0.999, None, 64) == half_life_beta(0.999, 64, 64) == 0.999
    beta = half_life_beta(0.999, 8, 64)
    assert beta == pytest.approx(0.999**8, rel=1e-15)
    assert 64 * math.log(0.5) / math.log(beta) == pytest.approx(8 * math.log(0.5) / math.log(0.999))
    assert half_life_beta(0.0, 8, 64) == 0.0


def test_a_run_that_is_all_warmup() -> None:
    assert rate(reference=1.0, warmup_steps=4, total_steps=4).every().tolist() == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("min_ratio", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("warmup_steps", [0, 1, 3, 7])
def test_every_rate_is_at_that_step_and_between_floor_and_peak(
    schedule: str, min_ratio: float, warmup_steps: int
) -> None:
    plan = rate(
        reference=3.3e-4, schedule=schedule, min_ratio=min_ratio, warmup_steps=warmup_steps, total_steps=37
    )
    every = plan.every()
    assert every.dtype == np.float64
    assert every.tolist() == [plan.at(k) for k in range(37)]
    assert plan.at(warmup_steps) == plan.peak == every.max()
    decay = every[warmup_steps:]
    assert (np.diff(every[:warmup_steps]) > 0).all()
    assert (np.diff(decay) <= 0).all()
    assert decay.min() >= plan.peak * min_ratio


def test_steps_outside_the_run_have_no_rate() -> None:
    for step in (-1, 100):
        with pytest.raises(IndexError, match="100 steps"):
            rate().at(step)


@pytest.mark.parametrize(
    ("changes", "title", "keys", "helps"),
    [
        (
            {"rule": "linear"},
            "rule linear follows the batch, but reference_batch is not given",
            ("lr.reference_batch", "lr.rule"),
            (
                "set lr.reference_batch to 64, this run's batch, to keep 0.0001, "
                "or to the samples per step that 0.0001 was right for",
                "or set lr.rule to none: the peak is 0.0001 whatever the batch",
            ),
        ),
        (
            {"warmup_steps": 101},
            "warmup_steps 101 is a warm-up of 101 steps, but the run has 100",
            ("lr.warmup_steps",),
            (
                "set lr.warmup_steps to 3: 3 of 100 steps, the usual 3 % rounded up",
                "or set train.max_steps to 101 or more, in the place of train.epochs",
            ),
        ),
        (
            {"warmup_samples": 6401},
            "warmup_samples 6401 is a warm-up of 101 steps, but the run has 100",
            ("lr.warmup_samples",),
            (
                "set lr.warmup_samples to 192: 3 of 100 steps, the usual 3 % rounded up",
                "or set train.max_steps to 101 or more, in the place of train.epochs",
            ),
        ),
    ],
)
def test_rates_that_do_not_exist(
    changes: dict[str, Any], title: str, keys: tuple[str, ...], helps: tuple[str, ...]
) -> None:
    with pytest.raises(RateImpossible) as caught:
        rate(**changes)
    assert (caught.value.title, caught.value.keys, caught.value.helps) == (title, keys, helps)


@pytest.mark.parametrize(
    "changes",
    [
        {"reference": 0.0},
        {"reference": math.inf},
        {"reference": math.nan},
        {"min_ratio": 1.5},
        {"min_ratio": math.nan},
        {"reference_batch": 0},
        {"total_steps": 0},
        {"warmup_steps": -1},
        {"warmup_fraction": math.nan},
        {"warmup_steps": 10, "warmup_fraction": 0.03},
    ],
)
def test_what_a_config_cannot_say_is_our_mistake(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="follows from") as caught:
        rate(**changes)
    assert not isinstance(caught.value, RateImpossible)
