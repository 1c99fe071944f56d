"""CF595, CF596, CF599: what a base in 4 or 8 bits cannot do, from what is written alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crossfoot.checks.deepspeed.vocabulary import zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.written import model_findings
from crossfoot.written.model_modules import FAMILIES


@rule("CF595")
def quantised_and_trained(facts: Facts) -> Iterator[Finding]:
    """CF595: a base in 4 or 8 bits is to be trained in full.

    Without the section `lora` every weight is trained, and a packed weight is whole numbers: no gradient can
    move it. Adapters beside it are trained (QLoRA), and so can be the tables in `lora.modules_to_save`, which
    stay as they are.
    """
    config = facts.run.config
    if config.model.quantization == "none" or config.lora is not None:
        return
    yield Finding(
        "CF595",
        f"model.quantization is {config.model.quantization}, and there is no section lora: packed weights "
        "cannot be trained",
        place=facts.run.place("model.quantization"),
        helps=(
            "give a section lora: adapters are trained beside the base",
            "or set model.quantization to none",
        ),
    )


@rule("CF596")
def quantised_in_parts(facts: Facts) -> Iterator[Finding]:
    """CF596: a base in 4 or 8 bits on ZeRO stage 3.

    Stage 3 is there to hold a part of the weights on each rank. Tried on 2 ranks (DeepSpeed 0.19.8,
    transformers 5.23, bitsandbytes 0.50): transformers loads a quantised base whole on every rank all the
    same, and never in parts; in 8 bits bitsandbytes then keeps a second, whole copy of every weight on each
    rank. Memory is what stage 3 costs its time for, and it saves little or none here. ZeRO 1 and 2 divide
    what belongs to the adapters, with the same losses.
    """
    config, deepspeed = facts.run.config, facts.deepspeed
    if config.model.quantization == "none" or deepspeed is None or zero_stage(deepspeed.values) != 3:
        return
    yield Finding(
        "CF596",
        f"model.quantization is {config.model.quantization}, and ZeRO stage 3 does not load that in parts",
        place=facts.run.place("model.quantization"),
        others=((deepspeed.place("zero_optimization", "stage"), "stage 3"),),
        notes=("every rank would load all of it, and in 8 bits keep a second copy",),
        helps=("set zero_optimization.stage to 2", "or set model.quantization to none"),
    )


@rule("CF599")
def saves_packed(facts: Facts) -> Iterator[Finding]:
    """CF599: `lora.modules_to_save` names what a base in 4 or 8 bits keeps packed.

    Modules to save are trained in full. All linear layers but the head are packed, and packed weights cannot
    be trained; nor can a block that holds such layers. Tables, head and norms are not packed, and can be. A
    linear layer can have an adapter instead: `lora.target_modules`.
    """
    config, model = facts.run.config, facts.model
    names = FAMILIES.get(model.model_type) if model is not None else None
    if config.model.quantization == "none" or config.lora is None or names is None:
        return
    packed = [name for name in config.lora.modules_to_save if name.rpartition(".")[2] in names.blocks]
    if packed:
        finding = model_findings.packed_to_save(packed, config.model.quantization)
        yield replace(finding, place=facts.run.place("lora.modules_to_save"))
