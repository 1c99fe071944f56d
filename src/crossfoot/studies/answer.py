"""What a study answers: of each batch what it came to, the critical batch, and what other batches would need
than the config's own. Made of results alone.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from crossfoot import durable
from crossfoot.arithmetic.critical_batch import Fit, LargestWithin, fitted, largest_within
from crossfoot.arithmetic.means import difference
from crossfoot.arithmetic.to_target import loss_after
from crossfoot.documents import plain
from crossfoot.studies.batch_answer import BatchAnswer, BestRuns, batch_answer, best_runs, curve_of, loss_at
from crossfoot.studies.results import RunCost, StudyResults, StudyRun

ANSWER, ANSWER_FORMAT = "answer.json", 1
POWERS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""Of the batch, by which a rule of lr.rule lets the rate grow."""
Why = Literal["unfinished", "diverged", "does not foot"]
Place = Literal["below", "inside", "above"]


@dataclass(frozen=True)
class Lowest:
    """The batch with the lowest mean loss where all have as many `count` samples or steps. alike: batches
    that the seeds cannot tell from it.
    """

    count: int
    batch: int
    alike: tuple[int, ...]


@dataclass(frozen=True)
class Compared:
    """What another batch needs until the target, over what the own one does. is_measured: both were trained
    and reached it; else both are the fit's.
    """

    batch: int
    steps: float
    samples: float
    is_measured: bool


@dataclass(frozen=True)
class Answer:
    """target: the loss until which steps are counted, nats a trained token; None: there is none. without:
    batches that have no answer, and why. not_footing, diverged: names of runs. place: whether the own batch
    lies below, inside or above the interval of the critical batch. smaller, twice: what half of the own batch
    or less, and twice as much, need. nearest_rules: of lr.rule, those whose rates, from the own batch's best
    one on, are nearest to the best rates of the other batches.
    """

    name: str
    own_batch: int
    budget_samples: int
    target: float | None
    target_is_given: bool
    batches: tuple[BatchAnswer, ...]
    without: Mapping[int, Why]
    not_footing: tuple[str, ...]
    diverged: tuple[str, ...]
    equal_samples: Lowest | None = None
    equal_steps: Lowest | None = None
    fit: Fit | None = None
    within: LargestWithin | None = None
    place: Place | None = None
    smaller: Compared | None = None
    twice: Compared | None = None
    nearest_rules: tuple[str, ...] = ()

    def batch(self, number: int) -> BatchAnswer | None:
        """Of one batch; None where it has none."""
        return next((one for one in self.batches if one.batch == number), None)

    @property
    def steps(self) -> dict[int, float]:
        """Until the target, by batch, of those that reached it."""
        return {one.batch: one.target.steps.mean for one in self.batches if one.target.steps is not None}

    @property
    def seeds(self) -> int:
        """The fewest that a batch was trained with."""
        return min((one.seeds for one in self.batches), default=0)

    @property
    def rates(self) -> int:
        """The most that were tried for a batch."""
        return max((len(one.tried) for one in self.batches), default=0)


def answer(results: StudyResults, target: float | None = None) -> Answer:
    """Of the runs so far. target: a validation loss, nats a trained token; None: `default_target`. Steps,
    samples and seconds count from the first point of a run on, so from the checkpoint where it branched off.
    """
    by_batch: dict[int, list[StudyRun]] = defaultdict(list)
    for run in map(StudyRun.from_its_start, results.runs):
        by_batch[run.batch].append(run)
    costs = {name: _cost_from_its_start(cost) for name, cost in results.costs.items()}
    without: dict[int, Why] = {batch: why for batch, runs in by_batch.items() if (why := _why_not(runs))}
    whole = {batch: runs for batch, runs in sorted(by_batch.items()) if batch not in without}
    over = [run.points[-1].samples for runs in whole.values() for run in runs if run.state == "done"]
    shared = min([*over, results.budget_samples])
    best: dict[int, BestRuns] = {}
    for batch, runs in whole.items():
        if (found := best_runs(runs, shared)) is None:
            without[batch] = "diverged"
        else:
            best[batch] = found
    few = min((run.points[-1].step for one in best.values() for run in one.runs), default=0)
    level = default_target(best, results.own_batch) if target is None else target
    wanted = -math.inf if level is None else level
    bare = Answer(
        name=results.name,
        own_batch=results.own_batch,
        budget_samples=results.budget_samples,
        target=level,
        target_is_given=target is not None,
        batches=tuple(batch_answer(one, few, wanted, costs) for one in best.values()),
        without=dict(sorted(without.items())),
        not_footing=tuple(run.name for run in results.runs if _fails(run)),
        diverged=tuple(run.name for run in results.runs if run.state == "diverged"),
        equal_samples=_lowest(best, shared, lambda run: loss_after(curve_of(run), shared)),
        equal_steps=_lowest(best, few, lambda run: loss_at(run, few)),
        nearest_rules=_nearest_rules(best, results.own_batch),
    )
    return _compared(bare)


def write_answer(folder: str, found: Answer) -> None:
    """answer.json in the folder of a study. Raises OSError."""
    text = json.dumps({"format": ANSWER_FORMAT, **plain(found)}, indent=1, allow_nan=False)
    durable.replace(os.path.join(folder, ANSWER), text + "\n")


def default_target(best: Mapping[int, BestRuns], own_batch: int) -> float | None:
    """The loss that most batches come down to after their first validation, the own one among them where it
    can be; of several such losses the lowest. None without a batch.

    Each batch offers the lowest loss that all its seeds come down to. Usually the worst one's is taken, and
    all batches reach it. Where the largest batches hardly train within the budget, small ones would be at
    that loss before anybody looked: then it is the loss of a better batch, and the largest do not reach it.
    """

    def worth(target: float) -> tuple[bool, int, float]:
        reached = {batch for batch, one in best.items() if one.to_target(target, {}).how == "reached"}
        return own_batch in reached, len(reached), -target

    return max((one.lowest_loss for one in best.values()), key=worth, default=None)


def _cost_from_its_start(cost: RunCost) -> RunCost:
    return replace(cost, seconds=tuple(at - cost.seconds[0] for at in cost.seconds))


def _why_not(runs: Sequence[StudyRun]) -> Why | None:
    """Why a batch cannot be judged by its runs."""
    if any(run.state == "unfinished" or (run.state == "done" and len(run.points) < 2) for run in runs):
        return "unfinished"
    return "does not foot" if any(_fails(run) for run in runs) else None


def _fails(run: StudyRun) -> bool:
    return run.state != "unfinished" and not (run.foots and run.same_samples)


def _lowest(best: Mapping[int, BestRuns], count: int, loss: Callable[[StudyRun], float]) -> Lowest | None:
    every = {batch: {run.seed: loss(run) for run in one.runs} for batch, one in best.items()}
    losses = {batch: each for batch, each in every.items() if all(map(math.isfinite, each.values()))}
    if len(losses) < 2:
        return None
    lowest = min(losses, key=lambda batch: (fmean(losses[batch].values()), batch))
    alike = [batch for batch in losses if batch != lowest and _are_alike(losses[batch], losses[lowest])]
    return Lowest(count, lowest, tuple(alike))


def ruled_rate(rule: str, rate: float, batch: float, other: float) -> float:
    """The rate of another batch by a rule of lr.rule, when this is the rate of one."""
    return rate * math.pow(other / batch, POWERS[rule])


def _nearest_rules(best: Mapping[int, BestRuns], own: int) -> tuple[str, ...]:
    """By the mean distance of the logarithms; all that are as near. None where a batch had no choice."""
    rates = {batch: one.best.rate for batch, one in best.items() if len(one.tried) > 1}
    others = rates.keys() - {own}
    if own not in rates or not others:
        return ()
    distances = {
        rule: fmean(
            abs(math.log(rates[batch] / ruled_rate(rule, rates[own], own, batch))) for batch in others
        )
        for rule in POWERS
    }
    least = min(distances.values())
    return tuple(rule for rule, distance in distances.items() if math.isclose(distance, least, abs_tol=1e-9))


def _are_alike(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Whether their difference, seed by seed, may be nothing. Of a single seed nobody knows."""
    seeds = sorted(one.keys() & other.keys())
    return (
        len(seeds) > 1
        and difference([one[seed] for seed in seeds], [other[seed] for seed in seeds]).holds_zero
    )


def _compared(bare: Answer) -> Answer:
    """With what follows from steps until the target."""
    steps, own = bare.steps, bare.own_batch
    fit = fitted(steps)
    known = fit if fit is not None and fit.says_something else None
    smaller = max((batch for batch in steps if 2 * batch <= own), default=max(1, own // 2))
    place: Place | None = None
    if known is not None:
        interval = known.critical_batch
        place = "below" if own < interval.low else "above" if own > interval.high else "inside"
    return replace(
        bare,
        fit=fit,
        within=largest_within({batch: batch * number for batch, number in steps.items()}),
        place=place,
        smaller=_over_own(bare, known, smaller),
        twice=_over_own(bare, known, 2 * own),
    )


def _over_own(bare: Answer, fit: Fit | None, batch: int) -> Compared | None:
    own, steps = bare.own_batch, bare.steps
    is_measured = {batch, own} <= steps.keys()
    if batch == own or not (is_measured or fit):
        return None
    ratio = steps[batch] / steps[own] if is_measured or fit is None else fit.steps(batch) / fit.steps(own)
    return Compared(batch, ratio, ratio * batch / own, is_measured)
