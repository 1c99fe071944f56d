"""The ledger's counted lines against what the locks promised, step by step: what was measured, and what the
loop was told.

A line that was trained as told, and told otherwise than promised, names no fault of its own: the two come
from one object. Here they meet a third.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crossfoot.ledger.entry import MOST_CAUSES_OF_A_KIND, NO_STEP, Cause, StepEntry
from crossfoot.receipts.promise import (
    RATE_FLOOR,
    RATE_TOLERANCE,
    PromisedStep,
    layout_sha256,
    promised_rates,
    promised_steps,
    promised_sums,
)
from crossfoot.receipts.promised_heights import beta2_of
from crossfoot.receipts.promised_sets import Contents, Terms, batches_sha256, total_steps

RATE, SAMPLES, LAYOUT = "rate not promised", "samples not promised", "layout not promised"
COUNTS = "counts not promised"


@dataclass(frozen=True)
class Promise:
    """What a run was promised. terms: by attempt, ranks folded where they ran in one process; the last one's
    are in force for steps without a line. contents: None where the data index is not at hand: then only rates
    can be held against it.
    """

    terms: Mapping[int, Terms]
    contents: Contents | None

    def terms_for(self, attempt: int) -> Terms:
        """Of an attempt; of the last one where it is not known."""
        return self.terms.get(attempt) or self.terms[max(self.terms)]


@dataclass
class Held:
    """The outcome. steps: by step, all that were asked for and all that have a line; empty without contents.
    other_: lines that are not as promised; other_group_rates: of each group of parameters with a rate of its
    own; other_layouts: with the samples that were, in other slots. causes:
    the first of each kind; counts: all, by kind.
    """

    steps: dict[int, PromisedStep] = field(default_factory=dict)
    other_rates: int = 0
    other_group_rates: dict[str, int] = field(default_factory=dict)
    other_samples: int = 0
    other_layouts: int = 0
    causes: list[Cause] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def unlisted(self) -> Counter[str]:
        """Causes beyond the first of each kind, by kind."""
        return self.counts - Counter(cause.kind for cause in self.causes)

    def add(self, causes: Iterable[Cause]) -> None:
        """Count causes, and keep the first of each kind."""
        for cause in causes:
            self.counts[cause.kind] += 1
            if self.counts[cause.kind] <= MOST_CAUSES_OF_A_KIND:
                self.causes.append(cause)


def hold(lines: Sequence[StepEntry], promise: Promise, asked_steps: int) -> Held:
    """Hold the lines that count against the promise. asked_steps: the run's, or N of one stopped after N."""
    held = Held()
    distinct: list[Terms] = []
    for number in sorted(promise.terms):
        if promise.terms[number] not in distinct:
            distinct.append(promise.terms[number])
    for terms in distinct:
        own = [line for line in lines if promise.terms_for(line.attempt) == terms]
        _hold_rates(held, own, terms)
        if promise.contents is None or len(promise.contents.lengths) != terms.data_samples:
            continue  # it contradicts the lock, which is told
        wanted = {line.step for line in own}
        if terms == promise.terms_for(max(promise.terms)):
            wanted |= set(range(asked_steps)) - {line.step for line in lines}
        if wanted:
            steps = promised_steps(terms, promise.contents, min(wanted), max(wanted) + 1)
            held.steps.update((step.step, step) for step in steps if step.step in wanted)
    held.add(_past_faults(lines, promise))
    for line in lines:
        if line.step in held.steps:
            names = [source.name for source in promise.terms_for(line.attempt).sources]
            _hold_samples(held, line, held.steps[line.step], names)
    return held


def _past_faults(lines: Sequence[StepEntry], promise: Promise) -> Iterator[Cause]:
    """Steps of attempts whose plan cut the samples otherwise than the last one's does: that plan goes on
    behind them, so it must have the same samples in them.
    """
    number = max(promise.terms)
    last, contents = promise.terms[number], promise.contents
    earlier = {line.step: line for line in lines if _cuts(promise.terms_for(line.attempt)) != _cuts(last)}
    if not earlier or contents is None or len(contents.lengths) != last.data_samples:
        return
    steps = promised_steps(last, contents, min(earlier), max(earlier) + 1)
    now = {step.step: step.samples_sha256 for step in steps}
    for step, line in sorted(earlier.items()):
        if (promised := now.get(step)) != line.samples_sha256:
            message = f"the plan of attempt {number}, which goes on behind it, has other samples in this step"
            yield Cause(step, None, None, SAMPLES, message, None, None, promised, line.samples_sha256)


def _cuts(terms: Terms) -> tuple[Any, ...]:
    """What decides where the samples of the data are cut into steps."""
    batch = terms.batch_from_samples or terms.global_batch_size
    order = (terms.num_samples, terms.seed, terms.last_step, terms.epochs, terms.max_steps)
    return (*order, batch, terms.target_trained_tokens)


def is_promised(rate: float, promised: float, peak: float) -> bool:
    """Equal to 1e-9 of the rate, or to 1e-12 of the peak. NaN is never equal."""
    return abs(rate - promised) <= max(RATE_TOLERANCE * abs(promised), RATE_FLOOR * peak)


def _hold_rates(held: Held, lines: Sequence[StepEntry], terms: Terms) -> None:
    rates, peak, _ = promised_rates(terms)
    ratios: Mapping[str, float] = terms.lr.get("groups") or {}
    others = held.other_group_rates
    others.update({group: others.get(group, 0) for group in ratios})
    for line in lines:
        if line.step >= len(rates):
            continue
        promised = float(rates[line.step])
        is_other = _hold_rate(held, line, "", promised, peak) or line.wrong_rate_ranks > 0
        for group in sorted({*ratios, *line.group_lrs}):
            ratio = ratios.get(group, math.nan)
            is_other_here = _hold_rate(held, line, group, promised * ratio, peak * ratio)
            others[group] = others.get(group, 0) + is_other_here
            is_other |= is_other_here
        held.other_rates += is_other


def _hold_rate(held: Held, line: StepEntry, group: str, promised: float, peak: float) -> bool:
    """Whether the optimizer stepped a group of parameters at another rate ("": those without a rate of their
    own).
    """
    real, told = line.lr, line.planned_lr
    if group:
        real, told = (rates.get(group, math.nan) for rates in (line.group_lrs, line.planned_group_lrs))
    is_real_other = line.applied and not is_promised(real, promised, peak)
    is_told_other = not is_promised(told, promised, peak)
    if is_told_other or (is_real_other and not line.cause_count):
        stepped = told if is_told_other else real
        of = f" of {group}" if group else ""
        times = f", {stepped / promised:.4g} times as much" if promised and math.isfinite(stepped) else ""
        message = (
            f"the lock promises the rate {promised:.9g}{of}, the optimizer was given {stepped:.9g}{times}"
        )
        held.add((Cause(line.step, None, None, RATE, message, None, None, promised, stepped),))
    return is_real_other


def _other_sources(line: StepEntry, promised: PromisedStep, names: Sequence[str]) -> str:
    """Of which sources a step had more or fewer samples than promised; empty where that is not known."""
    words = []
    for name, (samples, _), (real, _) in zip(names, promised.sources, line.sources, strict=False):
        if samples != real:
            words.append(f"{abs(real - samples):,} {'more' if real > samples else 'fewer'} of {name}")
    return f": {', '.join(words)}" if words else ""


def _hold_samples(held: Held, line: StepEntry, promised: PromisedStep, names: Sequence[str]) -> None:
    is_real_other = line.samples_sha256 != promised.samples_sha256
    held.other_samples += is_real_other
    is_told_other = line.planned_samples_sha256 != promised.samples_sha256
    if is_told_other or (is_real_other and not line.cause_count):
        told = line.planned_samples_sha256 if is_told_other else line.samples_sha256
        message = (
            f"the lock promises {promised.samples} samples with digest {promised.samples_sha256[:8]}, "
            f"the step had {line.real_samples} with {told[:8]}"
        )
        values = (promised.samples_sha256, told)
        message += _other_sources(line, promised, names)
        held.add((Cause(line.step, None, None, SAMPLES, message, None, None, *values),))
    if is_real_other:
        return
    if line.slots_sha256 in (None, promised.slots_sha256):
        held.add(_count_faults(line, promised))
        if not line.cause_count:
            held.add(_source_faults(line, promised, names))
        return
    held.other_layouts += 1
    if not line.cause_count:
        message = "the samples sat on other ranks, or in other forwards, than the lock promises"
        values = (promised.slots_sha256, line.slots_sha256)
        held.add((Cause(line.step, None, None, LAYOUT, message, None, None, *values),))


def _count_faults(line: StepEntry, promised: PromisedStep) -> Iterator[Cause]:
    """What each rank counted against the promise, and the totals of a line that leaves the ranks out."""
    found, wanted = line.per_rank.sha256, promised.ranks_sha256
    if found != wanted:
        if not line.cause_count:
            message = f"the lock promises counts with digest {wanted[:8]}, the ranks had {found[:8]}"
            yield Cause(line.step, None, None, COUNTS, message, None, None, wanted, found)
        return
    if line.per_rank.columns is not None:
        return  # these were added up
    real = {"real_samples": line.real_samples, "real_tokens": line.real_tokens}
    real |= {"trained_tokens": line.trained_tokens, "real_forwards": line.real_forwards}
    real["ranks"] = line.per_rank.ranks
    sums = (
        promised.samples,
        promised.real_tokens,
        promised.trained_tokens,
        promised.forwards,
        promised.ranks,
    )
    for (name, total), ranks in zip(real.items(), sums, strict=True):
        if total != ranks:
            message = f"{name} is {total}, but its ranks, by their digest, add up to {ranks}"
            yield Cause(line.step, None, None, "does not add up", message, None, None, total, ranks)


def _source_faults(line: StepEntry, promised: PromisedStep, names: Sequence[str]) -> Iterator[Cause]:
    """What the line counted of each source; a line of an older version tells none apart."""
    for name, wanted, found in zip(names, promised.sources, line.sources, strict=False):
        if wanted != found:
            message = (
                f"of {name} the lock promises {wanted[0]:,} samples with {wanted[1]:,} trained tokens, "
                f"the line has {found[0]:,} with {found[1]:,}"
            )
            yield Cause(line.step, None, None, COUNTS, message, None, None, wanted[0], found[0])


def lock_faults(
    lock: Mapping[str, Any], attempt: int, terms: Terms, contents: Contents | None
) -> Iterator[Cause]:
    """Where a lock contradicts itself: its sums and hashes against what its own numbers make. terms: not
    folded.
    """
    for name, promised, found in _contradictions(lock, terms, contents):
        message = f"the lock of attempt {attempt} says {name} {promised}, its own numbers make {found}"
        yield Cause(NO_STEP, None, None, "lock contradicts itself", message, None, None, promised, found)


def _source_numbers(
    lock: Mapping[str, Any], terms: Terms, contents: Contents | None
) -> Iterator[tuple[str, Any, Any]]:
    """What the lock says of each source, and what follows from its weight and from the files' samples."""
    if not terms.sources:
        return
    ends = np.cumsum([source.files for source in terms.sources])
    held = None if contents is None else np.diff(np.searchsorted(contents.file_ids, ends), prepend=0).tolist()
    for place, (said, source) in enumerate(zip(lock["plan"]["sources"], terms.sources, strict=True)):
        yield f"samples_per_epoch of {source.name}", said["samples_per_epoch"], source.per_epoch
        yield f"used_samples of {source.name}", said["used_samples"], source.used
        if held is not None:
            yield f"samples of {source.name}", said["samples"], held[place]
    taken = sum(source.per_epoch for source in terms.sources)
    yield "samples_per_epoch", terms.num_samples, taken


def _contradictions(
    lock: Mapping[str, Any], terms: Terms, contents: Contents | None
) -> Iterator[tuple[str, Any, Any]]:
    """(name, what the lock says, what follows) for each difference."""
    plan, expects = lock["plan"], lock["expects"]
    steps = total_steps(terms)
    _, peak, warmup = promised_rates(terms)
    own: list[tuple[str, Any, Any]] = [("total_steps", plan["total_steps"], steps)]
    own.append(("warmup_steps", plan["warmup_steps"], warmup))
    said_peak = plan["learning_rate"]["peak"]
    own.append(("peak", said_peak, said_peak if math.isclose(said_peak, peak, rel_tol=1e-12) else peak))
    peaks = {group: ratio * peak for group, ratio in (terms.lr.get("groups") or {}).items()}
    said_peaks = plan["learning_rate"].get("group_peaks") or {}
    is_same = peaks.keys() == said_peaks.keys()
    is_same = is_same and all(math.isclose(said_peaks[one], peaks[one], rel_tol=1e-12) for one in peaks)
    if (beta := beta2_of(lock)) is not None:
        said_beta = plan["beta2"]
        own.append(("beta2", said_beta, said_beta if math.isclose(said_beta, beta, rel_tol=1e-12) else beta))
    own.append(("group_peaks", said_peaks, said_peaks if is_same else peaks))
    own += _source_numbers(lock, terms, contents)
    if terms.are_steps_known:
        own.append(("batches_sha256", plan["batches_sha256"], batches_sha256(terms)))
    if contents is not None and len(contents.lengths) != terms.data_samples:
        name = "samples" if terms.sources else "samples_per_epoch"
        own.append((name, terms.data_samples, len(contents.lengths)))
    elif contents is not None:
        own.append(("layout_sha256", plan["layout_sha256"], layout_sha256(terms, contents)))
        own += [(name, expects[name], sum_) for name, sum_ in promised_sums(terms, contents).items()]
    for name, said, found in own:
        if said != found:
            yield name, said, found
