"""The gradient noise scale: how many samples a step may have before its gradient is hardly any surer.

McCandlish et al. 2018 (arXiv 1812.06162), B_simple = tr(Sigma) / |G|^2: the variance of one token's gradient,
summed over all parameters, by the squared norm of the true gradient. Both come from norms that a step has
anyway: those of its forwards' gradients and that of their mean. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.arithmetic.intervals import Interval
from crossfoot.arithmetic.means import Estimate, student_t
from crossfoot.phrases import counted

LEAST_STEPS = 5
"""Of fewer measured steps nothing is said."""
MOST_BLOCKS = 20
"""More steps are joined to so many blocks: the weights of neighbours are almost the same."""


@dataclass(frozen=True)
class StepNoise:
    """What one step, of all ranks, says. Gradients are means over trained tokens, before clipping.

    forwards: those with trained tokens. tokens: trained, of all of them; samples: likewise. small: the mean,
    weighted by tokens, of the squared norms of the forwards' gradients. big: the squared norm of the step's.
    """

    forwards: int
    tokens: int
    samples: int
    small: float
    big: float

    @property
    def is_measured(self) -> bool:
        """Whether there are two forwards to tell apart, and numbers to do it by."""
        return self.forwards > 1 and math.isfinite(self.small) and math.isfinite(self.big)

    @property
    def noise(self) -> float:
        """Estimate of tr(Sigma) for one token. Where the gradient of n tokens has a variance of tr / n, the
        mean of `small` is |G|^2 + forwards x tr / tokens, and that of `big` |G|^2 + tr / tokens, however the
        tokens lie in the forwards: the mean of n x tr / n over them is tr for each.
        """
        return (self.small - self.big) * self.tokens / (self.forwards - 1)

    @property
    def signal(self) -> float:
        """Estimate of |G|^2; may be negative in one step."""
        return self.big - self.noise / self.tokens


@dataclass(frozen=True)
class NoiseScale:
    """What many steps say. tokens, samples: the noise scale in trained tokens and in samples of as many as
    the steps' have on average; None while nothing can be said, and why_not then says why. noise: tr(Sigma)
    of one token; signal: |G|^2; means over the steps. steps: that were measured.
    """

    tokens: Interval | None
    samples: Interval | None
    noise: Estimate
    signal: Estimate
    steps: int
    why_not: str = ""


def weighted_mean(tokens: Sequence[int], squares: Sequence[float]) -> float:
    """`StepNoise.small`, of the squared norms of the forwards' gradients; NaN without a token."""
    return float(np.dot(tokens, squares)) / sum(tokens) if sum(tokens) else math.nan


def noise_scale(steps: Iterable[StepNoise]) -> NoiseScale:
    """The ratio of the means over the steps, in their order, and between what the true one lies. Steps that
    measure nothing are left out.

    The interval holds every ratio r for which the mean of noise - r x signal may be 0: within Student's t
    times its standard error, which is the jackknife's over steps or blocks of them (Fieller 1954). A
    jackknife of the ratio itself covers too little where the signal is hardly seen. The interval is without
    end where the signal's own reaches 0; then there is no number.
    """
    taken = [step for step in steps if step.is_measured]
    noise, signal, interval = _ratio(np.array([(step.noise, step.signal) for step in taken]).reshape(-1, 2))
    why_not = _why_not(len(taken), noise, signal)
    if why_not:
        return NoiseScale(None, None, noise, signal, len(taken), why_not)
    each = sum(step.tokens for step in taken) / sum(step.samples for step in taken)
    samples = Interval(*(number / each for number in (interval.value, interval.low, interval.high)))
    return NoiseScale(interval, samples, noise, signal, len(taken))


def _why_not(steps: int, noise: Estimate, signal: Estimate) -> str:
    if steps < LEAST_STEPS:
        return f"{counted(steps, 'step')} of at least {LEAST_STEPS} measured"
    if noise.mean < 0:
        return "the noise comes out negative, which only rounding can do"
    if signal.low <= 0:
        return f"over {steps:,} steps the gradient is lost in its noise: its square may be 0"
    return ""


def _ratio(pairs: np.ndarray) -> tuple[Estimate, Estimate, Interval]:
    """Of pairs [steps, 2]: the mean of each column, and their ratio, the first by the second."""
    if len(pairs) < LEAST_STEPS:
        unknown = Estimate(math.nan, -math.inf, math.inf)
        return unknown, unknown, Interval(math.nan, 0.0, math.inf)
    blocks = _in_blocks(pairs)
    reach = np.cov(blocks.T) * student_t(len(blocks) - 1) ** 2 / len(blocks)
    means, reaches = pairs.mean(axis=0), np.sqrt(np.diag(reach))
    columns = zip(means.tolist(), (means - reaches).tolist(), (means + reaches).tolist(), strict=True)
    noise, signal = (Estimate(*column) for column in columns)
    # (top - r bottom)^2 = reach of (top - r bottom), solved for r
    curve, slope, rest = (np.outer(means, means) - reach)[[1, 0, 0], [1, 1, 0]].tolist()
    if curve <= 0:
        return noise, signal, Interval(noise.mean / signal.mean, 0.0, math.inf)
    root = math.sqrt(max(0.0, slope**2 - curve * rest))
    low, high = ((slope + side) / curve for side in (-root, root))
    return noise, signal, Interval(noise.mean / signal.mean, max(0.0, low), high)


def _in_blocks(pairs: np.ndarray) -> np.ndarray:
    """Means of neighbours, [at most MOST_BLOCKS, 2]; all of as many steps, the last may have fewer."""
    each = ceil_div(len(pairs), MOST_BLOCKS)
    return np.array([pairs[first : first + each].mean(axis=0) for first in range(0, len(pairs), each)])
