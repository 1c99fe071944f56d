"""A step's plan against what all ranks saw themselves do: the ledger line, with every difference named."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossfoot.ledger.entry import MOST_CAUSES_OF_A_KIND, Cause, NotFinite, StepEntry
from crossfoot.ledger.matching import (
    Content,
    DigestLookup,
    FlatSlots,
    Int64Array,
    PlannedStep,
    RealSegment,
    StepMatch,
    Uint64Array,
    flat_slots,
    match_step,
    planned_samples,
)
from crossfoot.ledger.measured import Measured, measured_as_planned, measured_of, samples_sha256, slots_sha256
from crossfoot.ledger.naming import (
    Scene,
    find_not_finite,
    name_content,
    name_forwards,
    name_places,
    name_rates,
    name_samples,
    name_updates,
    name_weights,
    name_witness_faults,
    unplanned_id,
)
from crossfoot.ledger.seen_samples import LedgerSource, SeenSamples, counted_by_source
from crossfoot.ledger.skipping import Policies, stated_skip
from crossfoot.ledger.witness import StepWitness, WitnessRows

__all__ = ["PlannedStep", "Policies", "Reconciler", "remember"]

_REMEMBERED_AT_ONCE = 1 << 18
"""Samples marked together: few numpy calls, a few megabytes."""


class Reconciler:
    """Turns planned steps and witnesses into ledger entries, and remembers which samples were trained.

    digests, token_digests: uint64[N]; lengths, trained_tokens: int32[N], all of the data index (memory-mapped
    ones stay so). dp_degree: data-parallel ranks. sources: of the data, where they are told apart. origin:
    sample id -> "file:line". attempt: its number, for the lines. policies: which updates are left out on
    purpose; None: none. Steps are handed in ascending order; those of earlier attempts first, by `remember`.
    Holds up to four bytes a sample, and 8 or 16 more once content had to be looked up that was not planned.
    """

    def __init__(
        self,
        digests: Uint64Array,
        token_digests: Uint64Array,
        lengths: npt.NDArray[np.int32],
        trained_tokens: npt.NDArray[np.int32],
        *,
        dp_degree: int,
        num_samples: int | None = None,
        sources: Sequence[LedgerSource] = (),
        origin: Callable[[int], str] | None = None,
        attempt: int = 1,
        policies: Policies | None = None,
    ) -> None:
        expected = len(digests) if num_samples is None else num_samples
        if {len(digests), len(token_digests), len(lengths), len(trained_tokens)} != {expected}:
            raise ValueError(f"the index arrays are not all of {expected} samples")
        self._content = Content(
            digests,
            token_digests,
            lengths,
            trained_tokens,
            DigestLookup(digests),
            DigestLookup(token_digests),
        )
        self._dp_degree = dp_degree
        self._origin = origin
        self._attempt = attempt
        self._policies = policies or Policies()
        self._sources = sources
        self._real = SeenSamples(expected, sources)
        self._planned_in_run = np.zeros(expected, dtype=np.bool_)

    def mark_samples(self, ids: Int64Array, epochs: Int64Array) -> None:
        """Take over the samples of steps of an earlier attempt, trained as planned, in step order."""
        self._real.mark(ids, epochs)
        self._planned_in_run[ids] = True

    def book(self, planned: PlannedStep, rows: WitnessRows) -> StepEntry:
        """The step's ledger line, from one packed row for each rank, in the order of the ranks. A step as
        planned is told by its columns; only of another one every sample is looked at, by `step`.

        Raises ValueError when the plan contradicts itself or the index.
        """
        flat = self._checked(planned)
        measured = measured_as_planned(planned, flat, rows, self._content, self._real)
        if measured is None:
            return self.step(planned, rows.witnesses())
        return self._entry(planned, flat, measured, (flat.ids, flat.epochs), _Faults())

    def step(self, planned: PlannedStep, witnesses: Sequence[StepWitness]) -> StepEntry:
        """The step's ledger line. witnesses: one for each rank, in any order.

        Raises ValueError when the plan contradicts itself or the index.
        """
        flat = self._checked(planned)
        samples = planned_samples(planned, flat)
        witnesses = sorted(witnesses, key=lambda witness: witness.rank)
        real = [
            RealSegment(witness.rank, forward.forward, segment)
            for witness in witnesses
            for forward in witness.forwards
            for segment in forward.segments
        ]
        match = match_step(samples, real, self._content)
        scene = Scene(planned, witnesses, self._content, self._real, self._origin)
        rate_causes, wrong_rates = name_rates(scene)
        weight_causes = name_weights(scene)
        causes = name_witness_faults(scene) + name_forwards(scene, match) + name_samples(scene, match)
        skipped = stated_skip(witnesses, self._policies)
        not_finite = find_not_finite(scene, match)
        causes += name_places(scene) + name_content(scene, match) + rate_causes
        causes += name_updates(scene, skipped, not_finite) + weight_causes
        if len(flat.ids) and not planned.trained_tokens:
            causes.append(scene.cause("nothing trained", "no token of the step's samples is a target"))
        measured = measured_of(witnesses, told=next(iter(wrong_rates), None))
        faults = _Faults(causes, len(wrong_rates), len(weight_causes), skipped, not_finite)
        return self._entry(planned, flat, measured, _trained(scene, match), faults)

    def _checked(self, planned: PlannedStep) -> FlatSlots:
        """The plan's slots in a row. Raises ValueError when it contradicts itself or the index."""
        if len(planned.slots) != self._dp_degree:
            raise ValueError(
                f"step index {planned.step} is planned for {len(planned.slots)} ranks, not {self._dp_degree}"
            )
        flat = flat_slots(planned)
        trained_tokens = int(self._content.trained_tokens[flat.ids].sum(dtype=np.int64))
        if trained_tokens != planned.trained_tokens:
            raise ValueError(
                f"step index {planned.step} is planned with {planned.trained_tokens} trained tokens, "
                f"but its samples have {trained_tokens}"
            )
        return flat

    def _entry(
        self,
        planned: PlannedStep,
        flat: FlatSlots,
        measured: Measured,
        trained: tuple[Int64Array, Int64Array],
        faults: _Faults,
    ) -> StepEntry:
        """trained: ids and epochs of the data's samples that were really trained."""
        ids, counts = flat.ids, measured.per_rank.columns
        assert counts is not None
        repeated, first_seen = self._real.record(*trained)
        planned_first_seen = int(np.count_nonzero(~self._planned_in_run[np.unique(ids)]))
        self._planned_in_run[ids] = True
        is_as_planned = not faults.causes and faults.skipped is None
        return StepEntry(
            step=planned.step,
            attempt=self._attempt,
            epoch=planned.epoch,
            lr=measured.lr,
            planned_lr=planned.lr,
            planned_samples=len(ids),
            real_samples=sum(counts.samples),
            distinct_samples=len(np.unique(trained[0])),
            repeated_samples=repeated,
            planned_first_seen_samples=planned_first_seen,
            first_seen_samples=first_seen,
            planned_real_tokens=int(self._content.lengths[ids].sum(dtype=np.int64)),
            real_tokens=sum(counts.real_tokens),
            planned_trained_tokens=planned.trained_tokens,
            trained_tokens=sum(counts.trained_tokens),
            token_slots=sum(counts.token_slots),
            planned_forwards=planned.forwards,
            real_forwards=sum(counts.forwards),
            loss=measured.loss_sum / planned.trained_tokens if planned.trained_tokens else math.nan,
            grad_norm=measured.grad_norm,
            applied=measured.applied,
            skipped=faults.skipped,
            retries=measured.retries,
            **measured.times,
            pause_seconds=0.0,
            planned_samples_sha256=samples_sha256(self._content.digests[ids]),
            samples_sha256=samples_sha256(measured.slots.digests),
            slots_sha256=slots_sha256(measured.slots),
            wrong_rate_ranks=faults.wrong_rate_ranks,
            wrong_weight_forwards=faults.wrong_weight_forwards,
            cause_count=len(faults.causes),
            not_finite=faults.not_finite,
            causes=_first_of_each_kind(faults.causes),
            sources=counted_by_source(self._sources, trained[0], self._content.trained_tokens),
            group_lrs=measured.group_lrs,
            planned_group_lrs=planned.group_lrs,
            per_rank=measured.per_rank.short() if is_as_planned else measured.per_rank,
        )


@dataclass(frozen=True)
class _Faults:
    """What was not as planned in a step."""

    causes: Sequence[Cause] = ()
    wrong_rate_ranks: int = 0
    wrong_weight_forwards: int = 0
    skipped: str | None = None
    not_finite: tuple[NotFinite, ...] = ()


def remember(
    reconciler: Reconciler,
    samples_of: Callable[[int], tuple[Int64Array, Int64Array]],
    lines: Iterable[StepEntry],
) -> int:
    """Take over what earlier attempts trained, skipped steps too: their samples were seen. Returns how many
    steps.

    lines: those that count, in ascending order. samples_of: step -> its sample ids and the epoch of each, as
    planned (`Schedule.samples` and `Schedule.passes_of`); no slots are dealt, so 100,000 steps are seconds.
    """
    steps, samples, epochs, waiting = 0, [], [], 0
    for line in lines:
        ids, of = samples_of(line.step)
        samples.append(ids)
        epochs.append(of)
        steps, waiting = steps + 1, waiting + len(ids)
        if waiting >= _REMEMBERED_AT_ONCE:
            reconciler.mark_samples(np.concatenate(samples), np.concatenate(epochs))
            samples, epochs, waiting = [], [], 0
    if samples:
        reconciler.mark_samples(np.concatenate(samples), np.concatenate(epochs))
    return steps


def _trained(scene: Scene, match: StepMatch) -> tuple[Int64Array, Int64Array]:
    """Ids and epochs of the data's samples that were really trained in this step; altered content is none
    of them.
    """
    samples = [p for p, _ in [*match.as_planned, *match.moved, *match.again]]
    pairs = [(p.sample, p.epoch) for p in samples]
    pairs += [(unplanned_id(scene, ids.tolist()), scene.planned.epoch) for ids, _ in match.unplanned]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _first_of_each_kind(causes: Sequence[Cause]) -> tuple[Cause, ...]:
    """The first causes of every kind: a wholly wrong step must not make a line of megabytes."""
    seen: Counter[str] = Counter()
    kept = []
    for cause in causes:
        seen[cause.kind] += 1
        if seen[cause.kind] <= MOST_CAUSES_OF_A_KIND:
            kept.append(cause)
    return tuple(kept)
