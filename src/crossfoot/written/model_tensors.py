"""What a config.json promises about the tensors in the weight files: all of them for the families that are
trained most, the table's rows and the number of layers for the others whose modules are known.

A test builds these families and compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crossfoot.written.model_facts import INPUT_TABLE_NAMES, UNTIED_FAMILIES
from crossfoot.written.model_modules import FAMILIES
from crossfoot.written.tensor_headers import Tensor

Shape = tuple[int, ...]
_WHOLE_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_TABLE, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_COMPUTED = "rotary_emb.inv_freq"
"""Old files have it; it is computed, not loaded."""
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("num_hidden_layers", "n_embd", "n_layer", "n_head", "max_position_embeddings"),
)
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True)
class Mismatch:
    """How tensors differ from what config.json promises.

    layers: how many the files have and how many are promised, when these differ; the rest is not compared
    then. missing: names. reshaped: name, shape in the file, shape promised. unused: names that the model
    would not load, in modules or layers of its own; foreign: in others.
    """

    layers: tuple[int, int] | None = None
    missing: tuple[str, ...] = ()
    reshaped: tuple[tuple[str, Shape, Shape], ...] = ()
    unused: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def mismatch(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mismatch:
    """Hold the tensors of all weight files against the values of config.json; empty where nothing is known of
    the family.
    """
    if values.get("model_type") not in FAMILIES:
        return Mismatch()
    layers = next((values[key] for key in _LAYER_KEYS if _is_count(values.get(key))), None)
    there = {int(found[1]) for name in tensors if (found := _LAYER.search(name))}
    if layers is not None and (len(there) != layers or max(there) >= layers):
        return Mismatch(layers=(len(there), layers))
    promised = promised_tensors(values)
    if promised is None:
        return Mismatch(reshaped=tuple(_other_table(values, tensors)))
    shapes = {_full_name(name, tensors): one.shape for name, one in tensors.items()}
    if _HEAD not in promised and (head := shapes.pop(_HEAD, None)) is not None:
        shapes.setdefault(_TABLE, head)  # tied: a file may have either name, or both
    return compared(promised, shapes)


def compared(promised: Mapping[str, Shape], there: Mapping[str, Shape]) -> Mismatch:
    """Tensors by name and shape: those promised against those in the files."""
    modules = {_without_numbers(name).rpartition(".")[0] for name in promised}
    stacks = {name.partition(".*.")[0] for name in modules if ".*." in name}
    unused: list[str] = []
    foreign: list[str] = []
    for name in there:
        if name not in promised and not name.endswith(_COMPUTED):
            plain = _without_numbers(name)
            is_own = plain.rpartition(".")[0] in modules or plain.partition(".*.")[0] in stacks
            (unused if is_own else foreign).append(name)
    return Mismatch(
        missing=tuple(name for name in promised if name not in there),
        reshaped=tuple(
            (name, there[name], shape) for name, shape in promised.items() if there.get(name, shape) != shape
        ),
        unused=tuple(unused),
        foreign=tuple(foreign),
    )


def unfit_sizes(values: Mapping[str, Any]) -> Iterator[str]:
    """The sizes in the config.json of a known family that are no whole numbers above 0."""
    if values.get("model_type") in FAMILIES:
        yield from (key for key in _SIZES if values.get(key) is not None and not _is_count(values[key]))


def promised_tensors(values: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Every tensor of a llama-like model with its shape; None for another family, and where config.json
    leaves out a size.
    """
    family = values.get("model_type")
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if family not in _WHOLE_FAMILIES or not all(_is_count(values.get(key)) for key in keys):
        return None
    rows, hidden, _, layers, heads = (int(values[key]) for key in keys)
    groups = values.get("num_key_value_heads") or (heads if family == "llama" else None)
    width = values.get("head_dim") or (128 if family == "qwen3" else hidden // heads)
    if groups is None or not _is_count(groups) or not _is_count(width):
        return None
    promised: dict[str, Shape] = {_TABLE: (rows, hidden)}
    for name, shape in _layer(values, heads * width, groups * width, width):
        promised |= {f"model.layers.{number}.{name}": shape for number in range(layers)}
    promised["model.norm.weight"] = (hidden,)
    if not values.get("tie_word_embeddings", family not in UNTIED_FAMILIES):
        promised[_HEAD] = (rows, hidden)
    return promised


def _layer(values: Mapping[str, Any], queries: int, keys: int, width: int) -> Iterator[tuple[str, Shape]]:
    """The tensors of one layer. queries, keys: rows of q_proj, and of k_proj and v_proj. width: of a head."""
    family, hidden, inner = values["model_type"], values["hidden_size"], values["intermediate_size"]
    has_bias = family == "qwen2" or (family != "mistral" and bool(values.get("attention_bias")))
    has_mlp_bias = family == "llama" and bool(values.get("mlp_bias"))
    for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        yield f"self_attn.{name}.weight", (rows, hidden)
        if has_bias:
            yield f"self_attn.{name}.bias", (rows,)
    yield "self_attn.o_proj.weight", (hidden, queries)
    if has_bias and family != "qwen2":
        yield "self_attn.o_proj.bias", (hidden,)
    if family == "qwen3":
        yield "self_attn.q_norm.weight", (width,)
        yield "self_attn.k_norm.weight", (width,)
    for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
        yield f"mlp.{name}_proj.weight", shape
        if has_mlp_bias:
            yield f"mlp.{name}_proj.bias", shape[:1]
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)


def _other_table(
    values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, Shape, Shape]]:
    """The table of tokens, when it has another shape than config.json says."""
    rows, hidden = values.get("vocab_size"), values.get("hidden_size", values.get("n_embd"))
    for name, tensor in tensors.items():
        is_table = name.split(".")[-2:-1] in [[table] for table in INPUT_TABLE_NAMES]
        if is_table and len(tensor.shape) == 2:
            promised = tuple(
                size if said is None else said
                for said, size in zip((rows, hidden), tensor.shape, strict=True)
            )
            if promised != tensor.shape:
                yield name, tensor.shape, promised


def _full_name(name: str, tensors: Mapping[str, Tensor]) -> str:
    """The name in the model with a head: files of a model without one lack the first part of it."""
    is_whole = name == _HEAD or any(other.startswith("model.") for other in tensors)
    return name if is_whole else f"model.{name}"


def _without_numbers(name: str) -> str:
    return _NUMBER.sub("*", name)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9
