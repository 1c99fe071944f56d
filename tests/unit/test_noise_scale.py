"""The gradient noise scale where it is known: whether its interval holds it, and when there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from crossfoot.arithmetic.noise_scale import NoiseScale, StepNoise, noise_scale, weighted_mean

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
