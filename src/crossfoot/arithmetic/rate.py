"""The learning rate of every optimizer step, known before the run starts.

- Peak: reference x f(global_batch_size / reference_batch), f being 1 (none), the ratio
  (linear) or its root (sqrt). Where the batch changes, so does the peak, with the first step of the new one.
- Warm-up, step k < warmup_steps: peak x (k + 1) / warmup_steps, so that the first step already moves.
- After it, p = (k - warmup_steps) / (total_steps - warmup_steps), in [0, 1): cosine, linear or constant
  from the peak towards min_ratio x peak, which would be reached one step after the last.
- cosine_with_restarts: so many cosines one behind the other, each from the peak.
- wsd (warm-up, stable, decay; Hu et al. 2024): the peak, until a share of all steps is left; then p counts
  from there, and what is left of the peak is 1 - p (linear), 1 - the root of p (sqrt) or a cosine.
- A group of parameters has its own ratio of these rates.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from operator import itemgetter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.batch import Thresholds, ceil_div
from crossfoot.arithmetic.impossible import Impossible, alternatives

Rule = Literal["none", "linear", "sqrt"]
Shape = Literal["cosine", "cosine_with_restarts", "linear", "constant", "wsd"]
DecayShape = Literal["linear", "sqrt", "cosine"]

_LEFT: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2.0,
    "linear": lambda progress: 1.0 - progress,
    "sqrt": lambda progress: 1.0 - math.sqrt(progress),
}
"""What is left of the way from the peak to the floor, at a progress in [0, 1]."""

REFERENCE_BATCH = "lr.reference_batch"
WARMUP_STEPS = "lr.warmup_steps"
WARMUP_FRACTION = "lr.warmup_fraction"
WARMUP_SAMPLES = "lr.warmup_samples"
CYCLES = "lr.cycles"


class RateImpossible(Impossible):
    """No rate follows from the reference, the rule, the warm-up and the length of the run."""


@dataclass(frozen=True)
class RatePlan:
    """The rate of every step, equal on all ranks and topologies.

    reference: the rate that was right at reference_batch samples per step. rule: how it follows the batch.
    peak: the rate after the warm-up, of the largest batch. schedule: the shape after it. min_ratio: its floor
    as a share of the peak. warmup_steps, total_steps: optimizer steps, 0 <= warmup_steps <= total_steps.
    cycles: of cosine_with_restarts. decay_steps: the last ones of wsd, in the shape decay_shape. groups: a
    kind of `rate_groups.GROUPS` -> its ratio of the rate. peaks: (first step, peak that holds from it on),
    where the batch changes.
    """

    reference: float
    reference_batch: int | None
    rule: Rule
    peak: float
    schedule: Shape
    min_ratio: float
    warmup_steps: int
    total_steps: int
    cycles: int = 1
    decay_steps: int = 0
    decay_shape: DecayShape = "linear"
    groups: Mapping[str, float] = field(default_factory=dict)
    peaks: tuple[tuple[int, float], ...] = ()

    def peak_at(self, step: int) -> float:
        """The peak by the batch of this step."""
        nth = bisect_right(self.peaks, step, key=itemgetter(0)) - 1
        return self.peaks[nth][1] if nth >= 0 else self.peak

    def at(self, step: int) -> float:
        """The rate set in the optimizer for this step, counted from 0. Outside the run: IndexError."""
        if not 0 <= step < self.total_steps:
            raise IndexError(f"step index {step} is not one of the run's {self.total_steps} steps")
        peak = self.peak_at(step)
        if step < self.warmup_steps:
            return peak * ((step + 1) / self.warmup_steps)
        if self.schedule == "constant" or (self.schedule == "wsd" and step < self.decay_begin):
            return peak
        left = _LEFT[self._falls_by](self._progress(step))
        # As a share of the peak, so that the first step after the warm-up is the peak to the last bit.
        return peak * (self.min_ratio + (1.0 - self.min_ratio) * left)

    def groups_at(self, step: int) -> dict[str, float]:
        """The rate of each group for this step."""
        base = self.at(step)
        return {group: base * ratio for group, ratio in self.groups.items()}

    @property
    def decay_begin(self) -> int:
        """The first step of wsd's decay, counted from 0; it is still at the peak."""
        return self.total_steps - self.decay_steps

    @property
    def _falls_by(self) -> str:
        """A key of _LEFT."""
        falls: dict[str, str] = {"linear": "linear", "wsd": self.decay_shape}
        return falls.get(self.schedule, "cosine")

    def _progress(self, step: int) -> float:
        """How far the fall that this step is in has come, in [0, 1)."""
        if self.schedule == "wsd":
            return (step - self.decay_begin) / self.decay_steps
        steps = self.total_steps - self.warmup_steps
        return (step - self.warmup_steps) * self.cycles % steps / steps

    def every(self) -> NDArray[np.float64]:
        """The rates of all steps, float64[total_steps]; bit for bit those of `at`."""
        return np.fromiter((self.at(step) for step in range(self.total_steps)), np.float64, self.total_steps)


def plan_rate(
    *,
    reference: float,
    reference_batch: int | None,
    rule: Rule,
    global_batch_size: int,
    schedule: Shape,
    min_ratio: float,
    total_steps: int,
    warmup_steps: int | None = None,
    warmup_fraction: float | None = None,
    warmup_samples: int | None = None,
    cycles: int = 1,
    decay_fraction: float = 0.0,
    decay_shape: DecayShape = "linear",
    groups: Mapping[str, float] | None = None,
    batches: Thresholds = (),
    samples_before: Callable[[int], int] | None = None,
) -> RatePlan:
    """The rate of a run of total_steps steps of global_batch_size samples. Where the batch changes that is
    the largest; batches: (first step, batch that holds from it on), samples_before: of a step, what the steps
    before it train.

    At most one of the warm-up numbers; none of them: no warm-up. A fraction of the steps and a number of
    samples are rounded up to steps exactly (0.07 of 100 steps is 7, as it is written). cycles: of
    cosine_with_restarts. decay_fraction: of all steps, rounded up, at most those after the warm-up: of wsd.
    What another schedule has no use for is not looked at. groups: kind -> ratio. Raises RateImpossible, and
    ValueError for what a config cannot say.
    """
    _refuse_unusable(reference, reference_batch, rule, global_batch_size, min_ratio, total_steps)
    given: dict[str, int | float] = {
        key: value
        for key, value in (
            (WARMUP_STEPS, warmup_steps),
            (WARMUP_FRACTION, warmup_fraction),
            (WARMUP_SAMPLES, warmup_samples),
        )
        if value is not None
    }
    warmup = _warmup(given, samples_before or (lambda step: step * global_batch_size), total_steps)
    cycles = cycles if schedule == "cosine_with_restarts" else 1
    if cycles > max(1, total_steps - warmup):
        raise RateImpossible(
            f"cycles {cycles} are more than the {total_steps - warmup} steps after the warm-up",
            (CYCLES,),
            helps=(f"set {CYCLES} to {max(1, (total_steps - warmup) // 10)}, or make the run longer",),
        )
    decay = min(math.ceil(_written(decay_fraction) * total_steps), total_steps - warmup)
    return RatePlan(
        reference=float(reference),
        reference_batch=reference_batch,
        rule=rule,
        peak=_peak(reference, reference_batch, rule, global_batch_size),
        peaks=tuple(
            (first, _peak(reference, reference_batch, rule, batch))
            for first, batch in (batches if len(batches) > 1 else ())
        ),
        schedule=schedule,
        min_ratio=float(min_ratio),
        warmup_steps=warmup,
        total_steps=total_steps,
        cycles=cycles,
        decay_steps=decay if schedule == "wsd" else 0,
        decay_shape=decay_shape,
        groups=dict(groups or {}),
    )


def half_life_beta(beta: float, reference_batch: int | None, global_batch_size: int) -> float:
    """AdamW's second beta for another batch: beta ** (global_batch_size / reference_batch), so that a
    gradient has half its weight after as many samples as at the reference. Without a reference it is beta.
    """
    return beta if reference_batch is None else float(beta ** (global_batch_size / reference_batch))


def _written(value: float) -> Fraction:
    """The number as a person wrote it: 0.07 is 7/100, not the binary fraction beside it."""
    return Fraction(repr(float(value)))


def _peak(reference: float, reference_batch: int | None, rule: Rule, global_batch_size: int) -> float:
    """The rate after the warm-up. Linear: Goyal et al. 2017; sqrt: Malladi et al. 2022 (for Adam)."""
    if rule == "none" or reference_batch is None:
        return float(reference)
    if rule == "linear":
        return float(_written(reference) * Fraction(global_batch_size, reference_batch))
    return float(reference) * math.sqrt(global_batch_size / reference_batch)


def _refuse_unusable(
    reference: float,
    reference_batch: int | None,
    rule: Rule,
    global_batch_size: int,
    min_ratio: float,
    total_steps: int,
) -> None:
    """Raise RateImpossible without the batch that a rule needs, ValueError for what a config cannot say."""
    counts = (global_batch_size, total_steps, 1 if reference_batch is None else reference_batch)
    if not (0 < reference < math.inf and 0 <= min_ratio <= 1 and min(counts) >= 1):
        raise ValueError(f"no rate follows from {reference}, {min_ratio} and {counts}")
    if rule != "none" and reference_batch is None:
        raise RateImpossible(
            f"rule {rule} follows the batch, but reference_batch is not given",
            (REFERENCE_BATCH, "lr.rule"),
            notes=(f"the peak is {reference} x f({global_batch_size} / reference_batch)",),
            helps=alternatives(
                (
                    f"set {REFERENCE_BATCH} to {global_batch_size}, this run's batch, to keep {reference}, "
                    f"or to the samples per step that {reference} was right for",
                    f"set lr.rule to none: the peak is {reference} whatever the batch",
                )
            ),
        )


def _warmup(given: Mapping[str, int | float], samples_before: Callable[[int], int], total_steps: int) -> int:
    """Warm-up in steps from at most one of the three keys."""
    if len(given) > 1 or not all(0 <= value < math.inf for value in given.values()):
        raise ValueError(f"no warm-up follows from {given}")
    for key, value in given.items():
        steps = _in_steps(key, value, samples_before, total_steps)
        if steps > total_steps:
            raise _longer_than_run(key, value, steps, samples_before, total_steps)
        return steps
    return 0


def _in_steps(key: str, value: int | float, samples_before: Callable[[int], int], total_steps: int) -> int:
    """One warm-up number as steps, rounded up."""
    if key == WARMUP_FRACTION:
        return math.ceil(_written(value) * total_steps)
    if key == WARMUP_SAMPLES:
        more = int(value) - samples_before(total_steps)
        if more > 0:  # longer than the run: as if it went on as it ends
            last = samples_before(total_steps) - samples_before(total_steps - 1)
            return total_steps + ceil_div(more, last)
        return bisect_left(range(total_steps), int(value), key=samples_before)
    return int(value)


def _longer_than_run(
    key: str, value: int | float, steps: int, samples_before: Callable[[int], int], total_steps: int
) -> RateImpossible:
    """A warm-up that does not end; the changes shorten it (3 % is the usual) or lengthen the run. A share of
    the run is never longer than the run.
    """
    three_percent = math.ceil(Fraction(3, 100) * total_steps)
    usual, most = three_percent, total_steps
    if key == WARMUP_SAMPLES:
        usual, most = samples_before(usual), samples_before(most)
    changes = (
        f"set {key} to {usual}: {three_percent} of {total_steps} steps, the usual 3 % rounded up",
        f"set train.max_steps to {steps} or more, in the place of train.epochs",
    )
    return RateImpossible(
        f"{key.removeprefix('lr.')} {value} is a warm-up of {steps} steps, but the run has {total_steps}",
        (key,),
        notes=(f"{most} is the most that {key} can be in this run",),
        helps=alternatives(changes),
    )
