"""A change of a run's batch and cluster that its config allows: what somebody may look at next."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.batch import GpusPerNode
from crossfoot.findings.finding import Refused
from crossfoot.planning.plan import RunPlan
from crossfoot.planning.prepare import plan_written


def another_plan(plan: RunPlan) -> tuple[str, ...]:
    """Overrides that plan the same run with another batch or on another cluster. Each is tried, as `crossfoot
    plan` would; none when no one holds.
    """
    run = plan.run
    for changes in _changes(plan):
        try:
            plan_written(run.path, [*run.overrides, *changes])
        except Refused:
            continue
        return changes
    return ()


def _changes(plan: RunPlan) -> Iterator[tuple[str, ...]]:
    """The same rounds with twice of all come first; where a file fixes the batch, it is spread otherwise."""
    batch = plan.batch
    twice = f"cluster.gpus_per_node={_in_yaml(batch.topology.gpus_per_node, 2)}"
    same, larger = _size_of_steps(plan, 1), _size_of_steps(plan, 2)
    micro = f"batch.micro_batch_size={batch.micro_batch_size}"
    if batch.micro_batch_tokens is not None:
        micro = f"batch.micro_batch_tokens={batch.micro_batch_tokens}"
    solved = "batch.grad_accum_steps=null"
    yield larger, twice
    yield same, micro, solved, twice
    yield larger, micro, solved
    yield same, micro, solved, "cluster.gpus_per_node=1"


def _size_of_steps(plan: RunPlan, times: int) -> str:
    """What ends a step, so many times as large."""
    pairs, target = plan.schedule.batch_from_samples, plan.schedule.target_trained_tokens
    if target is not None:
        return f"batch.target_trained_tokens={target * times}"
    if pairs:
        listed = ",".join(f"[{first},{size * times}]" for first, size in pairs)
        return f"batch.global_batch_size=[{listed}]"
    return f"batch.global_batch_size={plan.batch.global_batch_size * times}"


def _in_yaml(gpus: GpusPerNode, times: int) -> str:
    return str(gpus * times) if isinstance(gpus, int) else f"[{','.join(str(one * times) for one in gpus)}]"
