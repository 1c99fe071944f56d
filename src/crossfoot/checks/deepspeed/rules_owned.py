"""CF303 to CF308, CF311: the DeepSpeed file's other numbers that crossfoot owns: clipping, precision,
optimizer, schedule, ZeRO.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from crossfoot.checks.deepspeed.unknown_words import is_meant, nearest
from crossfoot.checks.deepspeed.vocabulary import vocabulary
from crossfoot.checks.deepspeed.vocabulary import zero_stage as stage_of
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.whole_numbers import finite_number, whole_number
from crossfoot.findings.finding import Finding
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
    deepspeed, norm = facts.deepspeed, facts.run.config.optimizer.max_grad_norm
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
    deepspeed, dtype = facts.deepspeed, facts.run.config.model.dtype
    if deepspeed is None:
        return
    for block, meant in _PRECISION.items():
        enabled = deepspeed.get(block, "enabled")
        if not isinstance(enabled, bool) or enabled == (dtype == meant):
            continue
        fact = f"says {meant}" if enabled else f"switches {meant} off"
        is_written = facts.run.is_written("model.dtype")
        right = "true" if dtype == meant else "false"
        # float16 is refused (CF014), and bfloat16 needs a stage (CF311): no help leads there.
        can_be = enabled and meant == "bfloat16" and stage_of(deepspeed.values)
        other = (f"or set model.dtype to {meant}",) if can_be else ()
        yield Finding(
            "CF305",
            f"{block}.enabled {fact}, but model.dtype is {dtype}{'' if is_written else ', its default'}",
            place=deepspeed.place(block, "enabled"),
            notes=("DeepSpeed stops when both precisions are on",) if enabled and _both_are_on(facts) else (),
            others=((facts.run.place("model.dtype"), "decides the precision"),) if is_written else (),
            helps=(f'write {right} (or "auto")', *other),
            fix=deepspeed.replacing(block, "enabled", text=right) if is_written else (),
        )


def _both_are_on(facts: Facts) -> bool:
    on = {_PRECISION[b] for b in _PRECISION if facts.deepspeed and facts.deepspeed.get(b, "enabled") is True}
    return len(on) > 1


@rule("CF306")
def optimizer_block(facts: Facts) -> Iterator[Finding]:
    """CF306: the DeepSpeed file has an `optimizer` block.

    crossfoot owns the optimizer: with two owners the one in the JSON wins without a word, and a parameter
    that is left out of it falls back to the default of DeepSpeed's or torch's class (rate 1e-3; weight decay
    0.01 of torch's AdamW, 0 of DeepSpeed's), not to the run's. A misspelt `params` is passed over, so that
    all of them do. The notes say both numbers, the helps where each number goes. (lies B12, J2, J7)
    """
    yield from _owned_block(facts, "CF306", "optimizer", "the optimizer", _OPTIMIZER_HOMES)


@rule("CF307")
def scheduler_block(facts: Facts) -> Iterator[Finding]:
    """CF307: the DeepSpeed file has a `scheduler` block.

    crossfoot owns the learning rate of every step. A scheduler in the JSON beats the chosen schedule
    (constant in the place of cosine), and when it is stepped once per process the rate is used up too early.
    What is left out of it falls back to DeepSpeed's default: 1,000 steps of a logarithmic warm-up. The notes
    say both numbers, the helps where each number goes. (lies B5, B13, J2)
    """
    yield from _owned_block(facts, "CF307", "scheduler", "the learning rate", _SCHEDULER_HOMES)


_OPTIMIZER_HOMES = {
    "lr": "lr.reference",
    "betas": "optimizer.betas",
    "eps": "optimizer.eps",
    "weight_decay": "optimizer.weight_decay",
}
_SCHEDULER_HOMES = {
    "warmup_max_lr": "lr.reference",
    "warmup_num_steps": "lr.warmup_steps",
    "total_num_steps": "train.max_steps",
    "cos_min_ratio": "lr.min_ratio",
}


def _owned_block(
    facts: Facts, code: str, block: str, what: str, homes: Mapping[str, str]
) -> Iterator[Finding]:
    deepspeed = facts.deepspeed
    if deepspeed is None or block not in deepspeed.values:
        return
    inside = deepspeed.get(block)
    known = vocabulary().blocks[block].keys
    params = deepspeed.get(block, "params")
    written = params if isinstance(params, dict) else {}
    moves = []
    for key, home in homes.items():
        value = written.get(key)
        if value is not None and value != "auto" and not _is_same(value, _asked(facts, home)):
            moves.append(f"{key} {shown(value)} belongs in the run config: {home}: {shown(value)}")
    article = "an" if block[0] in "aeiou" else "a"
    yield Finding(
        code,
        f"the DeepSpeed file has {article} {block} block, and crossfoot owns {what}",
        place=deepspeed.place(block, part="key"),
        label="two owners of one number",
        notes=tuple(_fallbacks(facts, block, written, homes)),
        helps=(f"remove the {block} block", *moves),
        fix=deepspeed.removing(block)
        if not moves and isinstance(inside, dict) and set(inside) <= set(known)
        else (),
    )


def _fallbacks(
    facts: Facts, block: str, written: Mapping[str, Any], homes: Mapping[str, str]
) -> Iterator[str]:
    """What DeepSpeed would make of the parameters that the block leaves out, and of those it misspells."""
    deepspeed = facts.deepspeed
    inside = deepspeed.get(block) if deepspeed else None
    if not isinstance(inside, dict):
        return
    known = vocabulary().blocks[block].keys
    for name in inside:
        if name not in known:
            near = nearest(name, known)
            yield f"DeepSpeed passes over {block}.{name}" + (f"; it reads {near[0]}" if near else "")
    kind = str(inside.get("type"))
    defaults = _defaults(block, kind, written)
    if defaults is None:
        return
    for name in written:
        if name not in defaults:
            near = nearest(name, defaults)
            yield f"{kind} has no parameter {name}: DeepSpeed stops" + (f" ({near[0]}?)" if near else "")
    for name, home in homes.items():
        theirs, ours = defaults.get(name), _asked(facts, home)
        if name not in written and theirs is not None and not _is_same(theirs, ours):
            asked = f"the run asks for {shown(ours)}" if ours is not None else "the run says nothing of it"
            if name == "warmup_num_steps" and ours is None:
                if facts.run.config.lr.warmup_fraction or facts.run.config.lr.warmup_samples:
                    continue
                asked = "the run has no warm-up"
            yield f"{name} is left out: DeepSpeed would take {shown(theirs)}, {asked}"


def _defaults(block: str, kind: str, written: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if block == "scheduler":
        return vocabulary().schedulers.get(kind)
    optimizers = vocabulary().optimizers
    if kind.lower() in ("adam", "adamw") and written.get("torch_adam") is True:
        return {**optimizers["AdamW"], "torch_adam": True, "adam_w_mode": True}
    return optimizers.get(kind.lower()) or optimizers.get(kind)


def _asked(facts: Facts, home: str) -> Any:
    section, _, key = home.partition(".")
    return getattr(getattr(facts.run.config, section), key)


def _is_same(theirs: Any, ours: Any) -> bool:
    return bool((list(ours) if isinstance(ours, tuple) else ours) == theirs)


@rule("CF308")
def zero_stage(facts: Facts) -> Iterator[Finding]:
    """CF308: `zero_optimization.stage` is not 0, 1, 2 or 3.

    "auto" is filled in by no one here and would mean stage 0, without any sharding; so would a block without
    a stage, but that is at least what DeepSpeed documents. (lie J3)
    """
    deepspeed = facts.deepspeed
    block = deepspeed.get("zero_optimization") if deepspeed else None
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
    """CF311: bfloat16 on ZeRO stage 0, which DeepSpeed cannot train exactly.

    crossfoot adds bfloat16 gradients up in float32, or the result would depend on the accumulation. Stage 0
    of DeepSpeed 0.19 refuses that mix (NotImplementedError at start-up). Its own way, bfloat16 sums under the
    unfused optimizer, is worse with adamw: room for the state is made by one step on zero gradients
    (FP16_UnfusedOptimizer.initialize_optimizer_states), so Adam's step count is one ahead ever after and the
    first real update is sqrt(1 + beta2) / (1 + beta1) of what it should be, 0.74 with the default betas.
    Stages 1, 2 and 3 do neither, and float32 is right on all stages.
    """
    deepspeed, config = facts.deepspeed, facts.run.config
    if deepspeed is None or config.model.dtype != "bfloat16":
        return
    block = deepspeed.get("zero_optimization") if "zero_optimization" in deepspeed.values else {}
    if not isinstance(block, dict) or whole_number(block.get("stage", 0)) != 0:
        return
    if "stage" not in block and is_meant(deepspeed.values, ("zero_optimization",)):
        return  # a misspelt block, or a misplaced stage, is that one mistake
    is_written = facts.run.is_written("model.dtype")
    yield Finding(
        "CF311",
        "bfloat16 on ZeRO stage 0: DeepSpeed cannot add its gradients up in float32 there",
        place=deepspeed.place("zero_optimization", "stage"),
        label="" if "stage" in block else "no stage is written, which means 0",
        others=((facts.run.place("model.dtype"), "in float32 it is right"),) if is_written else (),
        notes=("its own sums are in bfloat16, and depend on the accumulation",),
        helps=(
            'write "zero_optimization": {"stage": 1}; the optimizer state is then sharded',
            "or set model.dtype to float32",
        ),
    )
