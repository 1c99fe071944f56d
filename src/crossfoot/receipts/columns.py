"""The two columns of a receipt: what the plan adds up to, and what the ledger's counted lines add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.naming import rate_is_planned
from crossfoot.receipts.promise import PromisedStep
from crossfoot.runs.lock_shape import Expects

Sums = dict[str, int]
_OF_SOURCE = ((0, "samples"), (1, "trained tokens"))


@dataclass(frozen=True)
class Row:
    """One line of the receipt; difference is real - planned."""

    name: str
    planned: int
    real: int

    @property
    def difference(self) -> int:
        """0 when the row foots."""
        return self.real - self.planned


def planned_of_lock(expects: Expects) -> Sums:
    """The planned column of a whole run."""
    return _rows(
        steps=expects.total_steps,
        samples=expects.samples,
        distinct_samples=expects.distinct_samples,
        real_tokens=expects.real_tokens,
        trained_tokens=expects.trained_tokens,
        forwards=expects.forwards,
    )


def planned_of(entries: Iterable[StepEntry], asked_steps: int) -> Sums:
    """The planned column of the steps that have a line, each counted once, none beyond those asked for."""
    once = list({entry.step: entry for entry in entries if 0 <= entry.step < asked_steps}.values())
    return _rows(
        steps=len(once),
        samples=sum(entry.planned_samples for entry in once),
        distinct_samples=sum(entry.planned_first_seen_samples for entry in once),
        real_tokens=sum(entry.planned_real_tokens for entry in once),
        trained_tokens=sum(entry.planned_trained_tokens for entry in once),
        forwards=sum(entry.planned_forwards for entry in once),
    )


def planned_of_steps(steps: Iterable[PromisedStep]) -> Sums:
    """The planned column of steps as the lock promises them."""
    sums: Counter[str] = Counter()
    for step in steps:
        sums["steps"] += 1
        sums["samples"] += step.samples
        sums["distinct_samples"] += step.first_seen_samples
        sums["real_tokens"] += step.real_tokens
        sums["trained_tokens"] += step.trained_tokens
        sums["forwards"] += step.forwards
    names = ("steps", "samples", "distinct_samples", "real_tokens", "trained_tokens", "forwards")
    return _rows(**{name: sums[name] for name in names})


def planned_forwards(entries: Iterable[StepEntry], each: Mapping[int, int | None], last: Expects) -> int:
    """Forwards of the whole run when its attempts deal them out differently.

    each: of every step, as each attempt's lock promises them, by attempt; None where the lock knows only
    those of all steps together: then a step that has a line is believed to be planned as the line says. last:
    of the lock in force. Missing steps are a forecast: a run without them does not foot anyway.
    """
    once = {entry.step: entry for entry in entries if 0 <= entry.step < last.total_steps}
    missing = last.total_steps - len(once)
    forwards = round(last.forwards * missing / last.total_steps) if missing else 0
    return forwards + sum(each.get(one.attempt) or one.planned_forwards for one in once.values())


def real_of(entries: Sequence[StepEntry]) -> Sums:
    """The real column: every line that counts, in the order of the receipt's rows."""
    sums: Counter[str] = Counter(
        _rows(steps=0, samples=0, distinct_samples=0, real_tokens=0, trained_tokens=0, forwards=0)
    )
    for entry in entries:
        is_other_rate = entry.applied and not rate_is_planned(entry.lr, entry.planned_lr)
        sums["optimizer steps"] += 1
        sums["updates applied"] += entry.applied
        sums["samples"] += entry.real_samples
        sums["distinct samples"] += entry.first_seen_samples
        sums["samples seen twice"] += entry.repeated_samples
        sums["real tokens"] += entry.real_tokens
        sums["trained tokens"] += entry.trained_tokens
        sums["forwards"] += entry.real_forwards
        sums["steps at another rate"] += entry.wrong_rate_ranks > 0 or is_other_rate
        sums["steps with a wrong token weight"] += entry.wrong_weight_forwards > 0
    return dict(sums)


def rows_of_sources(names: Sequence[str], counts: Iterable[Sequence[tuple[int, int]]]) -> Sums:
    """A row for the samples and one for the trained tokens of each source. counts: of each step."""
    sums = [[0, 0] for _ in names]
    for step in counts:
        for both, (samples, tokens) in zip(sums, step, strict=True):
            both[0] += samples
            both[1] += tokens
    rows = zip(names, sums, strict=True)
    return {f"{what} of {name}": both[place] for name, both in rows for place, what in _OF_SOURCE}


def _rows(
    *, steps: int, samples: int, distinct_samples: int, real_tokens: int, trained_tokens: int, forwards: int
) -> Sums:
    """Row name -> planned; what nobody plans is 0."""
    return {
        "optimizer steps": steps,
        "updates applied": steps,
        "samples": samples,
        "distinct samples": distinct_samples,
        "samples seen twice": 0,
        "real tokens": real_tokens,
        "trained tokens": trained_tokens,
        "forwards": forwards,
        "steps at another rate": 0,
        "steps with a wrong token weight": 0,
    }
