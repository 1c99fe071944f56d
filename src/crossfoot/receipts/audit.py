"""Faults of the ledger as a book: lines that are missing, double, out of order, or do not add up across.

Only lines that count are looked at; a lost line is no fault, whatever it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from crossfoot.ledger.entry import NO_STEP, SKIPS, Cause, StepEntry
from crossfoot.ledger.rank_counts import RankCounts
from crossfoot.ledger.skipping import Policies
from crossfoot.phrases import counted, step_name, step_span
from crossfoot.runs.ending import Ending

_CROSS = {"samples": "real_samples", "forwards": "real_forwards"}
_PAIRS = ("samples", "real_tokens", "trained_tokens", "forwards")
NumberedLines = Sequence[tuple[int, StepEntry]]
"""Line numbers in the ledger, from 1, with their lines."""


def audit(
    lines: NumberedLines,
    asked_steps: int,
    ending: Ending | None,
    first_steps: Mapping[int, int],
    policies: Mapping[int, Policies],
) -> tuple[list[Cause], int]:
    """All causes of a receipt: the ledger's own faults first, then the causes its lines name.

    lines: those that count. asked_steps: lines beyond it are faults. first_steps, policies: by attempt, as
    far as known. Returns the causes and how many there are, those included that a line counts and does not
    list.
    """
    entries = [entry for _, entry in lines]
    book = [*_order_faults(lines, asked_steps, first_steps), *_missing(entries, ending)]
    owed = 0  # samples that an earlier step should have been the first to train, and was not: named there
    for entry in entries:
        book += _cross_foot(entry)
        book += _skip_faults(entry, policies.get(entry.attempt))
        book += _unlearned(entry)
        if entry.cause_count == 0 and not entry.causes and (words := _differences(entry, owed)):
            message = f"planned and real differ, and no cause is named: {words}"
            book.append(Cause(entry.step, None, None, "unexplained difference", message))
        owed += entry.planned_first_seen_samples - entry.first_seen_samples
    book += _all_for_nothing(entries, asked_steps)
    book += _not_finite_at_the_end(ending)
    named = [cause for entry in entries for cause in entry.causes]
    count = len(book) + sum(max(entry.cause_count, len(entry.causes)) for entry in entries)
    return book + named, count


def _order_faults(lines: NumberedLines, asked_steps: int, first_steps: Mapping[int, int]) -> Iterator[Cause]:
    """Lines that stand twice, too late, or for steps that nobody asked for, or not of this attempt."""
    seen: set[int] = set()
    latest = -1
    for line, entry in lines:
        of, step, begins = f"line {line} of the ledger", entry.step, first_steps.get(entry.attempt, 0)
        if step in seen:
            message = f"{of} is a second one for {step_name(step)}"
            yield Cause(step, None, None, "step twice", message)
        elif step < latest:
            yield Cause(step, None, None, "step out of order", f"{of} comes too late")
        elif 0 <= step < begins:
            message = f"{of} is of attempt {entry.attempt}, which began with {step_name(begins)}"
            yield Cause(step, None, None, "step out of order", message)
        if not 0 <= step < asked_steps:
            message = f"{of} is for {step_name(step)}, the run had {counted(asked_steps, 'step')}"
            yield Cause(step, None, None, "step not planned", message)
        seen.add(step)
        latest = max(latest, step)


def _missing(entries: Sequence[StepEntry], ending: Ending | None) -> Iterator[Cause]:
    """One cause for each run of steps without a line, up to the last one that is known to have been done."""
    seen = {entry.step for entry in entries if entry.step >= 0}
    done = max(max(seen, default=-1) + 1, 0 if ending is None else ending.step)
    expected = 0
    for step in [*sorted(seen), done]:
        if step > expected:
            message = f"the ledger has no line for {step_span(expected, step - 1)}"
            yield Cause(expected, None, None, "step missing", message, None, None, step - expected, 0)
        expected = step + 1


def _cross_foot(entry: StepEntry) -> Iterator[Cause]:
    """The ranks' columns must add up to the line's totals, and a part cannot be larger than the whole."""
    if entry.per_rank.columns is not None:
        yield from _columns_faults(entry, entry.per_rank.columns)
    if not entry.first_seen_samples <= entry.distinct_samples <= entry.real_samples:
        message = (
            f"of {entry.real_samples} samples {entry.distinct_samples} are said to be different ones, "
            f"and {entry.first_seen_samples} to be seen for the first time"
        )
        yield Cause(entry.step, None, None, "does not add up", message)


def _columns_faults(entry: StepEntry, columns: RankCounts) -> Iterator[Cause]:
    """The columns of all ranks against the line's totals and against their own digest."""
    for field in fields(RankCounts):
        if field.name == "rank":
            continue
        name = _CROSS.get(field.name, field.name)
        total, ranks = getattr(entry, name), sum(getattr(columns, field.name))
        if total != ranks:
            message = f"{name} is {total}, but its ranks add up to {ranks}"
            yield Cause(entry.step, None, None, "does not add up", message, None, None, total, ranks)
    said, found = entry.per_rank.sha256, columns.sha256
    if said != found or entry.per_rank.ranks != len(columns.rank):
        message = f"the digest of what its ranks did is {said[:8]}, but their columns make {found[:8]}"
        yield Cause(entry.step, None, None, "does not add up", message, None, None, said, found)


def _skip_faults(entry: StepEntry, policies: Policies | None) -> Iterator[Cause]:
    """A step that says it was left out on purpose must have been left out, and a policy must say so."""
    why = entry.skipped
    if why is None:
        return
    message = ""
    if entry.applied:
        message = f"the update was applied, and is said to be left out ({why})"
    elif why == "not finite" and math.isfinite(entry.loss) and math.isfinite(entry.grad_norm):
        message = f"the update is said to be left out ({why}), but loss and gradient norm are numbers"
    if message:
        yield Cause(entry.step, None, None, "does not add up", message)
    elif policies is not None and not policies.states(why):
        message = f"the update is said to be left out on purpose ({why}), but {SKIPS[why]} does not say so"
        yield Cause(entry.step, None, None, "update not applied", message, None, None, 1, 0)


def _unlearned(entry: StepEntry) -> Iterator[Cause]:
    """A step that nothing was learned in, though its line names no cause: whoever wrote it looked away."""
    if entry.skipped is not None or entry.cause_count or entry.causes:
        return
    if not entry.trained_tokens:
        yield Cause(
            entry.step, None, None, "nothing trained", "the step trained no token", None, None, None, 0
        )
    elif not (math.isfinite(entry.loss) and math.isfinite(entry.grad_norm)) or entry.not_finite:
        message = f"the loss is {entry.loss!r}, the gradient norm {entry.grad_norm!r}, and no cause is named"
        yield Cause(entry.step, None, None, "not finite", message)


def _all_for_nothing(entries: Sequence[StepEntry], asked_steps: int) -> Iterator[Cause]:
    """A run of which every step is done and that has the weights it began with."""
    if not entries or len({entry.step for entry in entries}) < asked_steps:
        return
    message = ""
    if all(entry.skipped is not None for entry in entries):
        message = f"the update of every step was left out: {len(entries):,} of {len(entries):,}"
    elif all(entry.grad_norm == 0.0 for entry in entries):
        message = "the gradient of every step was zero"
    if message:
        yield Cause(NO_STEP, None, None, "nothing trained", message)


def _not_finite_at_the_end(ending: Ending | None) -> Iterator[Cause]:
    """What was NaN or infinite when the steps were done."""
    if ending is None:
        return
    if not math.isfinite(ending.validation_loss or 0.0):
        message = f"the validation loss is {ending.validation_loss!r}"
        yield Cause(NO_STEP, None, None, "not finite", message)
    if ending.weights_are_finite is not True:
        message = "the trained weights are NaN or infinite at the end"
        yield Cause(NO_STEP, None, None, "not finite", message)


def _differences(entry: StepEntry, owed: int) -> str:
    """What differs from the plan in a line, in words; empty when nothing does. owed: so many samples more
    than planned may be new to the run.
    """
    words = []
    for name in _PAIRS:
        planned, real = getattr(entry, f"planned_{name}"), getattr(entry, _CROSS.get(name, name))
        if planned != real:
            words.append(f"{name} {planned} planned, {real} real")
    if entry.repeated_samples:
        words.append(f"{entry.repeated_samples} samples seen twice")
    if not 0 <= entry.first_seen_samples - entry.planned_first_seen_samples <= max(0, owed):
        words.append(
            f"first seen {entry.planned_first_seen_samples} planned, {entry.first_seen_samples} real"
        )
    if entry.planned_samples_sha256 != entry.samples_sha256:
        words.append("the samples' digests")
    return ", ".join(words)
