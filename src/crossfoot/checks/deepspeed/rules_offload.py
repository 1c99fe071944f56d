"""CF312, CF330: offloading that cannot run here, or that the ZeRO stage passes over."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.deepspeed.handed_over import ZERO
from crossfoot.checks.deepspeed.vocabulary import zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.whole_numbers import finite_number
from crossfoot.findings.finding import Finding
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.shown import shown

_ON_THE_CPU = '{"device": "cpu"}'
_COUNTS_ON = (("offload_optimizer", 1, "stages 1 to 3"), ("offload_param", 3, "stage 3 alone"))


@rule("CF312", name="unsupported-offloading")
def offloading(facts: Facts) -> Iterator[Finding]:
    """CF312: the DeepSpeed file offloads in a way that is not supported.

    `"offload_optimizer": {"device": "cpu"}` (ZeRO 1 to 3) and `"offload_param": {"device": "cpu"}` (ZeRO 3)
    are supported. DeepSpeed would like an Adam of its own with them, which it compiles when it starts; this
    run hands it torch's fused AdamW, which steps on the CPU as well, and switches
    `zero_force_ds_cpu_optimizer` off. Not supported are what needs DeepSpeed's own: `ratio` below 1 and
    `super_offload`; and `"device": "nvme"`. Tried on stage 3 (DeepSpeed 0.19.8, 2 ranks on CPUs), that begins
    by compiling C++ of DeepSpeed's on every node, while the other ranks wait; it wants libaio as well, and
    leaves the state in files that no checkpoint here reads. The older names `cpu_offload` and
    `cpu_offload_param` mean the same as the blocks (CF319).
    """
    deepspeed = facts.handed_over
    if deepspeed is None:
        return
    for key, _, _ in _COUNTS_ON:
        block = deepspeed.get(ZERO, key)
        is_block = isinstance(block, dict)
        if block is None or isinstance(block, bool) or (is_block and block.get("device", "none") == "cpu"):
            continue  # a bool is CF309
        at = (ZERO, key, "device") if is_block else (ZERO, key)
        wanted = '"cpu"' if is_block else _ON_THE_CPU
        yield Finding(
            "CF312",
            f"{'.'.join(at)} is {shown(deepspeed.get(*at))}, and only {wanted} is supported",
            place=deepspeed.place(*at),
            notes=("memory is saved by ZeRO stage 3, a smaller micro batch or gradient checkpointing too",),
            helps=(f"write {wanted}", f"or remove {key}"),
        )
    yield from _own_optimizer(deepspeed)


def _own_optimizer(deepspeed: DeepSpeedFile) -> Iterator[Finding]:
    """Settings of `offload_optimizer` that DeepSpeed has for its own Adam alone."""
    at = (ZERO, "offload_optimizer")
    if deepspeed.get(*at, "device") != "cpu":
        return
    ratio = finite_number(deepspeed.get(*at, "ratio"))
    wrong = {}
    if ratio is not None and ratio != 1:
        wrong["ratio"] = "DeepSpeed stops at start-up with the one that this run hands it"
    if deepspeed.get(*at, "super_offload") is True:
        wrong["super_offload"] = "it steps in a process of its own, where no checkpoint can read its state"
    for key, why in wrong.items():
        keys = (*at, key)
        yield Finding(
            "CF312",
            f"{'.'.join(keys)} is {shown(deepspeed.get(*keys))}, which wants an optimizer of DeepSpeed's own",
            place=deepspeed.place(*keys),
            notes=(why,),
            helps=(f"remove {key}: all of the optimizer state is offloaded",),
            fix=deepspeed.removing(*keys),
        )


@rule("CF330", "warning")
def offloading_without_effect(facts: Facts) -> Iterator[Finding]:
    """CF330: offloading is asked for on a ZeRO stage that does none.

    `offload_optimizer` counts on stages 1 to 3: on stage 0 every GPU keeps the whole optimizer state.
    `offload_param` counts on stage 3 alone. There they are not handed over, and the memory that was to be
    saved is not. (lie J7)
    """
    deepspeed = facts.understood
    stage = zero_stage(deepspeed.values) if deepspeed else None
    if deepspeed is None or stage is None:
        return
    for key, lowest, stages in _COUNTS_ON:
        if stage >= lowest or deepspeed.get(ZERO, key, "device") in (None, "none", "auto"):
            continue
        is_written = deepspeed.get(ZERO, "stage") is not None
        yield Finding(
            "CF330",
            f"{key} counts on ZeRO {stages}, and the stage is {stage}",
            severity="warning",
            place=deepspeed.place(ZERO, key, part="key"),
            others=((deepspeed.place(ZERO, "stage"), "" if is_written else "no stage: 0"),),
            notes=("it is not handed over, and saves no memory",),
            helps=(f"remove {key}", f"or set zero_optimization.stage to {lowest}"),
            fix=deepspeed.removing(ZERO, key),
        )
