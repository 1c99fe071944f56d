"""Made-up results of a study, of which the answer is known.

A run of batch B has come as far after S steps as S / (1 + CRITICAL / B) tells, so that steps until any loss
are a hyperbola in B; a rate that is not the best one, which grows with the root of B, is slower.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from crossfoot.studies.results import CurvePoint, RunCost, StudyResults, StudyRun

CRITICAL = 180
_START, _END = 3.6, 1.9
_VALIDATIONS = 12
_TOKENS = 118


def made_study(
    name: str = "made",
    batches: Sequence[int] = (16, 32, 64, 100, 128, 256),
    factors: Sequence[float] = (0.5, 1.0, 2.0),
    seeds: int = 3,
    budget_samples: int = 20_000,
    noise: float = 0.02,
    own_batch: int = 100,
    rate: float = 2e-4,
    with_costs: bool = True,
) -> StudyResults:
    """rate: the best one of a batch of 100; the config's rule is linear, so that other factors are best."""
    runs = tuple(
        made_run(batch, factor, seed, budget_samples, noise, rate)
        for batch in batches
        for factor in factors
        for seed in range(1, seeds + 1)
    )
    costs = {run.name: _cost(run) for run in runs} if with_costs else {}
    return StudyResults(
        name=name,
        own_batch=own_batch,
        budget_samples=budget_samples,
        samples_per_epoch=51_760,
        tokens_per_sample=float(_TOKENS),
        samples_sha256="5f" * 32,
        rule="linear",
        runs=runs,
        costs=costs,
    )


def made_run(
    batch: int, factor: float, seed: int, budget_samples: int = 20_000, noise: float = 0.0, rate: float = 2e-4
) -> StudyRun:
    """One run of the linear rule, done and footing."""
    peak = factor * rate * batch / 100
    chance = random.Random(f"{batch} {factor} {seed}").gauss(0, noise)
    off = math.log(peak / (rate * math.sqrt(batch / 100)))
    pace = math.exp(chance - off * off / 4) / (1 + CRITICAL / batch)
    total = math.ceil(budget_samples / batch)
    every = max(1, round(total / _VALIDATIONS))
    steps = [0, *range(every, total, every), total]
    points = tuple(
        CurvePoint(step, step * batch, step * batch * _TOKENS, _loss(pace * step), _training_loss(pace, step))
        for step in steps
    )
    return StudyRun(
        f"b{batch:04d}-x{factor:g}-s{seed}", batch, factor, peak, seed, "done", True, True, points
    )


def steps_until(target: float, batch: int, pace: float = 1.0) -> float:
    """Of a run without noise at the best rate, exactly. pace: of another run."""
    progress = 8 * (((_START - _END) / (target - _END)) ** (1 / 0.7) - 1)
    return progress * (1 + CRITICAL / batch) / pace


def _loss(progress: float) -> float:
    return _END + (_START - _END) / (1 + progress / 8) ** 0.7


def _training_loss(pace: float, step: int) -> float:
    return _loss(pace * step) - 0.04 * (1 - math.exp(-step / 50)) if step else math.nan


def _cost(run: StudyRun) -> RunCost:
    """A second of overhead for each step."""
    seconds = tuple(point.step * (1 + run.batch / 40) for point in run.points)
    return RunCost(
        seconds, run.points[-1].trained_tokens / seconds[-1], 1_200_000_000 + run.batch * 9_000_000
    )
