"""What a proof found, as a page and as JSON. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from crossfoot.arithmetic.batch import GpusPerNode, Topology, counted_on_nodes
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted
from crossfoot.probing.compare import Comparison, Sums
from crossfoot.probing.findings import not_proven

FORMAT = 1


@dataclass(frozen=True)
class Group:
    """One group of parameters. reference: |reference|, relative_error: |difference| / |reference|; None where
    it is not finite.

    factor: what makes the reference most like what the engine did; None where there is none. bound: of the
    relative error.
    """

    name: str
    tensors: int
    reference: float | None
    relative_error: float | None
    factor: float | None
    bound: float
    proven: bool


@dataclass(frozen=True)
class Verdict:
    """The outcome. cause: the known mistake that explains it; notes: numbers on it; finding: CF750."""

    proven: bool
    groups: tuple[Group, ...]
    total: Group
    cause: str | None = None
    notes: tuple[str, ...] = ()
    finding: Finding | None = None

    @property
    def exit_code(self) -> int:
        """0 when proven, 3 when it does not foot."""
        return 0 if self.proven else 3


@dataclass(frozen=True)
class ProofSetup:
    """Under what the proof was made: the head of the page. Counts are over all ranks."""

    name: str
    engine: str
    launcher: str
    device: str
    zero_stage: int | None
    dtype: str
    trains: str
    model: str
    micro_batch_size: int
    grad_accum_steps: int
    gpus_per_node: GpusPerNode
    num_nodes: int
    dp_degree: int
    folded: bool
    capacity_samples: int
    samples: int
    trained_tokens: int
    fewest_tokens: int
    most_tokens: int
    empty_slots: int
    slot_sizes: tuple[tuple[int, int], ...]
    """(slots, samples in each), fullest first."""
    rate: float
    said: tuple[str, ...] = field(default=())
    """What was changed for the proof."""


def verdict_of(comparison: Comparison, cause: str | None, notes: Sequence[str]) -> Verdict:
    """Every group and the total must be within their bounds; CF750 says which are not."""
    groups = tuple(
        _group(name, sums, comparison.bound_of(name)) for name, sums in sorted(comparison.groups.items())
    )
    total = _group("all", comparison.total, comparison.bound_of(""))
    if comparison.is_proven:
        return Verdict(True, groups, total)
    finding = not_proven(_title(groups, total, cause), tuple(notes))
    return Verdict(False, groups, total, cause, tuple(notes), finding)


def _group(name: str, sums: Sums, bound: float) -> Group:
    error, factor = sums.relative_error, sums.factor
    return Group(
        name=name,
        tensors=sums.tensors,
        reference=sums.reference if math.isfinite(sums.reference) else None,
        relative_error=error if math.isfinite(error) else None,
        factor=factor if math.isfinite(factor) else None,
        bound=bound,
        proven=error <= bound,
    )


def _title(groups: Sequence[Group], total: Group, cause: str | None) -> str:
    """The fact in one line: the known mistake, else the groups."""
    if not groups:
        return "nothing is trained"
    zero = [group.name for group in groups if group.reference == 0]
    wrong = [group for group in groups if group.reference != 0 and not group.proven]
    parts = []
    if cause is not None:
        parts.append(
            f"the gradient is off by {cause}" if cause[0] in "1-" or "_" in cause.split()[0] else cause
        )
    elif wrong and total.factor == 0 and total.relative_error is not None:
        parts.append("the engine changed nothing")
    elif wrong:
        worst = max(
            wrong, key=lambda group: math.inf if group.relative_error is None else group.relative_error
        )
        shown = "is not finite" if worst.relative_error is None else f"is off by {worst.relative_error:.1e}"
        more = f", and {len(wrong) - 1} groups more" if len(wrong) > 1 else ""
        parts.append(f"{worst.name} {shown}{more}")
    if zero:
        are = (
            "a group whose reference is zero shows nothing"
            if len(zero) == 1
            else "groups whose reference is zero show nothing"
        )
        parts.append(f"{are}: {', '.join(zero)}")
    return "; ".join(parts)


def to_json(setup: ProofSetup, verdict: Verdict) -> dict[str, Any]:
    """The document of `prove --json`."""
    finding = verdict.finding
    return {
        "format": FORMAT,
        "proven": verdict.proven,
        **asdict(setup),
        "groups": [asdict(group) for group in verdict.groups],
        "total": asdict(verdict.total),
        "cause": verdict.cause,
        "notes": list(verdict.notes),
        "finding": None if finding is None else {"code": finding.code, "title": finding.title},
    }


def render(setup: ProofSetup, verdict: Verdict) -> str:
    """The page; its last line is `PROVEN` or `NOT PROVEN: ...`."""
    lines = [*_head(setup), "", *_table(verdict)]
    if verdict.proven:
        return "\n".join([*lines, "PROVEN"])
    lines += [f"  {note}" for note in verdict.notes]
    lines += ["  what this means: crossfoot explain CF750"]
    title = verdict.finding.title if verdict.finding is not None else ""
    return "\n".join([*lines, f"NOT PROVEN: {title}"])


def _head(seen: ProofSetup) -> list[str]:
    stage = (
        "accelerate" if seen.zero_stage is None or seen.engine == "accelerate" else f"ZeRO-{seen.zero_stage}"
    )
    topology = Topology(seen.gpus_per_node, seen.num_nodes)
    slots = ", ".join(
        f"{count:,} of {size}" if size else f"{count:,} empty" for count, size in seen.slot_sizes
    )
    head = f"proof  {seen.name}   {topology.in_words()}, {stage}, {seen.dtype}, {seen.trains}"
    folded = (
        f"folded into one process: {seen.grad_accum_steps * seen.dp_degree:,} forwards" if seen.folded else ""
    )
    rows = [
        (" ", "samples per GPU per forward", seen.micro_batch_size, ""),
        ("x", "forwards per step", seen.grad_accum_steps, ""),
        *_rank_rows(topology, folded),
        ("=", "room for, per optimizer step", seen.capacity_samples, ""),
        ("!", "samples in this step, made up", seen.samples, f"slots: {slots}"),
        (" ", "trained tokens", seen.trained_tokens, f"{seen.fewest_tokens} to {seen.most_tokens} a sample"),
    ]
    lines = [head]
    lines += [
        f"  {sign} {label:<36}{number:>12,}   {origin}".rstrip() for sign, label, number, origin in rows
    ]
    lines += [
        f"    {label:<14}{text}"
        for label, text in (
            ("engine", f"{seen.engine} on {seen.device}, started by {seen.launcher}"),
            ("model", seen.model),
            (
                "optimizer",
                f"SGD at rate {seen.rate:,.0f}, divided out again; no clipping, which would hide the scale",
            ),
            ("reference", "plain torch in float32, one sample at a time, unpadded"),
            *(("changed", text) for text in seen.said),
        )
    ]
    return lines


def _rank_rows(topology: Topology, folded: str) -> list[tuple[str, str, int, str]]:
    """GPUs times nodes; one row of ranks where nodes are not alike."""
    gpus = topology.gpus_per_node
    if isinstance(gpus, int):
        return [("x", "GPUs per node", gpus, ""), ("x", "nodes", topology.num_nodes, folded)]
    where = f"{counted_on_nodes(gpus)} on {counted(topology.num_nodes, 'node')}"
    return [("x", "ranks", topology.world_size, f"{where}; {folded}" if folded else where)]


def _table(verdict: Verdict) -> list[str]:
    rows = (*verdict.groups, verdict.total)
    width = max(len("group"), *(len(group.name) for group in rows))
    lines = [
        f"    {'group':<{width}}  {'tensors':>7}  {'|reference|':>11}  {'relative error':>14}  {'bound':>7}"
    ]
    for group in rows:
        error = "-" if group.relative_error is None else f"{group.relative_error:.1e}"
        reference = "-" if group.reference is None else f"{group.reference:.4g}"
        numbers = f"{group.tensors:>7,}  {reference:>11}  {error:>14}  {group.bound:>7.0e}"
        lines.append(f"    {group.name:<{width}}  {numbers}   {_word(group)}")
    return lines


def _word(group: Group) -> str:
    if group.proven:
        return "proven"
    if group.reference == 0:
        return "not proven: the reference is zero"
    return "not proven" if group.factor is None else f"not proven: {group.factor:.4g} x the reference"
