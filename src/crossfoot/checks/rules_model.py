"""CF533, CF534, CF540, CF541, CF543, CF546 to CF549: what can be said about the model before anything
is loaded, from its config.json alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.written import model_findings
from crossfoot.written.hub import hub_model
from crossfoot.written.model_facts import (
    BUILTIN_TINY,
    model_missing,
    needs_trained_embeddings,
)
from crossfoot.written.model_kinds import NOT_PACKABLE, Kind, kind_of_family
from crossfoot.written.model_modules import FAMILIES, ModuleNames, adapted_modules
from crossfoot.written.near_paths import near_help

_LEARNED_POSITIONS = frozenset(("gpt2", "gpt_neo", "gpt_bigcode", "opt", "biogpt"))
"""Families with a table of positions: one beyond its end is an index error, not a guess."""


@rule("CF533", "error", "warning")
def beyond_positions(facts: Facts) -> Iterator[Finding]:
    """CF533: `data.max_seq_len` is more than the positions that the model was made for.

    `max_position_embeddings` of its config.json, times the factor of its rope scaling where that has one.
    Rotary positions can be computed further, but the model has never seen them, and what it answers there is
    a guess; that is a warning. A model with a table of learned positions (gpt2, opt) has none to look up, and
    stops: an error. Once the data is indexed, its longest sample counts and not the limit.
    """
    model, run = facts.model, facts.run
    longest, what = run.config.data.max_seq_len, "data.max_seq_len"
    if facts.data is not None and facts.data.is_indexed:
        longest, what = facts.data.longest_kept_tokens, "the longest sample, in tokens,"
    if model is None or model.positions is None or longest <= model.positions:
        return
    learned = model.model_type in _LEARNED_POSITIONS
    stretched = (
        f", {model.max_position_embeddings:,} before rope scaling" if model.stretched_positions else ""
    )
    yield Finding(
        "CF533",
        f"{what} is {longest:,}, and the model was made for {model.positions:,} positions",
        severity="error" if learned else "warning",
        place=run.place("data.max_seq_len"),
        notes=(
            f"max_position_embeddings in its config.json{stretched}",
            f"{model.model_type} looks positions up in a table, which ends there"
            if learned
            else "positions beyond that are computed, and were never trained",
        ),
        helps=(
            f"set data.max_seq_len to {model.positions}",
            *(() if learned else ("or give its config.json a rope scaling",)),
        ),
    )


@rule("CF534", "note")
def one_name_of_two(facts: Facts) -> Iterator[Finding]:
    """CF534: `lora.modules_to_save` names one of two tables that are one tensor.

    A model with `tie_word_embeddings` has one table for embed_tokens and lm_head. It stays one here: either
    name, or both, trains and saves that one tensor (peft's own default would make an untied copy of it, with
    a warning). With one name alone the config looks as if the other table stayed as it was; it does not.
    """
    lora, model = facts.run.config.lora, facts.model
    names = _names(facts)
    if lora is None or model is None or names is None or not model.tied:
        return
    tables = names.tables
    saved = [table for table in tables if _written(table, lora.modules_to_save)]
    if len(saved) != 1 or _copies_only_input(facts):
        return
    (other,) = [table for table in tables if table not in saved]
    yield Finding(
        "CF534",
        f"{saved[0]} is trained, and {other} with it: this model has one tensor for both",
        severity="note",
        place=facts.run.place("lora.modules_to_save"),
        notes=("tie_word_embeddings in its config.json; the saved adapter has both names",),
        helps=(f"write [{', '.join(tables)}], so that a reader knows",),
    )


@rule("CF540")
def untrained_rows(facts: Facts) -> Iterator[Finding]:
    """CF540: the tokenizer has more tokens than the model has rows, and new rows are not trained.

    With LoRA only the adapters and `lora.modules_to_save` are trained. New rows of embed_tokens and lm_head
    start at the mean of the old ones; unless both tables are trained, all new tokens stay the same token to
    the model. One of the two names is enough when the model ties them. Full fine-tuning trains both anyway.
    """
    model, rows, needed = facts.model, facts.table_rows, facts.vocabulary
    if model is None or rows is None or needed is None:
        return
    finding = needs_trained_embeddings(facts.run.config, rows, needed, model.tied)
    if finding is not None:
        yield replace(finding, place=facts.run.place("lora"))


@rule("CF541", "error", "warning")
def model_path(facts: Facts) -> Iterator[Finding]:
    """CF541: `model.path` is neither a folder here nor the id of a model on a hub.

    A path that exists, that begins with /, ./, ../ or ~, that ends with / or that has more than one slash is
    taken for a folder, and must be one. `name`, `owner/name` and `modelscope:owner/name` are ids of a hub;
    one that is not in the local cache is CF060. Paths are relative to the folder that the command is started
    in.
    """
    path = facts.run.config.model.path
    if path == BUILTIN_TINY or os.path.isdir(path):
        return
    near, place = near_help(path, os.path.isdir), facts.run.place("model.path")
    if hub_model(path) is not None:
        if near and "/" in path and os.path.isdir(os.path.dirname(path)):
            title = f"{path} is taken for a model of the hub: there is no such folder"
            yield Finding("CF541", title, severity="warning", place=place, helps=near)
        return
    why = "it is a file, not a folder" if os.path.exists(path) else "there is no such folder"
    finding = model_missing(path, why)
    yield replace(finding, place=place, helps=(*near, *finding.helps))


@rule("CF543")
def not_causal(facts: Facts) -> Iterator[Finding]:
    """CF543: the model is not a causal language model (an encoder, say), so next tokens cannot be trained.

    What counts is the `model_type` in its config.json: transformers must know a causal form of it. Of bert,
    roberta and other encoders it has one, which is the encoder itself unless config.json says `is_decoder`;
    of bart, whisper and other pairs of encoder and decoder one that is the decoder alone. Neither is trained.
    """
    model = facts.model
    if model is None:
        return
    kind = kind_of_family(model.model_type, model.has_own_code)
    if model.sees_both_sides or kind is Kind.NOT_CAUSAL:
        finding = model_findings.model_not_causal(facts.run.config.model.path, model.model_type)
        yield replace(finding, place=facts.run.place("model.path"))


@rule("CF555")
def not_packable(facts: Facts) -> Iterator[Finding]:
    """CF555: this model cannot train in the packed layout.

    `data.layout: packed`, the default, puts the samples of a forward one behind the other in one row; each
    must see itself alone. Most families ask transformers for their attention, and there each sample's is
    computed by itself. A few have an attention of their own, or carry a state from token to token. They train
    the same steps with `data.layout: padded`.
    """
    model = facts.model
    if model is None or not facts.run.config.data.is_packed or model.model_type not in NOT_PACKABLE:
        return
    finding = model_findings.not_packable(f"{model.model_type} has an attention of its own")
    yield replace(finding, place=facts.run.place("data.layout"))


@rule("CF546")
def target_modules(facts: Facts) -> Iterator[Finding]:
    """CF546: a name in `lora.target_modules` matches no linear or embedding module of this model.

    peft itself skips such a name without a word when another one matches. A name is a module's whole name or
    its end after a dot; patterns are not read here, and `all-linear` is every linear module but the head.
    Families name theirs differently: llama's q_proj, k_proj and v_proj are c_attn in gpt2, query_key_value in
    gpt_neox and qkv_proj in phi3.
    """
    lora, names = facts.run.config.lora, _names(facts)
    if lora is None or names is None:
        return
    lacking = [name for name in _targets(facts) if _trailing_name(name) not in names.adaptable]
    if lacking:
        finding = model_findings.no_target_module(lacking, names.adaptable, names.blocks)
        yield replace(finding, place=facts.run.place("lora.target_modules"))


@rule("CF547")
def modules_to_save(facts: Facts) -> Iterator[Finding]:
    """CF547: a name in `lora.modules_to_save` matches no module of this model.

    Those modules are trained in full. Families name theirs differently: llama has embed_tokens and lm_head,
    gpt2 wte, gpt_neox embed_in.
    """
    lora, names = facts.run.config.lora, _names(facts)
    if lora is None or names is None:
        return
    everything = {*names.adaptable, *names.parts}
    lacking = [
        name
        for name in lora.modules_to_save
        if _trailing_name(name) not in everything and not _trailing_name(name).isdecimal()
    ]
    if lacking:
        finding = model_findings.no_module_to_save(lacking, names.adaptable)
        yield replace(finding, place=facts.run.place("lora.modules_to_save"))


@rule("CF548")
def trained_two_ways(facts: Facts) -> Iterator[Finding]:
    """CF548: a module cannot be trained in full and have an adapter too.

    An adapter is a small change on frozen weights; a module to save is trained and saved whole. Which of the
    two is meant only the author of the config knows.
    """
    lora = facts.run.config.lora
    if lora is None:
        return
    both = [
        name for name in lora.modules_to_save if any(_overlap(name, target) for target in _targets(facts))
    ]
    if both:
        finding = model_findings.trained_two_ways(list(dict.fromkeys(map(_trailing_name, both))))
        yield replace(finding, place=facts.run.place("lora.modules_to_save"))


@rule("CF549", name="embeddings-untied")
def untied(facts: Facts) -> Iterator[Finding]:
    """CF549: what is asked would untie embed_tokens and lm_head of a model that ties them.

    With `tie_word_embeddings` the two are one tensor, and a run keeps them one (peft's ensure_weight_tying),
    or is refused: an untied copy would train two tables where the saved model has one. An adapter on one of
    them would do that; and so does a copy of the input table alone when that has another name than
    embed_tokens (wte, word_embeddings), because peft then does not find its partner. It does from lm_head.
    """
    lora, model, names = facts.run.config.lora, facts.model, _names(facts)
    if lora is None or model is None or names is None or not model.tied:
        return
    place = facts.run.place("lora.modules_to_save")
    adapted = [table for table in names.tables if _written(table, _targets(facts))]
    if adapted and not any(_written(table, lora.modules_to_save) for table in adapted):
        yield replace(model_findings.adapter_unties(adapted), place=facts.run.place("lora.target_modules"))
    if _copies_only_input(facts):
        yield replace(model_findings.copy_unties(model.model_type, names.tables[0]), place=place)


def _copies_only_input(facts: Facts) -> bool:
    """Whether modules_to_save has the input table without lm_head, under a name that peft does not follow."""
    lora, names = facts.run.config.lora, _names(facts)
    if lora is None or names is None or names.tables[0] == "embed_tokens":
        return False
    saved = [_written(table, lora.modules_to_save) for table in names.tables]
    return saved == [True, False]


def _names(facts: Facts) -> ModuleNames | None:
    return FAMILIES.get(facts.model.model_type) if facts.model is not None else None


def _targets(facts: Facts) -> tuple[str, ...]:
    """Which modules get an adapter; none where that is not known."""
    lora, family = facts.run.config.lora, facts.model.model_type if facts.model is not None else ""
    return (lora and adapted_modules(lora.target_modules, family)) or ()


def _trailing_name(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _written(module: str, names: Sequence[str]) -> bool:
    return any(_trailing_name(name) == module for name in names)


def _overlap(one: str, other: str) -> bool:
    """Whether some module matches both names: one is the other, or its end after a dot."""
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")
