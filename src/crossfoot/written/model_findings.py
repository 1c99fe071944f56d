"""What a config can ask of a model that the model has not: said by the static rules, and again by the loader,
which sees the modules themselves. The pages are the rules', in checks/rules_model.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from crossfoot.findings.finding import Finding
from crossfoot.phrases import listed

ALIKE = 0.85
"""Names that differ by a letter, and not q_proj and gpt2's c_proj, which is another module."""


def model_not_causal(path: str, kind: str) -> Finding:
    """CF543, without its place."""
    return Finding(
        "CF543",
        f"model.path is a {kind} model, which is not a causal language model: {path}",
        helps=("choose a decoder model such as llama, mistral or qwen2",),
    )


def not_packable(why: str) -> Finding:
    """CF555, without its place."""
    return Finding(
        "CF555",
        f"this model cannot train in the packed layout: {why}",
        notes=("packed, samples stand one behind the other in a row, and each must see itself alone",),
        helps=("set data.layout to padded: the same steps and losses, more time for padding",),
    )


def no_target_module(lacking: Sequence[str], there: Sequence[str], blocks: Sequence[str] = ()) -> Finding:
    """CF546, without its place: these names match nothing. there: all linear and embedding modules. blocks:
    the linear ones in the family's blocks, when they are known.
    """
    key = "lora.target_modules"
    usual = f"set {key} to [{', '.join(blocks)}]: all linear modules of its blocks" if blocks else ""
    return _names_nothing("CF546", key, lacking, there, usual)


def no_module_to_save(lacking: Sequence[str], there: Sequence[str]) -> Finding:
    """CF547, without its place."""
    return _names_nothing("CF547", "lora.modules_to_save", lacking, there)


def packed_to_save(names: Sequence[str], quantization: str) -> Finding:
    """CF599, without its place."""
    return Finding(
        "CF599",
        f"lora.modules_to_save names what model.quantization {quantization} packs: {', '.join(names)}",
        notes=("packed weights cannot be trained; tables, head and norms are not packed",),
        helps=(
            f"move {listed(names)} to lora.target_modules: an adapter beside the packed weight is trained",
            "or set model.quantization to none",
        ),
    )


def rank_beyond(rank: int, names: Sequence[str], side: int) -> Finding:
    """CF076, without its place. side: of the smallest of these weights."""
    return Finding(
        "CF076",
        f"lora.r is {rank}, and lora.init takes directions out of a weight, of which {names[0]} has {side}",
        notes=(f"too small: {listed(names, 'and')}",) if len(names) > 1 else (),
        helps=(f"set lora.r to {side} or less", "or set lora.init to default"),
    )


def _names_nothing(
    code: str, key: str, lacking: Sequence[str], there: Sequence[str], usual: str = ""
) -> Finding:
    near = [difflib.get_close_matches(name, there, n=1, cutoff=ALIKE) for name in lacking]
    meant = listed(list(dict.fromkeys(match for found in near for match in found)))
    return Finding(
        code,
        f"{key} names no module of this model: {', '.join(lacking)}",
        notes=(f"its linear and embedding modules are {', '.join(there)}",),
        helps=(f"write {meant}" if all(near) else usual or "write names from that list",),
    )


def trained_two_ways(names: Sequence[str]) -> Finding:
    """CF548, without its place."""
    return Finding(
        "CF548",
        f"{', '.join(names)} is in lora.target_modules and in lora.modules_to_save",
        helps=("keep it in modules_to_save to train it in full, or in target_modules for an adapter",),
    )


def adapter_unties(names: Sequence[str]) -> Finding:
    """CF549, without its place: an adapter on one use of a tied table."""
    return Finding(
        "CF549",
        f"an adapter on {', '.join(names)} would untie embed_tokens and lm_head",
        notes=("config.json says tie_word_embeddings: the two are one tensor",),
        helps=("take it out of lora.target_modules; to train it, put lm_head into lora.modules_to_save",),
    )


def copy_unties(family: str, table: str) -> Finding:
    """CF549, without its place: peft would train a copy of the input table alone.

    Seen with peft 0.21.2 on gpt2 and bloom: it finds the tied partner of lm_head under any name, but the
    partner of the input table only when that is named embed_tokens.
    """
    return Finding(
        "CF549",
        f"peft cannot keep the tied tables of this {family} model one tensor",
        notes=(f"its input table is named {table}, not embed_tokens; from lm_head peft finds the other",),
        helps=("add lm_head to lora.modules_to_save: both are then trained, as one tensor",),
    )
