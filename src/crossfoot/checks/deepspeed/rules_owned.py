"""CF303 to CF305, CF308, CF311: keys written twice; clipping, precision and ZeRO stage against the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from crossfoot.checks.deepspeed.handed_over import ZERO
from crossfoot.checks.deepspeed.unknown_words import is_meant
from crossfoot.checks.deepspeed.vocabulary import zero_stage as stage_of
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.whole_numbers import finite_number, whole_number
from crossfoot.findings.finding import Edit, Finding
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.shown import shown

_PRECISION: Mapping[str, str] = MappingProxyType(
    {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16"}
)


@rule("CF303")
def duplicate_json_key(facts: Facts) -> Iterator[Finding]:
    """CF303: the same key twice in one object of the DeepSpeed file.

    DeepSpeed refuses such a file without saying where; `json.load`, which most tools use, keeps the last
    value without a word, so that an edit of the first one changes nothing. (lie J4)
    """
    for keys, first, second in facts.deepspeed.duplicates if facts.deepspeed else ():
        yield Finding(
            "CF303",
            f"{'.'.join(map(str, keys))} is written twice",
            place=second,
            label="again here",
            others=((first, "first here"),),
            helps=("remove one of the two",),
        )


@rule("CF304")
def gradient_clipping(facts: Facts) -> Iterator[Finding]:
    """CF304: `gradient_clipping` in the DeepSpeed file is not optimizer.max_grad_norm.

    crossfoot owns the clipping and writes it explicitly (DeepSpeed's own default became 1.0, whatever the
    user asked for elsewhere). Leave the key out, write "auto", or write the same number; 0 switches clipping
    off. (lie B11)
    """
    deepspeed, norm = facts.understood, facts.run.config.optimizer.max_grad_norm
    written = finite_number(deepspeed.get("gradient_clipping")) if deepspeed else None
    if deepspeed is None or written is None or written < 0 or written == norm:
        return
    is_written = facts.run.is_written("optimizer.max_grad_norm")
    origin = "" if is_written else ", its default"
    yield Finding(
        "CF304",
        f"gradient_clipping says {_short(written)}, but optimizer.max_grad_norm is {norm:g}{origin}",
        place=deepspeed.place("gradient_clipping"),
        others=((facts.run.place("optimizer.max_grad_norm"), f"clips at {norm:g}"),) if is_written else (),
        helps=(f'write {norm:g} (or "auto")', f"or set optimizer.max_grad_norm to {_short(written)}"),
        # against a mere default, the number in the file may be the one that was meant
        fix=deepspeed.replacing("gradient_clipping", text=f"{norm:g}") if is_written else (),
    )


def _short(number: float) -> str:
    return f"{number:g}" if abs(number) < 1e300 else shown(number)


@rule("CF305")
def precision(facts: Facts) -> Iterator[Finding]:
    """CF305: a `bf16` or `fp16` block of the DeepSpeed file contradicts model.dtype.

    crossfoot owns the precision: `model.dtype` decides, and `enabled` is written into both blocks. A file
    that says otherwise was written for another run. Leave `enabled` out, or write "auto".
    """
    deepspeed, understood, dtype = facts.deepspeed, facts.understood, facts.run.config.model.dtype
    if deepspeed is None or understood is None:
        return
    for block, meant in _PRECISION.items():
        if block not in deepspeed.values:
            continue
        is_alias = block == "bfloat16" and "bf16" not in deepspeed.values
        enabled = understood.get("bf16" if is_alias else block, "enabled")
        if not isinstance(enabled, bool) or enabled == (dtype == meant):
            continue
        fact = f"says {meant}" if enabled else f"switches {meant} off"
        is_written = facts.run.is_written("model.dtype")
        right = "true" if dtype == meant else "false"
        is_way = enabled and stage_of(understood.values)  # on stage 0 both are refused (CF311)
        other = (f"or set model.dtype to {meant}",) if is_way else ()
        yield Finding(
            "CF305",
            f"{block}.enabled {fact}, but model.dtype is {dtype}{'' if is_written else ', its default'}",
            place=deepspeed.place(block, "enabled"),
            notes=("DeepSpeed stops when both precisions are on",) if enabled and _both_are_on(facts) else (),
            others=((facts.run.place("model.dtype"), "decides the precision"),) if is_written else (),
            helps=(f'write {right} (or "auto")', *other),
            fix=_switching(deepspeed, block, right) if is_written else (),
        )


def _switching(deepspeed: DeepSpeedFile, block: str, right: str) -> tuple[Edit, ...]:
    if isinstance(deepspeed.get(block), dict):
        return deepspeed.replacing(block, "enabled", text=right)
    return deepspeed.replacing(block, text=f'{{"enabled": {right}}}')


def _both_are_on(facts: Facts) -> bool:
    file = facts.understood
    on = {_PRECISION[block] for block in _PRECISION if file and file.get(block, "enabled") is True}
    return len(on) > 1


@rule("CF308")
def zero_stage(facts: Facts) -> Iterator[Finding]:
    """CF308: `zero_optimization.stage` is not 0, 1, 2 or 3.

    "auto" is filled in by no one here and would mean stage 0, without any sharding; so would a block without
    a stage, but that is at least what DeepSpeed documents. (lie J3)
    """
    deepspeed = facts.understood
    block = deepspeed.get(ZERO) if deepspeed else None
    if deepspeed is None or not isinstance(block, dict) or "stage" not in block:
        return
    stage = whole_number(block["stage"])
    if stage is None or not 0 <= stage <= 3:
        yield Finding(
            "CF308",
            f"zero_optimization.stage must be 0, 1, 2 or 3, and is {shown(block['stage'])}",
            place=deepspeed.place("zero_optimization", "stage"),
            helps=("write 2 (optimizer state and gradients sharded) or 3 (weights too)",),
        )


@rule("CF311")
def half_precision_unsharded(facts: Facts) -> Iterator[Finding]:
    """CF311: bfloat16 or float16 on ZeRO stage 0, which DeepSpeed cannot train exactly.

    crossfoot adds bfloat16 gradients up in float32, or the result would depend on the accumulation. Stage 0
    of DeepSpeed 0.19 refuses that mix (NotImplementedError at start-up). Its own way, bfloat16 sums under the
    unfused optimizer, is worse with adamw: room for the state is made by one step on zero gradients
    (FP16_UnfusedOptimizer.initialize_optimizer_states), so Adam's step count is one ahead ever after and the
    first real update is sqrt(1 + beta2) / (1 + beta1) of what it should be, 0.74 with the default betas.
    float16 goes that second way too. Stages 1, 2 and 3 do neither, and float32 is right on all stages.
    """
    deepspeed, config = facts.understood, facts.run.config
    dtype = config.model.dtype
    if deepspeed is None or dtype == "float32":
        return
    block = deepspeed.get(ZERO) if ZERO in deepspeed.values else {}
    if not isinstance(block, dict) or whole_number(block.get("stage", 0)) != 0:
        return
    if "stage" not in block and is_meant(deepspeed.values, (ZERO,)):
        return  # a misspelt block, or a misplaced stage, is that one mistake: CF314, CF315
    is_written = facts.run.is_written("model.dtype")
    why, note = (
        "cannot add its gradients up in float32",
        "its own sums are in bfloat16, and depend on the accumulation",
    )
    if dtype == "float16":
        why, note = "counts a step of adamw before the first", "the first update is 0.74 of what it should be"
    block_name = "bf16" if dtype == "bfloat16" else "fp16"
    is_on = deepspeed.get(block_name, "enabled") is True
    off = f", and {block_name}.enabled to false" if is_on else ""
    yield Finding(
        "CF311",
        f"{dtype} on ZeRO stage 0: DeepSpeed {why} there",
        place=deepspeed.place("zero_optimization", "stage"),
        label="" if "stage" in block else "no stage is written, which means 0",
        others=((facts.run.place("model.dtype"), "in float32 it is right"),) if is_written else (),
        notes=(note,),
        helps=(
            'write "zero_optimization": {"stage": 1}; the optimizer state is then sharded',
            f"or set model.dtype to float32{off}",
        ),
    )
