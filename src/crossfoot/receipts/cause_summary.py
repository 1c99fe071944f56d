"""What the causes of a receipt come to, one kind after the other: how much, where, what it makes of the
trained weights, and what to do. The words of each kind stand in ledger/cause_pages.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from crossfoot.ledger.cause_pages import CAUSE_PAGES
from crossfoot.ledger.entry import MOST_CAUSES_OF_A_KIND, NO_STEP, Cause, StepEntry
from crossfoot.phrases import counted, listed, step_names

MANY = 0.01
"""A share from which on the weights are judged as those of another run."""
_MOST_RANKS_NAMED = 3


@dataclass(frozen=True)
class CauseSummary:
    """All causes of one kind. causes: how many, is_exact: or more. amount: what they come to, of how much.
    where: in which steps, on which ranks; "" for the run as a whole. weights: what they make of them.
    """

    code: str
    kind: str
    causes: int
    is_exact: bool
    amount: str
    where: str
    weights: str
    helps: tuple[str, ...]


def summarise(
    causes: Sequence[Cause],
    lines: Sequence[StepEntry],
    more: Mapping[str, int],
    planned: Mapping[str, int],
) -> tuple[CauseSummary, ...]:
    """One summary for each kind, in the order in which they come.

    causes: all that are named. lines: those that count; they may have causes that they do not list. more:
    kind -> causes beyond those that are named. planned: how many of each unit the run has that was asked for.
    """
    by_kind: dict[str, list[Cause]] = {}
    for cause in causes:
        by_kind.setdefault(cause.kind, []).append(cause)
    return tuple(_summary(kind, own, lines, more.get(kind, 0), planned) for kind, own in by_kind.items())


def _summary(
    kind: str, causes: Sequence[Cause], lines: Sequence[StepEntry], more: int, planned: Mapping[str, int]
) -> CauseSummary:
    page = CAUSE_PAGES[kind]
    steps = {step for cause in causes if cause.step != NO_STEP for step in _steps(cause)}
    unlisted, is_exact = _unlisted(kind, lines)
    if page.counts == "run" or not steps:
        amount, share = "the run as a whole", 1.0
    else:
        # A promise names the first steps only, and one cause each; a line counts what it does not list.
        number = len(steps) + more if page.counts == "step" else sum(map(_units, causes)) + unlisted
        share = number / planned[page.counts] if planned[page.counts] else 1.0
        least = "" if is_exact or page.counts == "step" else "at least "
        amount = f"{least}{number:,} of {counted(planned[page.counts], page.counts)} ({_percent(share)})"
    return CauseSummary(
        code=causes[0].code,
        kind=kind,
        causes=len(causes) + max(more, unlisted),
        is_exact=is_exact,
        amount=amount + _factor(causes),
        where=_where(causes, steps, more),
        weights=_weights(kind, causes, lines, share),
        helps=page.helps,
    )


def _steps(cause: Cause) -> range:
    """Indexes: of all that are missing one after the other; else its own."""
    return range(cause.step, cause.step + (_units(cause) if cause.kind == "step missing" else 1))


def _units(cause: Cause) -> int:
    """What is missing: samples, of a forward that was lost with several, or steps in a row; else 1."""
    if (
        cause.kind in ("missing sample", "step missing")
        and isinstance(cause.planned, int)
        and isinstance(cause.real, int)
    ):
        return cause.planned - cause.real
    return 1


def _unlisted(kind: str, lines: Sequence[StepEntry]) -> tuple[int, bool]:
    """What lines count of this kind beyond what they list, and whether that is exact: a line lists the first
    of each kind and counts all causes together, so with two kinds that are cut nobody knows which has more.
    """
    total, is_exact = 0, True
    for line in lines:
        rest = line.cause_count - len(line.causes)
        kinds = Counter(cause.kind for cause in line.causes)
        if rest <= 0 or kinds[kind] < MOST_CAUSES_OF_A_KIND:
            continue
        is_alone = sum(number == MOST_CAUSES_OF_A_KIND for number in kinds.values()) == 1
        if kind == "missing sample":
            listed_samples = sum(_units(cause) for cause in line.causes if cause.kind == kind)
            total += max(0, line.planned_samples - line.real_samples - listed_samples)
            is_exact = is_exact and len(kinds) == 1
        elif is_alone:
            total += rest
        else:
            is_exact = False
    return total, is_exact


def _where(causes: Sequence[Cause], steps: set[int], more: int) -> str:
    if not steps:
        return ""
    ranks = sorted({cause.rank for cause in causes if cause.rank is not None})
    named = [f"{rank}" for rank in ranks[:_MOST_RANKS_NAMED]]
    rest = [f"{len(ranks) - _MOST_RANKS_NAMED:,} more"] if len(ranks) > _MOST_RANKS_NAMED else []
    on = f", on rank{'s' * (len(ranks) > 1)} {listed([*named, *rest])}" if ranks else ""
    return f"in {step_names(steps, of=len(steps) + more)}{on}"


def _factor(causes: Sequence[Cause]) -> str:
    """How far rates and weights are off: `, 0.5 to 10 times as much as planned`."""
    ratios = sorted(
        {
            float(f"{cause.real / cause.planned:.3g}")
            for cause in causes
            if isinstance(cause.planned, float) and isinstance(cause.real, float) and cause.planned
        }
    )
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)]
    if not ratios or ratios == [1.0]:
        return ""
    span = f"{ratios[0]:g}" if len(ratios) == 1 else f"{ratios[0]:g} to {ratios[-1]:g}"
    return f", {span} times as much as planned"


def _weights(kind: str, causes: Sequence[Cause], lines: Sequence[StepEntry], share: float) -> str:
    if kind == "not finite":
        if any(cause.step == NO_STEP for cause in causes):
            return "not usable: they, or their validation loss, are NaN or infinite"
        steps = {cause.step for cause in causes}
        if any(line.applied for line in lines if line.step in steps):
            return "not usable: an update was made from it"
    page = CAUSE_PAGES[kind]
    return page.weights_many if share >= MANY and page.weights_many else page.weights


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %" if share >= 1e-5 else "less than 0.001 %"


def distinct_helps(summaries: Sequence[CauseSummary]) -> Iterator[str]:
    """What there is to do for all of them, each once."""
    yield from dict.fromkeys(text for summary in summaries for text in summary.helps)
