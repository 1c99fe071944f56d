"""The rules CF071 to CF075: an adapter that a run starts from (`model.adapter`), held against the model and
the section lora, from its adapter_config.json and the header of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted
from crossfoot.written.adapter_folder import PREFIX, AdapterFolder
from crossfoot.written.config import Config
from crossfoot.written.lora_section import LoraSection
from crossfoot.written.model_modules import adapted_modules
from crossfoot.written.model_tensors import promised_tensors
from crossfoot.written.shown import shown

_MERGE = "or merge it into the base, under a new adapter: model.adapter_use=merge"
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""How init_lora_weights begins, where peft changes the base as it makes the adapter."""
_UNREAD = (
    *("lora_bias", "layer_replication", "target_parameters", "trainable_token_indices"),
    *("alora_invocation_tokens", "use_qalora", "megatron_config"),
)
"""Keys of adapter_config.json that ask for more than the two matrices, and that nothing here knows."""
_TABLES = frozenset(("embed_tokens", "lm_head"))
"""Tied, they are one tensor, whichever name it has."""
_PATTERNS = ("rank_pattern", "alpha_pattern", "layers_to_transform")
"""Keys that the section lora has no words for; merging needs none."""


@rule("CF071")
def adapter_of_another_kind(facts: Facts) -> Iterator[Finding]:
    """CF071: the adapter of `model.adapter` is of a kind that no run can start from.

    Read are LoRA, rsLoRA and DoRA with modules to save, as peft and crossfoot write them. Other methods of
    peft are not; nor are PiSSA, OLoRA, CorDA and LoftQ, which change the base weights when they begin: their
    adapter does not stand on the base that it names, unless peft converted it while saving
    (`path_initial_model_for_weight_conversion`), and then it says so itself. An adapter that crossfoot
    trained on a base with another one merged into it (its `base.json`) needs that base: merge the first one
    into a model folder, and name that folder in `model.path`. To be continued, all matrices must have one
    rank and one scale.
    """
    adapter = facts.adapter
    if adapter is None:
        return
    values = adapter.values
    continues = facts.run.config.model.adapter_use == "continue"
    for key, why in _of_another_kind(adapter, continues):
        yield Finding(
            "CF071",
            f"no run can start from this adapter: {why}",
            place=adapter.place(key),
            label=shown(values.get(key)) if key in values else "",
            others=((facts.run.place("model.adapter"), "named here"),),
            helps=("merge it with peft into a model folder, and name that in model.path",),
        )


def _of_another_kind(adapter: AdapterFolder, continues: bool) -> Iterator[tuple[str, str]]:
    """(key, why) of what stands in the way."""
    values = adapter.values
    kind = values.get("peft_type")
    if kind != "LORA":
        yield "peft_type", f"it is {kind or 'of no kind that it names'}, not LORA"
        return
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OTHER_BASE):
        yield "init_lora_weights", f"{start} changed the base when it began"
    if adapter.merged_first:
        yield "base_model_name_or_path", f"its base has another one merged into it, {adapter.merged_first}"
    if values.get("bias", "none") != "none":
        yield "bias", "it holds biases of the base too"
    for key in (*_UNREAD, *(_PATTERNS if continues else ())):
        if values.get(key):
            yield key, f"{key} is not read here"


@rule("CF072")
def adapter_differs(facts: Facts) -> Iterator[Finding]:
    """CF072: an adapter is to be continued, and the section lora describes another one.

    `model.adapter_use: continue` trains the matrices of the adapter on. Their rank, scale, kind and places
    are what they are, so the section must say the same; it is not read out of the adapter, because a config
    that says one thing and trains another is no record. `lora.dropout` is free.
    """
    run, adapter, lora = facts.run, facts.adapter, facts.run.config.lora
    if adapter is None or lora is None or run.config.model.adapter_use != "continue":
        return
    if adapter.values.get("peft_type") != "LORA":
        return
    for key, theirs, ours, there in _compared(facts, adapter, lora):
        if ours != there:
            yield Finding(
                "CF072",
                f"lora.{key} is {_said(ours)}, and the adapter to be continued has {_said(there)}",
                place=adapter.place(theirs),
                label="of the adapter",
                others=((run.place("lora", key), "of this run"),),
                helps=(f"set lora.{key} to {_said(there)}", _MERGE),
            )


def _said(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else shown(value)


def _compared(facts: Facts, adapter: AdapterFolder, lora: LoraSection) -> Iterator[tuple[str, str, Any, Any]]:
    """(our key, its key, our value, its value)."""
    values = adapter.values
    yield "r", "r", lora.r, values.get("r")
    yield "alpha", "lora_alpha", lora.alpha, values.get("lora_alpha")
    yield "scaling", "use_rslora", lora.scaling, "rslora" if values.get("use_rslora") else "standard"
    yield "dora", "use_dora", lora.dora, bool(values.get("use_dora"))
    rows = "trainable_token_indices"
    yield rows, rows, lora.trainable_token_indices, values.get(rows)
    model = facts.model
    targets = adapted_modules(lora.target_modules, model.model_type if model else "")
    if targets is not None and adapter.modules:
        yield "target_modules", "target_modules", _trailing(targets), _trailing(adapter.modules)
    is_tied = model is not None and model.tied
    saved = (lora.modules_to_save, values.get("modules_to_save") or ())
    ours, theirs = (
        _trailing([*names, *(_TABLES if is_tied and {*names} & _TABLES else ())]) for names in saved
    )
    yield "modules_to_save", "modules_to_save", ours, theirs


@rule("CF073")
def adapter_of_another_model(facts: Facts) -> Iterator[Finding]:
    """CF073: the adapter of `model.adapter` was made for another model.

    Each of its matrices has a side as long as that side of the weight it belongs to. One that has not, or
    that belongs to a module which `model.path` has not, is of another model. A table of tokens may have more
    rows than the model's: the model is grown to it.
    """
    adapter, model = facts.adapter, facts.model
    promised = promised_tensors(model.sizes) if model is not None else None
    if adapter is None or promised is None or adapter.values.get("peft_type") != "LORA":
        return
    wrong = list(_misfits(adapter, promised))
    if wrong:
        more = f", and {counted(len(wrong) - 1, 'more tensor')}" if len(wrong) > 1 else ""
        base = adapter.values.get("base_model_name_or_path")
        yield Finding(
            "CF073",
            f"the adapter is of another model than model.path: {wrong[0]}{more}",
            place=facts.run.place("model.adapter"),
            others=((facts.run.place("model.path"), "the base of this run"),),
            notes=(f"it was trained on {base}",) if base else (),
            helps=("set model.path to the base that the adapter was trained on",),
        )


def _misfits(adapter: AdapterFolder, promised: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for name, tensor in (adapter.tensors or {}).items():
        module, _, part = name.removeprefix(PREFIX).partition(".lora_")
        if not part.startswith(("A", "B")):
            continue
        base = promised.get(f"{module}.weight")
        side = 1 if part.startswith("A") else 0
        if base is None:
            yield f"it has no {module}"
        elif tensor.shape[side : side + 1] != (base[side],):
            shape, weight = (" x ".join(map(str, one)) for one in (tensor.shape, base))
            yield f"lora_{part[0]} of {module} is {shape}, for a weight of {weight}"


@rule("CF074", "warning")
def pickled_adapter(facts: Facts) -> Iterator[Finding]:
    """CF074: the weights of `model.adapter` are a pickle.

    adapter_model.bin is a file of torch.save, which can hold code that runs when it is loaded. It is loaded
    with `weights_only`, which refuses everything but tensors; peft writes adapter_model.safetensors today.
    """
    adapter = facts.adapter
    if adapter is not None and adapter.is_pickled:
        yield Finding(
            "CF074",
            f"the weights of the adapter are a pickle: {adapter.weights}",
            severity="warning",
            place=facts.run.place("model.adapter"),
            notes=("it is loaded with weights_only: tensors, and no code",),
            helps=("load it with peft and save it again: that writes safetensors",),
        )


@rule("CF075")
def nothing_to_continue_with(facts: Facts) -> Iterator[Finding]:
    """CF075: an adapter cannot be continued so.

    Continued, its matrices are what is trained: there must be a section lora, and its tables of tokens must
    have a row for every token of the tokenizer. A table that lacks rows is not grown in an adapter; merged
    into the base it is.
    """
    run, adapter = facts.run, facts.adapter
    if adapter is None or run.config.model.adapter_use != "continue":
        return
    why, others = _in_vain(facts, adapter, run.config), run.place("model.adapter_use")
    if why:
        yield Finding(
            "CF075",
            f"the adapter cannot be continued: {why}",
            place=run.place("model.adapter"),
            others=((others, "continue"),) if run.is_written("model.adapter_use") else (),
            helps=("set model.adapter_use to merge: it becomes part of the base",),
        )


def _in_vain(facts: Facts, adapter: AdapterFolder, config: Config) -> str:
    if config.lora is None:
        return "there is no section lora, so all weights would be trained"
    needed = facts.vocabulary
    if adapter.rows and needed is not None and needed > adapter.rows:
        return f"its tables have {adapter.rows:,} rows, and the tokenizer {needed:,} tokens"
    return ""


def _trailing(names: Sequence[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})
