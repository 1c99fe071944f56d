"""CF332: the ZeRO stage, and another that moves less."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.zero_stages import StageCost
from crossfoot.checks.deepspeed.handed_over import ZERO
from crossfoot.checks.deepspeed.stage_costs import costs_of, parameters_of
from crossfoot.checks.deepspeed.vocabulary import zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import size

MUCH_BYTES = 64 << 20
"""A twentieth of a second on a link of 10 Gbit/s."""
MANY_TIMES = 1.5
FITS = 0.25
"""Of what the stage in the file holds: so much more is taken to fit as well."""


@rule("CF332", "note")
def stage_moves_more(facts: Facts) -> Iterator[Finding]:
    """CF332: the ZeRO stage in the file moves much more between the GPUs than another that fits as well.

    DeepSpeed sums gradients over the GPUs once a step on stages 0 and 1, and at every forward on stages 2
    and 3, because it keeps only a share of them. With LoRA they are small, and what stage 2 saves is little
    beside the frozen weights: stage 1 moves 2 x the trained bytes a step, stage 2 (grad_accum_steps + 1) x.
    Losses are the same. Said when the other stage moves at most two thirds, and 64 MiB less, and holds at
    most a quarter more on each GPU. `crossfoot plan` has the numbers of all stages. What DeepSpeed calls
    `coalesce_grad_reduction` is not used: on stage 2 it is stage 1 in other words, and it adds the gradients
    of bfloat16 up in bfloat16.
    """
    deepspeed, batch = facts.handed_over, facts.batch
    stage = zero_stage(deepspeed.values) if deepspeed else None
    if deepspeed is None or batch is None or stage is None:
        return
    config = facts.run.config
    rows = (facts.tokenizer.rows if facts.tokenizer else None) or 0
    costs = costs_of(config, parameters_of(config, facts.model, rows), batch, deepspeed.values)
    here = next((cost for cost in costs if cost.stage == stage), None)
    better = here and min((cost for cost in costs if _pays(cost, here)), key=_moved, default=None)
    if here is None or better is None:
        return
    more = better.held_bytes - here.held_bytes
    times = batch.grad_accum_steps
    often = f", its gradients {times:,} times" if stage > 1 and times > 1 else ""
    yield Finding(
        "CF332",
        f"ZeRO-{stage} moves {size(here.moved_bytes)} a step on each GPU{often}; "
        f"ZeRO-{better.stage} moves {size(better.moved_bytes)}",
        severity="note",
        place=deepspeed.place(ZERO, "stage"),
        notes=(
            f"ZeRO-{better.stage} would hold {size(abs(more))} {'more' if more > 0 else 'less'} "
            f"on each GPU, which is at {size(here.held_bytes)}; losses are the same",
        ),
        helps=(f"set zero_optimization.stage to {better.stage}",),
    )


def _pays(cost: StageCost, here: StageCost) -> bool:
    less = here.moved_bytes - cost.moved_bytes
    more = cost.held_bytes - here.held_bytes
    return (
        less >= MUCH_BYTES
        and here.moved_bytes >= MANY_TIMES * cost.moved_bytes
        and more <= FITS * here.held_bytes
    )


def _moved(cost: StageCost) -> int:
    return cost.moved_bytes
