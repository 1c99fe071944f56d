"""The names of what went wrong in a step: every difference becomes a Cause in plain words.

Each function looks at one kind of difference and returns its causes; `None` as rank means that all ranks
agree in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from crossfoot.ledger.entry import MOST_CAUSES_OF_A_KIND, Cause, NotFinite, Value
from crossfoot.ledger.matching import Content, PlannedSample, PlannedStep, RealSegment, StepMatch
from crossfoot.ledger.seen_samples import SeenSamples
from crossfoot.ledger.witness import StepWitness
from crossfoot.phrases import counted, step_name

RATE_TOLERANCE = 1e-9
WEIGHT_TOLERANCE = 1e-6
MOST_IDS_IN_A_MESSAGE = 5


@dataclass(frozen=True, eq=False)
class Scene:
    """One step as the naming functions see it: the plan, what the ranks said, and what is known of the
    samples.
    """

    planned: PlannedStep
    witnesses: Sequence[StepWitness]
    content: Content
    seen_samples: SeenSamples
    origin: Callable[[int], str] | None

    def cause(
        self,
        kind: str,
        message: str,
        rank: int | None = None,
        forward: int | None = None,
        sample: int | None = None,
        values: tuple[Value, Value] = (None, None),
    ) -> Cause:
        """A cause in this step; the sample's origin is looked up. values: (planned, real)."""
        origin = self.origin(sample) if self.origin is not None and sample is not None else None
        return Cause(self.planned.step, rank, forward, kind, message, sample, origin, *values)


def name_witness_faults(scene: Scene) -> list[Cause]:
    """Ranks that said nothing, twice, about another step, or more than their record holds."""
    causes = []
    ranks = [witness.rank for witness in scene.witnesses]
    for rank in range(len(scene.planned.slots)):
        if rank not in ranks:
            causes.append(scene.cause("missing witness", f"rank {rank} sent no record of this step", rank))
    for position, witness in enumerate(scene.witnesses):
        rank = witness.rank
        if not 0 <= rank < len(scene.planned.slots):
            causes.append(scene.cause("wrong witness", f"rank {rank} is not in the plan, but trained", rank))
        elif rank in ranks[:position]:
            causes.append(scene.cause("wrong witness", f"rank {rank} sent two records of this step", rank))
        if witness.step != scene.planned.step:
            message = f"rank {rank} sent its record of {step_name(witness.step)}"
            values = (scene.planned.step, witness.step)
            causes.append(scene.cause("wrong witness", message, rank, values=values))
        if witness.lost:
            lost = witness.lost
            message = (
                f"{lost.forwards} forwards and {lost.segments} samples more than its record has room for"
            )
            causes.append(scene.cause("witness cut", message, rank, values=(0, lost.segments)))
    return causes


def name_forwards(scene: Scene, match: StepMatch) -> list[Cause]:
    """Planned forwards that were never differentiated, with the samples they lost, and forwards nobody
    planned.
    """
    causes = []
    for rank, slots in enumerate(scene.planned.slots):
        accounts = [witness for witness in scene.witnesses if witness.rank == rank]
        if not accounts:
            continue  # named once, as a missing witness
        real = [forward.forward for witness in accounts for forward in witness.forwards]
        for forward, ids in enumerate(slots):
            if forward not in real:
                lost = [p.sample for p in match.missing if (p.rank, p.forward) == (rank, forward)]
                causes.append(_never_differentiated(scene, rank, forward, len(ids), lost))
    for witness in scene.witnesses:
        planned = (
            len(scene.planned.slots[witness.rank]) if 0 <= witness.rank < len(scene.planned.slots) else 0
        )
        numbers = [forward.forward for forward in witness.forwards]
        for position, forward in enumerate(numbers):
            if forward in numbers[:position]:
                message = f"forward {forward} of rank {witness.rank} was differentiated twice"
                causes.append(scene.cause("extra forward", message, witness.rank, forward))
            elif not 0 <= forward < planned:
                message = f"forward {forward} of rank {witness.rank} is not in the plan ({planned} forwards)"
                values = (planned, len(numbers))
                causes.append(scene.cause("extra forward", message, witness.rank, forward, values=values))
    return causes


def name_places(scene: Scene) -> list[Cause]:
    """Forwards with samples that were not placed by themselves."""
    causes = []
    for witness in scene.witnesses:
        for forward in witness.forwards:
            if forward.misplaced:
                message = (
                    f"{counted(forward.misplaced, 'sample')} of {len(forward.segments)} had positions that "
                    "do not begin at 0, or borders that attention was not told of"
                )
                values = (0, forward.misplaced)
                causes.append(
                    scene.cause("not placed by itself", message, witness.rank, forward.forward, values=values)
                )
    return causes


def name_samples(scene: Scene, match: StepMatch) -> list[Cause]:
    """Samples that are missing, repeated, in another slot, or not planned here."""
    causes = []
    trained = {(w.rank, f.forward) for w in scene.witnesses for f in w.forwards}
    silent = set(range(len(scene.planned.slots))) - {witness.rank for witness in scene.witnesses}
    for p in match.missing:
        if (p.rank, p.forward) in trained or p.rank in silent:
            message = f"sample {p.sample} was planned here and not trained"
            causes.append(_of(scene, "missing sample", message, p, p.sample, (1, 0)))
    for p, real in match.again:
        message = f"sample {p.sample} was trained once more than planned; this step plans it in {_slot(p)}"
        causes.append(_of(scene, "trained twice", message, real, p.sample))
    for p, real in match.moved:
        message = f"sample {p.sample} was trained in {_slot(real)}, but planned in {_slot(p)}"
        causes.append(_of(scene, "other slot", message, real, p.sample, (_slot(p), _slot(real))))
    for p, _ in [*match.as_planned, *match.moved]:
        if scene.seen_samples.was_trained(p.epoch, p.sample):
            message = f"sample {p.sample} is planned here, but was trained earlier in epoch {p.epoch + 1} too"
            causes.append(_of(scene, "already trained", message, p, p.sample))
    for ids, real in match.unplanned:
        causes.append(_unplanned(scene, ids.tolist(), real))
    return causes


def name_content(scene: Scene, match: StepMatch) -> list[Cause]:
    """Samples whose tokens or targets are not what the data holds, and counts that contradict the content."""
    causes = []
    for p, real in match.masked:
        counts = (int(scene.content.trained_tokens[p.sample]), real.seen.trained_tokens)
        moved = "" if (p.rank, p.forward) == (real.rank, real.forward) else f", planned in {_slot(p)},"
        message = f"sample {p.sample}{moved} was trained with another label mask: " + _trained(counts)
        causes.append(_of(scene, "label mask differs", message, real, p.sample, counts))
    for ids, real in match.unplanned_masked:
        sample = int(ids[0])
        counts = (int(scene.content.trained_tokens[sample]), real.seen.trained_tokens)
        message = f"sample {sample} is not planned in this step, and was trained with another label mask: "
        causes.append(_of(scene, "label mask differs", message + _trained(counts), real, sample, counts))
    for p, real in match.altered:
        message = f"content that is in no sample was trained in place of sample {p.sample} "
        message += _lengths(scene, p, real)
        causes.append(_of(scene, "tokens altered", message, real, p.sample))
    for real in match.unknown:
        size = f"{real.seen.real_tokens} tokens, {real.seen.trained_tokens} of them trained"
        message = f"content that is in no sample was given to the model, beyond the planned samples ({size})"
        causes.append(_of(scene, "tokens altered", message, real, None, (0, real.seen.real_tokens)))
    for p, real in [*match.as_planned, *match.moved]:
        planned = (int(scene.content.lengths[p.sample]), int(scene.content.trained_tokens[p.sample]))
        seen = (real.seen.real_tokens, real.seen.trained_tokens)
        if planned != seen:
            message = (
                f"sample {p.sample} has {planned[0]} tokens, {planned[1]} of them trained; "
                f"counted were {seen[0]} and {seen[1]}"
            )
            values = (planned[1], seen[1]) if planned[1] != seen[1] else (planned[0], seen[0])
            causes.append(_of(scene, "count differs", message, real, p.sample, values))
    return causes


def name_rates(scene: Scene) -> tuple[list[Cause], list[StepWitness]]:
    """Rates that are not the planned one, and the accounts in which they are.

    A rank that made no update has no rate: that is the update's fault, named there.
    """
    stepped = [witness for witness in scene.witnesses if _has_rate(witness)]
    groups = {group for witness in stepped for group in witness.group_lrs} | set(scene.planned.group_lrs)
    causes = [cause for group in ("", *sorted(groups)) for cause in _rate_causes(scene, group, stepped)]
    wrong = [one for one in stepped if any(not _is_as_planned(scene, group, one) for group in ("", *groups))]
    return causes, wrong


def _rate(group: str, of: PlannedStep | StepWitness) -> float:
    """Of a group of parameters ("": those without a rate of their own)."""
    return of.group_lrs.get(group, math.nan) if group else of.lr


def _is_as_planned(scene: Scene, group: str, witness: StepWitness) -> bool:
    return rate_is_planned(_rate(group, witness), _rate(group, scene.planned))


def _rate_causes(scene: Scene, group: str, stepped: Sequence[StepWitness]) -> Iterator[Cause]:
    """What is wrong with one group's rates."""
    of, planned = f" of {group}" if group else "", _rate(group, scene.planned)
    wrong = [one for one in stepped if not _is_as_planned(scene, group, one)]
    for rank, accounts in _by_rank(scene, wrong, lambda witness: _rate(group, witness)):
        real = _rate(group, accounts[0])
        percent = f" ({(real / planned - 1) * 100:+.6g} %)" if planned and math.isfinite(real) else ""
        who = f"all {len(scene.witnesses)} ranks" if rank is None else f"rank {rank}"
        message = f"{who} stepped at rate {real!r}{of}, planned {planned!r}{percent}"
        yield scene.cause("rate differs", message, rank, values=(planned, real))
    rates = {witness.rank: _rate(group, witness) for witness in stepped}
    if len({repr(rate) for rate in rates.values()}) > 1:
        listed = ", ".join(
            f"rank {rank} {rate!r}" for rank, rate in list(rates.items())[:MOST_IDS_IN_A_MESSAGE]
        )
        more = ", ..." if len(rates) > MOST_IDS_IN_A_MESSAGE else ""
        yield scene.cause("ranks disagree", f"ranks stepped at different rates{of}: {listed}{more}")


def find_not_finite(scene: Scene, match: StepMatch) -> tuple[NotFinite, ...]:
    """The losses that are NaN or infinite, with the samples that were in their forwards; where every loss
    is one, the gradient norm, if that is none. A norm that overflowed under a loss scale is no such fault.
    """
    known = [*match.as_planned, *match.moved, *match.masked, *match.again]
    seen = [(real, p.sample) for p, real in known]
    seen += [(real, int(ids[0])) for ids, real in [*match.unplanned, *match.unplanned_masked]]
    found: list[NotFinite] = []

    def add(value: float, rank: int, forward: int | None) -> None:
        samples = sorted(id_ for real, id_ in seen if real.rank == rank and forward in (None, real.forward))
        origins = () if scene.origin is None else tuple(scene.origin(sample) for sample in samples)
        found.append(NotFinite("loss", value, rank, forward, tuple(samples), origins))

    for witness in scene.witnesses:
        for forward in witness.forwards:
            if not math.isfinite(forward.loss_sum):
                add(forward.loss_sum, witness.rank, forward.forward)
        if not math.isfinite(witness.loss_sum) and all(one.rank != witness.rank for one in found):
            add(witness.loss_sum, witness.rank, None)
    norms = [w.grad_norm for w in scene.witnesses if not math.isfinite(w.grad_norm) and not w.overflow]
    if norms and not found:
        found.append(NotFinite("gradient norm", norms[0], None, None))
    return tuple(found[:MOST_CAUSES_OF_A_KIND])


def name_updates(scene: Scene, skipped: str | None, not_finite: Sequence[NotFinite]) -> list[Cause]:
    """Updates that were not applied, losses and norms that are not finite. skipped: why the update was left
    out on purpose; then neither is a fault.
    """
    if skipped is not None:
        return []
    causes = []
    left_out = [witness for witness in scene.witnesses if not witness.applied]
    for rank, accounts in _by_rank(scene, left_out, _why_left_out):
        why = _why_left_out(accounts[0])
        who = "no rank" if rank is None else f"rank {rank} has not"
        message = f"{who} updated the weights{why}"
        causes.append(scene.cause("update not applied", message, rank, values=(1, 0)))
    for one in not_finite:
        sample = one.samples[0] if one.samples else None
        causes.append(scene.cause("not finite", str(one), one.rank, one.forward, sample))
    if not not_finite and any(witness.nonfinite and not witness.overflow for witness in scene.witnesses):
        causes.append(scene.cause("not finite", "a rank said that its loss or gradient norm is no number"))
    return causes


def _why_left_out(witness: StepWitness) -> str:
    """The end of a sentence; empty when nobody knows."""
    if witness.overflow:
        tries = f" in {witness.retries + 1} tries" if witness.retries else ""
        return f": its gradients were too large for float16{tries}"
    return ": the loss or the gradient norm was not finite" if witness.nonfinite else ""


def name_weights(scene: Scene) -> list[Cause]:
    """One cause for every forward whose tokens did not weigh dp_degree / trained tokens of the whole step.

    Data parallelism averages the ranks' gradients, hence dp_degree. Empty forwards weigh nothing; in a step
    without a single target no weight is wrong. A loss that is NaN or infinite is named as that.
    """
    if scene.planned.trained_tokens == 0:
        return []
    planned = len(scene.planned.slots) / scene.planned.trained_tokens
    causes = []
    for witness in scene.witnesses:
        for forward in witness.forwards:
            ratio = forward.token_weight / planned
            is_number = math.isfinite(forward.loss_sum)
            if forward.segments and is_number and not abs(ratio - 1) <= WEIGHT_TOLERANCE:
                message = (
                    f"a token weighed {forward.token_weight:.9g}, planned {planned:.9g} ({ratio:.6g} times)"
                )
                place = (witness.rank, forward.forward)
                values = (planned, forward.token_weight)
                causes.append(scene.cause("token weight differs", message, *place, values=values))
    return causes


def rate_is_planned(real: float, planned: float) -> bool:
    """Equal to 1e-9 relative: NaN is never equal, and a planned 0 is met by 0 alone."""
    return abs(real - planned) <= RATE_TOLERANCE * abs(planned)


def _never_differentiated(scene: Scene, rank: int, forward: int, samples: int, lost: Sequence[int]) -> Cause:
    message = f"forward {forward} of rank {rank} was never differentiated"
    if lost:
        message += f": {len(lost)} of its {samples} samples not trained ({_ids(lost)})"
        values = (samples, samples - len(lost))
        return scene.cause("missing sample", message, rank, forward, lost[0], values)
    message += (
        " (its samples were trained elsewhere)" if samples else " (an empty one, but ranks wait for it)"
    )
    return scene.cause("missing forward", message, rank, forward, values=(1, 0))


def _unplanned(scene: Scene, ids: list[int], real: RealSegment) -> Cause:
    """A known sample that this step did not plan: already trained in this epoch, or out of turn."""
    epoch = scene.planned.epoch
    sample = unplanned_id(scene, ids)
    if scene.seen_samples.was_trained(epoch, sample):
        message = f"sample {sample} is not planned in this step and was already trained in epoch {epoch + 1}"
        return _of(scene, "already trained", message, real, sample)
    return _of(scene, "not planned", f"sample {sample} is not planned in this step", real, sample)


def unplanned_id(scene: Scene, ids: Sequence[int]) -> int:
    """Which of several equal samples an unplanned one is taken for: the first not yet trained in this
    epoch.
    """
    fresh = (sample for sample in ids if not scene.seen_samples.was_trained(scene.planned.epoch, sample))
    return next(fresh, ids[0])


def _by_rank(
    scene: Scene, wrong: Sequence[StepWitness], value: Callable[[StepWitness], object]
) -> list[tuple[int | None, Sequence[StepWitness]]]:
    """One group (rank None) when all of several ranks share one wrong value, else one group a rank."""
    is_shared = len(wrong) == len(scene.witnesses) and len({repr(value(witness)) for witness in wrong}) == 1
    if is_shared and len(wrong) > 1:
        return [(None, wrong)]
    return [(witness.rank, [witness]) for witness in wrong]


def _of(
    scene: Scene,
    kind: str,
    message: str,
    where: PlannedSample | RealSegment,
    sample: int | None,
    values: tuple[Value, Value] = (None, None),
) -> Cause:
    return scene.cause(kind, message, where.rank, where.forward, sample, values)


def _has_rate(witness: StepWitness) -> bool:
    return witness.applied or not math.isnan(witness.lr)


def _slot(where: PlannedSample | RealSegment) -> str:
    return f"forward {where.forward} of rank {where.rank}"


def _trained(counts: tuple[int, int]) -> str:
    if counts[0] == counts[1]:
        return f"{counts[1]} trained tokens as planned, but not the same ones"
    return f"{counts[1]} trained tokens, planned {counts[0]}"


def _lengths(scene: Scene, p: PlannedSample, real: RealSegment) -> str:
    planned = int(scene.content.lengths[p.sample])
    if planned == real.seen.real_tokens:
        return f"(both {planned} tokens long)"
    return f"({real.seen.real_tokens} tokens instead of {planned})"


def _ids(samples: Iterable[int]) -> str:
    listed = list(samples)
    shown = ", ".join(str(sample) for sample in listed[:MOST_IDS_IN_A_MESSAGE])
    return shown + (", ..." if len(listed) > MOST_IDS_IN_A_MESSAGE else "")
