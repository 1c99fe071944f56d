"""Which trial is the best one, and which cannot be told from it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from crossfoot.arithmetic.means import Estimate, difference
from crossfoot.tuning.space import simplicity
from crossfoot.tuning.trials import Trial
from crossfoot.tuning.tuning_file import Goal

MOST_FINALISTS = 4


@dataclass(frozen=True)
class Decision:
    """highest: the trial with the best mean. alike: the others whose difference from it may be nothing, the
    simplest first. chosen: the simplest of all these. gaps: by a trial's number, its difference from the
    highest. scores: by number, the mean that was decided by.
    """

    highest: Trial
    alike: tuple[Trial, ...]
    chosen: Trial
    gaps: dict[int, Estimate]
    scores: dict[int, Estimate]


def decide(trials: Sequence[Trial], goal: Goal, among: Collection[int] | None = None) -> Decision | None:
    """Of trials that did not fail; None without one. among: numbers of those that may be chosen."""

    def by_mean(trial: Trial) -> tuple[Any, ...]:
        return (
            -trial.score.mean if goal.is_maximized else trial.score.mean,
            simplicity(trial.values),
            trial.number,
        )

    def by_simplicity(trial: Trial) -> tuple[Any, ...]:
        return simplicity(trial.values), *by_mean(trial)

    measured = [trial for trial in trials if not trial.failed]
    eligible = [trial for trial in measured if among is None or trial.number in among]
    if not eligible:
        return None
    highest = min(eligible, key=by_mean)
    gaps = {trial.number: difference(trial.units, highest.units) for trial in measured}
    alike = [trial for trial in measured if trial is not highest and gaps[trial.number].holds_zero]
    chosen = min((highest, *(trial for trial in alike if trial in eligible)), key=by_simplicity)
    scores = {trial.number: trial.score.within(*goal.bounds) for trial in measured}
    return Decision(highest, tuple(sorted(alike, key=by_simplicity)), chosen, gaps, scores)


def finalists(decision: Decision) -> list[Trial]:
    """Those that are measured once more: the highest, the simplest that may be as good, and the nearest of
    the others.
    """
    near = sorted(decision.alike, key=lambda trial: abs(decision.gaps[trial.number].mean))
    distinct = dict.fromkeys(trial.number for trial in (decision.highest, decision.chosen, *near))
    numbers = list(distinct)[:MOST_FINALISTS]
    both = (decision.highest, *decision.alike)
    return sorted((trial for trial in both if trial.number in numbers), key=lambda trial: trial.number)


def decide_at_last(first: Decision, trials: Sequence[Trial], goal: Goal) -> Decision:
    """Among the finalists, by what they were worth when they were measured once more: the best of many was
    also the luckiest. trials: with those measurements.
    """
    numbers = [trial.number for trial in finalists(first)]
    again: dict[int, Trial] = {}
    for number in numbers:
        if repeats := [one for one in trials if one.is_final and one.number == number and not one.failed]:
            again[number] = reduce(Trial.beside, repeats)
    judged = [again.get(one.number, one) for one in trials if not one.is_final]
    return decide(judged, goal, numbers) or first
