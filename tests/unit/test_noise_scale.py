"""The gradient noise scale where it is known: whether its interval holds it, and when there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crossfoot.arithmetic.noise_scale import LEAST_STEPS, NoiseScale, StepNoise, noise_scale, weighted_mean
from crossfoot.runs.noise_scale import (
    NOISE_FILE,
    GroupSquares,
    NoiseLine,
    append_noise,
    read_noise_lines,
    read_noise_scale,
    run_noise,
)

Draws = np.random.Generator
EQUAL, UNEQUAL = (50,) * 8, (10, 90, 50, 30, 70, 20, 40, 90)
SAMPLES = 16
"""Of a step."""


def quadratic(noise_in_steps: float) -> tuple[Callable[[Draws, int], np.ndarray], float]:
    """Gradients of a loss whose gradient at theta is H theta, seen through Gaussian noise with a known
    covariance. noise_in_steps: the noise scale, in steps of 400 tokens. (tokens' mean gradients of a forward
    of n tokens, the noise scale in tokens).
    """
    curvature = np.linspace(0.1, 2.0, 30)
    gradient = curvature * np.linspace(-1.0, 1.5, 30)
    spread = np.geomspace(0.1, 10, 30)
    scale = noise_in_steps * 400
    spread *= math.sqrt(scale * gradient @ gradient / (spread @ spread))

    def draw(draws: Draws, tokens: int) -> np.ndarray:
        return gradient + spread * draws.normal(size=30) / math.sqrt(tokens)

    return draw, scale


def regression() -> tuple[Callable[[Draws, int], np.ndarray], float]:
    """Of y = x w + e with x and e normal, the squared error at another w: one token's gradient is
    x (x d - e), so its mean is d, and its covariance (|d|^2 + 1) I + d d' (Isserlis): its trace is known.
    """
    away = np.linspace(-0.3, 0.4, 12)
    scale = (12 * (away @ away + 1.0) + away @ away) / (away @ away)

    def draw(draws: Draws, tokens: int) -> np.ndarray:
        inputs, errors = draws.normal(size=(tokens, 12)), draws.normal(size=tokens)
        return inputs.T @ (inputs @ away - errors) / tokens

    return draw, float(scale)


def step_of(tokens: Sequence[int], gradients: np.ndarray) -> StepNoise:
    """What a step of these forwards has to say. gradients: [forwards, parameters]."""
    mean = np.average(gradients, axis=0, weights=tokens)
    small = weighted_mean(tokens, (gradients**2).sum(axis=1).tolist())
    return StepNoise(len(tokens), sum(tokens), SAMPLES, small, float(mean @ mean))


def measured(
    draw: Callable[[Draws, int], np.ndarray], tokens: Sequence[int], steps: int, seed: int
) -> NoiseScale:
    draws = np.random.default_rng(seed)
    return noise_scale(step_of(tokens, np.array([draw(draws, one) for one in tokens])) for _ in range(steps))


@pytest.mark.parametrize("tokens", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("source", [lambda: quadratic(0.3), lambda: quadratic(2.0), regression])
def test_the_interval_holds_the_true_noise_scale_as_often_as_it_says(
    tokens: Sequence[int], source: Callable[[], tuple[Callable[[Draws, int], np.ndarray], float]]
) -> None:
    draw, true = source()
    found = [measured(draw, tokens, 30, seed) for seed in range(200)]
    intervals = [one.tokens for one in found if one.tokens is not None]
    assert len(intervals) >= 180
    held = sum(one.low <= true <= one.high for one in intervals) / len(intervals)
    assert 0.9 <= held <= 0.99
    middle = float(np.median([one.value for one in intervals]))
    assert abs(middle / true - 1) < 0.1


def test_a_signal_that_is_hardly_seen_does_not_make_the_interval_too_narrow() -> None:
    """Most seeds say nothing then; those that speak have seen too much of a signal by chance."""
    draw, true = quadratic(4.0)
    intervals = [measured(draw, EQUAL, 20, seed).tokens for seed in range(300)]
    spoken = [one for one in intervals if one is not None]
    assert 60 < len(spoken) < 200
    assert sum(one.low <= true <= one.high for one in spoken) / len(spoken) > 0.88


def test_it_is_the_same_however_the_tokens_lie() -> None:
    """400 tokens a step in 8 forwards, equal or not, in 2, and in 20."""
    draw, true = quadratic(1.0)
    for tokens in (EQUAL, UNEQUAL, (200, 200), (20,) * 20):
        found = measured(draw, tokens, 1_500, seed=1).tokens
        assert found is not None and found.low <= true <= found.high < 1.3 * found.low


STEP = StepNoise(forwards=4, tokens=400, samples=8, small=7.0, big=4.0)


def test_one_step_by_hand() -> None:
    """tr = (7 - 4) x 400 / 3 = 400 for a token, so 1 for the step's 400, which leaves 3 of 4."""
    assert (STEP.noise, STEP.signal) == (400.0, 3.0)
    found = noise_scale([STEP] * LEAST_STEPS)
    assert found.tokens is not None and found.samples is not None
    for interval, times in ((found.tokens, 1.0), (found.samples, 1 / 50)):
        assert (interval.value, interval.low, interval.high) == pytest.approx([400 / 3 * times] * 3)
    assert weighted_mean([300, 100], [1.0, 5.0]) == 2.0 and math.isnan(weighted_mean([], []))


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    draw, _ = quadratic(50.0)
    lost = measured(draw, EQUAL, 20, seed=0)
    assert lost.tokens is None and "lost in its noise" in lost.why_not and lost.signal.low <= 0
    few = noise_scale([STEP] * (LEAST_STEPS - 1))
    assert few.samples is None and few.why_not == "4 steps of at least 5 measured"
    single = replace(STEP, forwards=1)
    assert not single.is_measured and noise_scale([single] * 9).steps == 0
    rounded = noise_scale([replace(STEP, small=3.9)] * 9)
    assert rounded.tokens is None and "negative" in rounded.why_not
    assert noise_scale([]).tokens is None


def test_neighbours_that_hang_together_do_not_make_the_interval_narrow() -> None:
    """100 steps in which every five are the same say no more than those 20."""
    draws = np.random.default_rng(3)
    twenty = [replace(STEP, small=7 + draws.normal() / 4) for _ in range(20)]
    hundred = noise_scale(step for step in twenty for _ in range(5)).tokens
    alone = noise_scale(twenty).tokens
    assert hundred is not None and alone is not None
    assert (hundred.low, hundred.high) == pytest.approx((alone.low, alone.high))


LINE = NoiseLine(
    step=0,
    attempt=1,
    applied=True,
    samples=8,
    tokens=(100, 100, 100, 100),
    squares=(4.0, 6.0, 8.0, 10.0),
    big=4.0,
    groups={"lora_A": GroupSquares(3.0, 1.0), "lora_B": GroupSquares(4.0, None)},
)


def test_lines_that_count(tmp_path: Path) -> None:
    """Attempt 1 measures every step up to the fifth and is killed; attempt 2 goes on after the second, and
    measures every second step. What attempt 1 had beyond is not of this run.
    """
    folder = str(tmp_path)
    assert read_noise_lines(folder) == () and read_noise_scale(folder) is None
    for step in range(5):
        append_noise(folder, replace(LINE, step=step))
    with (tmp_path / NOISE_FILE).open("a") as file:
        file.write('{"step": 5, "att')
    append_noise(folder, replace(LINE, step=3, attempt=2, applied=False, big=math.inf))
    append_noise(folder, replace(LINE, step=5, attempt=2, tokens=(9,), squares=(1.0,)))
    found = read_noise_lines(folder)
    assert [(line.step, line.attempt) for line in found] == [(0, 1), (1, 1), (2, 1), (3, 2), (5, 2)]
    assert found[0] == LINE and found[3].big == math.inf
    noise = read_noise_scale(folder)
    assert noise is not None and (noise.left_out, noise.single, noise.total.steps) == (1, 1, 3)
    assert noise.figures == "n/a: 3 steps of at least 5 measured, 1 step left out"
    for line in (tmp_path / NOISE_FILE).read_text().splitlines()[:2]:
        assert json.loads(line, parse_constant=pytest.fail)["tokens"] == [100] * 4
    with (tmp_path / NOISE_FILE).open("a") as file:
        file.write(json.dumps({**json.loads(line), "step": 7, "squares": [1.0]}) + "\n")
    assert read_noise_lines(folder) == found


def test_what_a_run_says() -> None:
    noise = run_noise([replace(LINE, step=step, big=4.0 + step / 100) for step in range(9)])
    assert noise.figures == "2.59 samples [2.54, 2.63], 129 trained tokens, over 9 steps"
    assert list(noise.groups) == ["lora_A"], "the engine does not show the other"
    assert noise.groups["lora_A"].tokens is not None
    assert noise.groups["lora_A"].tokens.value == pytest.approx(2 * 400 / 3 / (1 - 2 / 3))
    single = run_noise([replace(LINE, tokens=(9,), squares=(1.0,))] * 9)
    assert single.figures == "n/a: 9 steps without two forwards to compare"
    bad = run_noise([replace(LINE, squares=(1.0, math.nan, 1.0, 1.0))] * 2)
    assert bad.figures == "n/a: 0 steps of at least 5 measured, 2 steps left out"
