"""Which values are tried next: Optuna's TPE, as a function of the trials so far and of the seed alone."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from crossfoot.tuning.space import Choice, Range, Space, combinations, has_effect, ordered
from crossfoot.tuning.trials import Trial

_BY_RESULTS, _ATTEMPTS = 8, 200
"""So often a set that was tried already is asked for anew: first of TPE, then by chance."""


def next_values(
    space: Space,
    trials: Sequence[Trial],
    *,
    start: Mapping[str, Any] | None,
    seed: int,
    is_maximized: bool,
) -> dict[str, Any] | None:
    """The values of trial len(trials) + 1; None when all have been tried. start: values that it begins with.

    Each trial has a sampler of its own, seeded by the search's seed and the trial's number: what a search
    that was stopped tries next is what it would have tried.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tried = [dict(trial.values) for trial in trials]
    every = combinations(space)
    left = None if every is None else [values for values in every if values not in tried]
    if left == []:
        return None
    for attempt in range(_ATTEMPTS):
        drawn = zlib.crc32(f"{seed} {len(trials)} {attempt}".encode())
        if attempt >= _BY_RESULTS and left:
            return random.Random(drawn).choice(left)
        kind = optuna.samplers.TPESampler if attempt < _BY_RESULTS else optuna.samplers.RandomSampler
        study = optuna.create_study(
            direction="maximize" if is_maximized else "minimize", sampler=kind(seed=drawn)
        )
        study.add_trials([_told(trial, space, optuna) for trial in trials])
        if start:
            study.enqueue_trial(dict(start))
        values = _suggested(study.ask(), space)
        if values not in tried:
            return values
    return None


def _suggested(trial: Any, space: Space) -> dict[str, Any]:
    """Only what has an effect beside the values before it."""
    values: dict[str, Any] = {}
    for name, one in ordered(space):
        if not has_effect(name, values):
            continue
        if isinstance(one, Choice):
            several = len(one.options) > 1
            values[name] = trial.suggest_categorical(name, one.options) if several else one.options[0]
        elif one.is_whole:
            step = int(one.step or 1)
            values[name] = trial.suggest_int(name, int(one.low), int(one.high), step=step, log=one.is_log)
        else:
            drawn = trial.suggest_float(name, one.low, one.high, step=one.step, log=one.is_log)
            values[name] = one.rounded(drawn)
    return values


def _told(trial: Trial, space: Space, optuna: Any) -> Any:
    """A trial that is done, in Optuna's form."""
    kinds = {name: _distribution(space[name], optuna) for name in trial.values if _is_chosen(space[name])}
    values = {name: trial.values[name] for name in kinds}
    if trial.failed:
        failed = optuna.trial.TrialState.FAIL
        return optuna.trial.create_trial(state=failed, params=values, distributions=kinds)
    return optuna.trial.create_trial(value=trial.score.mean, params=values, distributions=kinds)


def _is_chosen(one: Choice | Range) -> bool:
    return isinstance(one, Range) or len(one.options) > 1


def _distribution(one: Choice | Range, optuna: Any) -> Any:
    kinds = optuna.distributions
    if isinstance(one, Choice):
        return kinds.CategoricalDistribution(one.options)
    if one.is_whole:
        return kinds.IntDistribution(int(one.low), int(one.high), step=int(one.step or 1), log=one.is_log)
    return kinds.FloatDistribution(one.low, one.high, step=one.step, log=one.is_log)
