"""CF076, CF077, CF217: adapters that begin as a part of the base (`lora.init`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.written import model_findings
from crossfoot.written.model_facts import INPUT_TABLE_NAMES
from crossfoot.written.model_tensors import promised_tensors
from crossfoot.written.parameter_counts import adapted_weights


@rule("CF076", name="rank-beyond-weight")
def rank_beyond_weight(facts: Facts) -> Iterator[Finding]:
    """CF076: `lora.init` is to take more directions out of a weight than it has.

    A weight of 256 rows and 4,096 columns has 256 singular directions at most. PiSSA and OLoRA begin with
    `lora.r` of them, so the rank can be no larger. An adapter of the default kind can, but what it adds has
    no more directions than the weight either.
    """
    lora, model = facts.run.config.lora, facts.model
    promised = promised_tensors(model.sizes) if model is not None else None
    if lora is None or not lora.changes_base or model is None or promised is None:
        return
    sides = {
        name.removesuffix(".weight").rpartition(".")[2]: min(shape)
        for name, shape in adapted_weights(model.sizes, lora, promised)
    }
    short = {name: side for name, side in sides.items() if side < lora.r and name not in INPUT_TABLE_NAMES}
    if short:
        finding = model_findings.rank_beyond(lora.r, list(short), min(short.values()))
        yield replace(finding, place=facts.run.place("lora.r"))


@rule("CF077", name="no-base-to-begin-from")
def no_base_to_begin_from(facts: Facts) -> Iterator[Finding]:
    """CF077: `lora.init` cannot take anything out of this base, or has nothing to begin.

    PiSSA and OLoRA begin with a part of each weight and leave the rest in the base. Of a base in 4 or 8 bits
    the rest would have to be packed anew, which rounds it by more than an adapter learns: what is saved would
    not be the model that was trained (peft itself refuses it for PiSSA, and packs anew for OLoRA). And an
    adapter that is continued (`model.adapter_use: continue`) has its matrices already; merged, it becomes
    part of the base, which is then begun from.
    """
    run, config = facts.run, facts.run.config
    if config.lora is None or not config.lora.changes_base:
        return
    init = config.lora.init
    if config.model.quantization != "none":
        yield Finding(
            "CF077",
            f"lora.init {init} takes a part out of the base, and a base in {config.model.quantization} "
            "cannot be changed",
            place=run.place("lora.init"),
            others=((run.place("model.quantization"), "packed"),),
            helps=("set lora.init to default", "or set model.quantization to none"),
        )
    if config.model.adapter is not None and config.model.adapter_use == "continue":
        yield Finding(
            "CF077",
            f"lora.init {init} has nothing to begin: the matrices are those of the adapter that is continued",
            place=run.place("lora.init"),
            others=((run.place("model.adapter"), "continued"),),
            helps=(
                "set lora.init to default",
                "or begin from the base with that adapter in it: model.adapter_use=merge",
            ),
        )


@rule("CF217", "note", name="pissa-scale")
def scale_of_pissa(facts: Facts) -> Iterator[Finding]:
    """CF217: PiSSA with a scale alpha / r that is not 1.

    The matrices begin as large as the weight's own directions, each divided by the root of the scale. A step
    of adamw moves an entry by about the rate, so the weight moves by the rate times the root of the scale: 4
    times the scale is twice the rate. Meng et al. 2024 (PiSSA) train with alpha = r, at a rate of 2e-5 and
    128 samples a step; a rate from there belongs to a scale of 1. With the default beginning it is otherwise:
    B is 0, and a scale counts in full. So this is a note.
    """
    lora = facts.run.config.lora
    if lora is None or not lora.init.startswith("pissa") or lora.scale == 1:
        return
    one = lora.r**0.5 if lora.scaling == "rslora" else lora.r
    yield Finding(
        "CF217",
        f"PiSSA at a scale of {lora.scale:.4g}: its published rates are for 1, and a step here is "
        f"{lora.scale**0.5:.3g} times as long",
        severity="note",
        place=facts.run.place("lora.alpha"),
        others=((facts.run.place("lora.init"), "PiSSA"),),
        notes=("Meng et al. 2024: alpha = r, 2e-5 with adamw, 128 samples a step",),
        helps=(f"set lora.alpha to {one:g}, or choose the rate for this scale",),
    )
