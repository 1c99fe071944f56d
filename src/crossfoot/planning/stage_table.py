"""The ZeRO stages side by side: what each moves between the ranks and holds on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from crossfoot.arithmetic.zero_stages import StageCost
from crossfoot.checks.deepspeed.stage_costs import communication_dtype
from crossfoot.phrases import counted, size
from crossfoot.planning.plan import RunPlan

_HEADS = ("moved a step", "gradients", "optimizer", "master", "weights")


def stage_table(plan: RunPlan) -> Iterator[str]:
    """The lines of the table; none of one rank, or for a model of which too little is known."""
    if not plan.stage_costs or plan.deepspeed is None or plan.parameters is None:
        return
    yield ""
    yield f"    per rank     {''.join(f'{head:>14}' for head in _HEADS)}"
    for cost in plan.stage_costs:
        sign = "*" if cost.stage == plan.zero_stage else " "
        yield f"  {sign} ZeRO-{cost.stage}       {''.join(f'{number:>14}' for number in _numbers(cost))}"
    dtype = communication_dtype(plan.deepspeed.values, plan.run.config.model.dtype)
    forwards = counted(plan.batch.grad_accum_steps, "forward")
    trained = f"{plan.parameters.trained:,} parameters are trained"
    yield f"    {trained}; their gradients are summed over the ranks in {dtype},"
    yield f"    once a step up to ZeRO-1, at each of {forwards} from ZeRO-2 on"


def stages_as_json(plan: RunPlan) -> dict[str, Any]:
    """The same, in bytes."""
    return {
        "trained_parameters": plan.parameters.trained if plan.parameters else None,
        "zero_stages": [{**asdict(cost), "moved_bytes": cost.moved_bytes} for cost in plan.stage_costs],
    }


def _numbers(cost: StageCost) -> Iterator[str]:
    bound = "up to " if cost.stage == 3 else ""
    yield f"{bound}{size(cost.moved_bytes)}"
    for held in (cost.gradient_bytes, cost.state_bytes, cost.master_bytes, cost.weight_bytes):
        yield size(held) if held else "-"
