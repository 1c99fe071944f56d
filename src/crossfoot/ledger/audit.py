"""Faults of the ledger as a book: lines that are missing, double, out of order, or do not add up across."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from crossfoot.ledger.ending import Ending
from crossfoot.ledger.entry import Cause, RankCounts, StepEntry

_CROSS = {"samples": "real_samples", "forwards": "real_forwards"}
_PAIRS = ("samples", "real_tokens", "trained_tokens", "forwards")


def audit(entries: Sequence[StepEntry], asked_steps: int, ending: Ending | None) -> tuple[list[Cause], int]:
    """All causes of a receipt: the ledger's own faults first, then the causes its lines name.

    asked_steps: lines beyond it are faults. Returns the causes and how many there are, those included that a
    line counts and does not list.
    """
    book = [*_order_faults(entries, asked_steps), *_missing(entries, ending)]
    for entry in entries:
        book += _cross_foot(entry)
        if entry.cause_count == 0 and not entry.causes and (words := _differences(entry)):
            message = f"planned and real differ, and no cause is named: {words}"
            book.append(Cause(entry.step, None, None, "unexplained difference", message))
    named = [cause for entry in entries for cause in entry.causes]
    count = len(book) + sum(max(entry.cause_count, len(entry.causes)) for entry in entries)
    return book + named, count


def _order_faults(entries: Sequence[StepEntry], asked_steps: int) -> Iterator[Cause]:
    """Lines that stand twice, too late, or for steps that nobody asked for."""
    seen: set[int] = set()
    for line, entry in enumerate(entries, start=1):
        step = entry.step
        if step in seen:
            yield Cause(
                step, None, None, "step twice", f"line {line} of the ledger is a second one for step {step}"
            )
        elif seen and step < max(seen):
            yield Cause(step, None, None, "step out of order", f"line {line} of the ledger comes too late")
        if not 0 <= step < asked_steps:
            message = (
                f"line {line} of the ledger is for step {step}, the run had steps 0 to {asked_steps - 1}"
            )
            yield Cause(step, None, None, "step not planned", message)
        seen.add(step)


def _missing(entries: Sequence[StepEntry], ending: Ending | None) -> Iterator[Cause]:
    """One cause for each run of steps without a line, up to the last one that is known to have been done."""
    seen = {entry.step for entry in entries}
    done = max(max(seen, default=-1) + 1, 0 if ending is None else ending.step)
    first: int | None = None
    for step in range(done + 1):
        is_missing = step < done and step not in seen
        if is_missing and first is None:
            first = step
        elif not is_missing and first is not None:
            words = f"step {first}" if step - 1 == first else f"steps {first} to {step - 1}"
            yield Cause(
                first, None, None, "step missing", f"the ledger has no line for {words}", None, None, 1, 0
            )
            first = None


def _cross_foot(entry: StepEntry) -> Iterator[Cause]:
    """The ranks' columns must add up to the line's totals."""
    for field in fields(RankCounts):
        if field.name == "rank":
            continue
        name = _CROSS.get(field.name, field.name)
        total, ranks = getattr(entry, name), sum(getattr(counts, field.name) for counts in entry.per_rank)
        if total != ranks:
            message = f"{name} is {total}, but its ranks add up to {ranks}"
            yield Cause(entry.step, None, None, "does not add up", message, None, None, total, ranks)


def _differences(entry: StepEntry) -> str:
    """What differs from the plan in a line, in words; empty when nothing does."""
    words = []
    for name in _PAIRS:
        planned, real = getattr(entry, f"planned_{name}"), getattr(entry, _CROSS.get(name, name))
        if planned != real:
            words.append(f"{name} {planned} planned, {real} real")
    if entry.repeated_samples:
        words.append(f"{entry.repeated_samples} samples seen twice")
    if entry.planned_first_seen_samples != entry.first_seen_samples:
        words.append(
            f"first seen {entry.planned_first_seen_samples} planned, {entry.first_seen_samples} real"
        )
    if entry.planned_samples_sha256 != entry.samples_sha256:
        words.append("the samples' digests")
    return ", ".join(words)
