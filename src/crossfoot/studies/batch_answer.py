"""What one batch of a study came to: its best rate, and the mean curve of its runs at that rate. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from crossfoot.arithmetic.means import Estimate, difference, estimate
from crossfoot.arithmetic.to_target import At, loss_after, samples_to
from crossfoot.studies.results import RunCost, StudyRun

Costs = Mapping[str, RunCost]
Edge = Literal["lowest", "highest"]


@dataclass(frozen=True)
class Tried:
    """A rate that all seeds were trained with. loss: validation loss after the samples that all batches have,
    nats a trained token.
    """

    factor: float
    rate: float
    loss: Estimate


@dataclass(frozen=True)
class MeanPoint:
    """The mean over seeds after so many steps; loss: of the validation. seconds: of training, None where
    nobody measured.
    """

    step: int
    samples: int
    loss: Estimate
    seconds: float | None


@dataclass(frozen=True)
class ToTarget:
    """How far a batch was when its loss came down to the target: the geometric mean over seeds.

    reached: all seeds are there after their first validation, and only then there are numbers. not reached:
    a seed never is. at once: a seed is there at its first validation or before, so that nobody saw when.
    """

    how: Literal["reached", "not reached", "at once"]
    steps: Estimate | None = None
    samples: Estimate | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class BatchAnswer:
    """One batch, at its best rate. edge: where the best rate lies at the end of those tried. alike: factors
    whose loss the seeds cannot tell from the best. equal_samples, equal_steps: validation loss where all
    batches have as many; None where that is before the first validation. gap: validation loss less training
    loss at the end. peak_bytes: of the rank with most.
    """

    batch: int
    seeds: int
    tried: tuple[Tried, ...]
    best: Tried
    edge: Edge | None
    alike: tuple[float, ...]
    curve: tuple[MeanPoint, ...]
    equal_samples: Estimate
    equal_steps: Estimate | None
    gap: Estimate | None
    target: ToTarget
    tokens_per_second: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class BestRuns:
    """The runs of a batch that its answer is made of: every seed at the best rate."""

    runs: tuple[StudyRun, ...]
    tried: tuple[Tried, ...]
    best: Tried
    edge: Edge | None
    alike: tuple[float, ...]

    @property
    def lowest_loss(self) -> float:
        """That every seed comes down to."""
        return max(min(point.validation_loss for point in run.points) for run in self.runs)

    def to_target(self, target: float, costs: Costs) -> ToTarget:
        """When they were there."""
        found = [samples_to(curve_of(run), target) for run in self.runs]
        known = [samples for samples in found if samples is not None]
        if len(known) < len(found):
            return ToTarget("not reached")
        pairs = list(zip(self.runs, known, strict=True))
        if any(samples <= run.points[1].samples for run, samples in pairs):
            return ToTarget("at once")
        steps = [_beside(run, samples, [point.step for point in run.points]) for run, samples in pairs]
        seconds = [
            _beside(run, samples, costs[run.name].seconds) for run, samples in pairs if run.name in costs
        ]
        return ToTarget("reached", _geometric(steps), _geometric(known), _whole_mean(seconds, len(pairs)))


def curve_of(run: StudyRun) -> list[At]:
    """Its validation losses."""
    return [At(point.samples, point.validation_loss) for point in run.points]


def loss_at(run: StudyRun, step: int) -> float:
    """Its validation loss after so many steps, which may lie between two validations; NaN before the first:
    nobody looked.
    """
    if step < run.points[1].step:
        return math.nan
    return loss_after([At(point.step, point.validation_loss) for point in run.points], step)


def losses_after(runs: Iterable[StudyRun], samples: int) -> dict[str, float | None]:
    """By name of a run that is over: the loss by which `best_runs` compares rates, counted from its first
    point on; None where it diverged.
    """
    return {
        run.name: loss_after(curve_of(run.from_its_start()), samples) if run.state == "done" else None
        for run in runs
        if run.state != "unfinished"
    }


def best_runs(runs: Sequence[StudyRun], samples: int) -> BestRuns | None:
    """Of the runs of one batch that are over. samples: after so many the rates are compared. None: no rate
    was trained to its end with every seed.

    A rate that diverged with one seed is not chosen, but bounds the grid: the best below it is at no edge.
    """
    by_factor: dict[float, list[StudyRun]] = defaultdict(list)
    for run in runs:
        by_factor[run.rate_factor].append(run)
    seeds = {run.seed for run in runs}
    whole = {
        factor: sorted(group, key=lambda run: run.seed)
        for factor, group in sorted(by_factor.items())
        if {run.seed for run in group if run.state == "done"} == seeds
    }
    if not whole:
        return None
    losses = {
        factor: [loss_after(curve_of(run), samples) for run in group] for factor, group in whole.items()
    }
    tried = [Tried(factor, whole[factor][0].peak_rate, estimate(each)) for factor, each in losses.items()]
    best = min(tried, key=lambda one: (one.loss.mean, one.factor))
    alike = tuple(
        factor
        for factor, each in losses.items()
        if factor != best.factor and len(seeds) > 1 and difference(each, losses[best.factor]).holds_zero
    )
    ends: dict[float, Edge] = {min(by_factor): "lowest", max(by_factor): "highest"}
    edge = ends.get(best.factor) if len(by_factor) > 1 else None
    return BestRuns(tuple(whole[best.factor]), tuple(tried), best, edge, alike)


def batch_answer(best: BestRuns, equal_steps: int, target: float, costs: Costs) -> BatchAnswer:
    """All that a batch came to."""
    runs = best.runs

    def mean(value: Callable[[StudyRun], float]) -> Estimate | None:
        values = [value(run) for run in runs]
        return estimate(values) if all(map(math.isfinite, values)) else None

    own = [costs[run.name] for run in runs if run.name in costs]
    peaks = [cost.peak_bytes for cost in own if cost.peak_bytes is not None]
    return BatchAnswer(
        batch=runs[0].batch,
        seeds=len(runs),
        tried=best.tried,
        best=best.best,
        edge=best.edge,
        alike=best.alike,
        curve=tuple(_mean_curve(runs, costs)),
        equal_samples=best.best.loss,
        equal_steps=mean(lambda run: loss_at(run, equal_steps)),
        gap=mean(lambda run: run.points[-1].validation_loss - run.points[-1].training_loss),
        target=best.to_target(target, costs),
        tokens_per_second=fmean(cost.tokens_per_second for cost in own) if own else None,
        peak_bytes=max(peaks, default=None),
    )


def _mean_curve(runs: Sequence[StudyRun], costs: Costs) -> list[MeanPoint]:
    """At the steps where every seed was validated."""
    by_step = [{point.step: at for at, point in enumerate(run.points)} for run in runs]
    shared = sorted(set.intersection(*(set(each) for each in by_step)))
    curve = []
    for step in shared:
        at = [each[step] for each in by_step]
        points = [run.points[place] for run, place in zip(runs, at, strict=True)]
        seconds = [
            costs[run.name].seconds[place] for run, place in zip(runs, at, strict=True) if run.name in costs
        ]
        loss = estimate([point.validation_loss for point in points])
        curve.append(MeanPoint(step, points[0].samples, loss, _whole_mean(seconds, len(runs))))
    return curve


def _whole_mean(values: Sequence[float], of: int) -> float | None:
    """None where one is missing."""
    return fmean(values) if len(values) == of else None


def _beside(run: StudyRun, samples: float, values: Sequence[float]) -> float:
    """What stands beside these samples, evenly between two points."""
    return float(np.interp(samples, [point.samples for point in run.points], values))


def _geometric(values: Sequence[float]) -> Estimate:
    logs = estimate([math.log(value) for value in values])
    return Estimate(*(math.exp(each) for each in (logs.mean, logs.low, logs.high)))
