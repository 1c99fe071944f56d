"""CF325, CF326, CF329: settings of ZeRO that its stage, or this run, does not go with."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.deepspeed.handed_over import ZERO, counts_on_stage_3
from crossfoot.checks.deepspeed.vocabulary import vocabulary, zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.written.shown import shown


@rule("CF325", "note")
def stage_3_settings_below_it(facts: Facts) -> Iterator[Finding]:
    """CF325: settings of ZeRO stage 3 in a file that asks for a lower stage.

    They are not handed over: `stage3_*`, `zero_hpz_partition_size`, the quantised collectives of ZeRO++ and
    `leaf_module` count on stage 3 alone. The weights are then whole on every GPU. Settings at their default,
    and "auto", are left in peace; `offload_param` is CF330. (lie J7)
    """
    deepspeed = facts.understood
    stage = zero_stage(deepspeed.values) if deepspeed else None
    if deepspeed is None or stage is None or stage == 3:
        return
    known = vocabulary().blocks[ZERO].keys
    idle = []
    for name, value in (deepspeed.get(ZERO) or {}).items():
        key = known.get(name)
        is_wrong = key is not None and key.kind == "object" and not isinstance(value, dict)
        if key is None or is_wrong or value == "auto" or (key.has_default and value == key.default):
            continue
        if counts_on_stage_3(name) and name != "offload_param":
            idle.append(name)
    if not idle:
        return
    first, *rest = idle
    yield Finding(
        "CF325",
        f"{first} counts on ZeRO stage 3 alone, and the stage is {stage}"
        if not rest
        else f"{len(idle)} settings count on ZeRO stage 3 alone, and the stage is {stage}",
        severity="note",
        place=deepspeed.place(ZERO, first, part="key"),
        others=(
            *((deepspeed.place(ZERO, name, part="key"), "this too") for name in rest),
            (
                deepspeed.place(ZERO, "stage"),
                "" if deepspeed.get(ZERO, "stage") is not None else "no stage: 0",
            ),
        ),
        notes=(f"{'they are' if rest else 'it is'} not handed over",),
        helps=(
            "remove it" if not rest else "remove them",
            "or set zero_optimization.stage to 3: weights are sharded too",
        ),
        fix=tuple(edit for name in idle for edit in deepspeed.removing(ZERO, name)) if not rest else (),
    )


@rule("CF326")
def refused_by_zero(facts: Facts) -> Iterator[Finding]:
    """CF326: a setting of ZeRO with which DeepSpeed, or the ledger, cannot run.

    `compute_grad_norm: false` goes without the gradient's norm, which is clipped by and is in the ledger of
    every step; DeepSpeed itself refuses it with clipping, and on stages 0 and 3. `legacy_stage1` has been
    refused since 0.5.9. With `zero_hpz_partition_size` the ranks must divide into groups of that size.
    (lie J7)
    """
    deepspeed = facts.handed_over
    if deepspeed is None:
        return
    stage = zero_stage(deepspeed.values)
    ranks = facts.batch.topology.dp_degree if facts.batch else None
    group = deepspeed.get(ZERO, "zero_hpz_partition_size")
    wrong = {
        "compute_grad_norm": (False, "the norm is clipped by, and is in the ledger"),
        "legacy_stage1": (True, "DeepSpeed stops at start-up"),
    }
    for key, (value, why) in wrong.items():
        if deepspeed.get(ZERO, key) is value:
            yield Finding(
                "CF326",
                f"{ZERO}.{key} cannot be {shown(value)}: {why}",
                place=deepspeed.place(ZERO, key),
                helps=(f"remove {key}",),
                fix=deepspeed.removing(ZERO, key),
            )
    is_size = isinstance(group, int) and not isinstance(group, bool) and group > 1
    if stage == 3 and is_size and ranks and group < ranks and ranks % group:
        yield Finding(
            "CF326",
            f"{ZERO}.zero_hpz_partition_size is {group}, which does not divide {ranks} ranks",
            place=deepspeed.place(ZERO, "zero_hpz_partition_size"),
            helps=("write the number of GPUs of one node", "or remove zero_hpz_partition_size"),
        )


@rule("CF329")
def quantised_collectives(facts: Facts) -> Iterator[Finding]:
    """CF329: ZeRO++ rounds weights or gradients on their way between the GPUs.

    `zero_quantized_gradients` sends gradients in 4 bits between nodes, `zero_quantized_weights` gathers
    weights in 8 bits, and `zero_quantized_nontrainable_weights` keeps the frozen weights of a LoRA run in 8
    bits. What is trained then depends on the number of GPUs and is not what model.dtype says, so they are
    refused. On stages below 3 they do nothing (CF325). (lie J7)
    """
    deepspeed = facts.handed_over
    if deepspeed is None or zero_stage(deepspeed.values) != 3:
        return
    has_lora = facts.run.config.lora is not None
    for key, what in _QUANTISED.items():
        if deepspeed.get(ZERO, key) is not True:
            continue
        frozen = key == "zero_quantized_nontrainable_weights"
        yield Finding(
            "CF329",
            f"{ZERO}.{key} {what}",
            place=deepspeed.place(ZERO, key),
            notes=("this run trains all weights, so there are no frozen ones",)
            if frozen and not has_lora
            else ("the result would depend on the number of GPUs",)
            if not frozen
            else (f"model.dtype says {facts.run.config.model.dtype}",),
            helps=(f"remove {key}",),
        )


_QUANTISED = {
    "zero_quantized_weights": "rounds weights to 8 bits when they are gathered",
    "zero_quantized_gradients": "rounds gradients to 4 bits on their way between nodes",
    "zero_quantized_nontrainable_weights": "keeps frozen weights in 8 bits",
}
