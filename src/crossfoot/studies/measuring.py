"""From the folder of a run to its line in the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from crossfoot.findings.finding import Refused
from crossfoot.ledger.entry import StepEntry
from crossfoot.receipts.index_check import held_against_index
from crossfoot.receipts.receipt import receipt_of_run
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.reader import RunRecord, read_run
from crossfoot.runs.run_folder import holds_run
from crossfoot.studies.design import RunDesign
from crossfoot.studies.order import SampleOrder
from crossfoot.studies.results import CurvePoint, RunCost, State, StudyRun

_OF_DIVERGING = ("not finite", "update not applied")
"""Causes in the receipt of a run that ended by a NaN, in the step that it ended with."""


def measured(run_dir: str, design: RunDesign, order: SampleOrder) -> tuple[StudyRun, RunCost | None]:
    """What came of a run so far. Of a folder without a run, or with one that cannot be read, there
    are no points and no cost.
    """
    try:
        run = read_run(run_dir) if holds_run(run_dir) else None
        receipt = None if run is None else held_against_index(receipt_of_run(run), run)
    except Refused:
        run = receipt = None
    if run is None or receipt is None:
        return not_begun(design), None
    lines, first = run.by_step(), design.first_step
    own, points = lines[first:], _points(run, lines, first)
    state = _state(run, own, design.steps)
    is_footing = receipt.foots or (state == "diverged" and _only_diverged(receipt))
    is_same = order.is_followed(own, design)
    peak = float((run.attempts[-1].lock if run.attempts else run.lock)["plan"]["learning_rate"]["peak"])
    result = _run(design, peak, state, points, is_footing=is_footing, is_same=is_same)
    return result, cost_of(run, points, first)


def not_begun(design: RunDesign, peak_rate: float = math.nan) -> StudyRun:
    """A run of which nothing is known but the plan."""
    return _run(design, peak_rate, "unfinished", (), is_footing=False, is_same=False)


def _run(
    design: RunDesign,
    peak: float,
    state: State,
    points: tuple[CurvePoint, ...],
    *,
    is_footing: bool,
    is_same: bool,
) -> StudyRun:
    return StudyRun(
        name=design.name,
        batch=design.batch,
        rate_factor=float(design.factor),
        peak_rate=peak,
        seed=design.seed,
        state=state,
        foots=is_footing,
        same_samples=is_same,
        points=points,
    )


def _state(run: RunRecord, lines: Sequence[StepEntry], steps: int) -> State:
    """A fault without a NaN or an infinity is no divergence: that run is not over."""
    if run.ending is None:
        return "unfinished"
    losses = [one.loss for one in run.validations[-1:]]
    is_finite = run.ending.weights_are_finite and all(map(math.isfinite, losses))
    is_finite &= not (lines and lines[-1].not_finite and lines[-1].skipped is None)
    if run.ending.reason in ("finished", "fault") and not is_finite:
        return "diverged"
    return "done" if run.ending.reason == "finished" and len(lines) == steps else "unfinished"


def _only_diverged(receipt: Receipt) -> bool:
    """Whether nothing is wrong with a run but that it ended by a NaN."""
    kinds = {cause.kind for cause in receipt.causes}
    return receipt.cause_count == len(receipt.causes) and kinds <= set(_OF_DIVERGING)


def _points(run: RunRecord, lines: Sequence[StepEntry], first_step: int) -> tuple[CurvePoint, ...]:
    """At every validation from the run's own first step on whose steps all count."""
    steps = [one.step for one in run.validations if first_step <= one.step <= len(lines)]
    losses = {one.step: one.loss for one in run.validations}
    spans = [lines[first:end] for first, end in pairwise([0, *steps])]
    points, samples, tokens = [], 0, 0
    for step, span in zip(steps, spans, strict=True):
        samples += sum(line.real_samples for line in span)
        tokens += sum(line.trained_tokens for line in span)
        trained = _training_loss(span) if step > first_step else math.nan
        points.append(CurvePoint(step, samples, tokens, losses[step], trained))
    return tuple(points)


def _training_loss(lines: Sequence[StepEntry]) -> float:
    """Nats a trained token over these steps; a line's loss is over its planned ones."""
    tokens = sum(line.planned_trained_tokens for line in lines)
    if not tokens:
        return math.nan
    return math.fsum(line.loss * line.planned_trained_tokens for line in lines) / tokens


def cost_of(run: RunRecord, points: Sequence[CurvePoint] = (), first_step: int = 0) -> RunCost:
    """Of the counted steps from first_step on: one that was lost and trained again counts once."""
    lines = run.by_step()[first_step:]
    ends = [point.step - first_step for point in points]
    seconds = tuple(math.fsum(line.seconds for line in lines[:end]) for end in ends)
    whole = math.fsum(line.seconds for line in lines)
    tokens = sum(line.real_tokens for line in lines)
    endings = [record.ending for record in run.attempts]
    peaks = [one.memory.peak_bytes for one in endings if one is not None and one.memory is not None]
    return RunCost(seconds, tokens / whole if whole else 0.0, max(peaks, default=None))
