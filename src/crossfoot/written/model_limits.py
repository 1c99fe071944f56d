"""A config.json read in bounded memory, and what no model has: a wrong path, a damaged file, or a trap.

Building such a model, before any weight is looked for, would take minutes or all memory.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.rule_docs import rule_docs

LARGEST_CONFIG_BYTES = 16 << 20
"""A config.json has some kilobytes; the largest lists of quantised modules make it a few megabytes."""
DEEPEST = 20
MOST_PARAMETERS = 10**14
"""Fifty times as many as the largest model that is known of."""

_LAYERS = "num_hidden_layers n_layer n_layers num_layers num_decoder_layers"
_WIDTHS = "hidden_size n_embd d_model intermediate_size ffn_dim n_inner moe_intermediate_size head_dim"
_HEADS = "num_attention_heads n_head num_heads num_key_value_heads num_experts n_routed_experts"
LIMITS: Mapping[str, int] = {
    **dict.fromkeys(_LAYERS.split(), 2_000),
    **dict.fromkeys(_WIDTHS.split(), 1 << 20),
    **dict.fromkeys((*_HEADS.split(), "num_local_experts"), 1 << 16),
    **dict.fromkeys(("vocab_size",), 10**7),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 10**8),
}
"""Ten times and more of what the largest models have, by the names that families give it."""


def read_model_config(path: str | os.PathLike[str]) -> Any:
    """The values of a config.json. Raises OSError or ValueError when it cannot be read, Refused (CF555) when
    it is no ordinary file, or says what no model has.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, "it is not an ordinary file")
    if status.st_size > LARGEST_CONFIG_BYTES:
        raise _refused(
            path, f"it has {status.st_size:,} bytes, and at most {LARGEST_CONFIG_BYTES:,} are read"
        )
    with open(path, encoding="utf-8") as stream:
        text = stream.read(LARGEST_CONFIG_BYTES)
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise _refused(path, "it is nested too deeply") from error
    for reason in _beyond_sense(values):
        raise _refused(path, reason)
    return values


def _beyond_sense(values: Any, depth: int = 0) -> Iterator[str]:
    """What no model has, in a config and its parts (text_config)."""
    if not isinstance(values, dict) or depth > DEEPEST:
        return
    for name, limit in LIMITS.items():
        value = values.get(name)
        if isinstance(value, int | float) and not -limit <= value <= limit:
            is_short = isinstance(value, float) or abs(value) < 10**18
            shown = f"{value:,}" if is_short else "a number of more than 18 digits"
            yield f"{name} is {shown}: no model has more than {limit:,}"
            return
    parameters = _parameters(values)
    if parameters > MOST_PARAMETERS:
        yield f"a model of its sizes has some {parameters:.1g} parameters"
    for part in values.values():
        yield from _beyond_sense(part, depth + 1)


def _parameters(values: Mapping[str, Any]) -> float:
    """About how many parameters the blocks have: attention, and three matrices for each expert."""
    layers = _first(values, _LAYERS, 1.0)
    width = _first(values, "hidden_size n_embd d_model", 1.0)
    inner = _first(values, "intermediate_size ffn_dim n_inner", 4 * width)
    experts = _first(values, "num_local_experts num_experts n_routed_experts", 1.0)
    inner_of_expert = _first(values, "moe_intermediate_size", inner)
    rows = _first(values, "vocab_size", 0.0)
    return rows * width + layers * (4 * width**2 + 3 * width * max(inner, experts * inner_of_expert))


def _first(values: Mapping[str, Any], names: str, default: float) -> float:
    found = (values.get(name) for name in names.split())
    return next((float(one) for one in found if isinstance(one, int | float) and one > 0), default)


def _refused(path: str | os.PathLike[str], reason: str) -> Refused:
    return Refused(model_beyond_sense(Place(os.fspath(path)), reason))


@rule_docs("CF555")
def model_beyond_sense(place: Place, reason: str) -> Finding:
    """CF555: a model's config.json describes what no model is, or is no config.json.

    A million layers, a width of billions, a file of gigabytes or a pipe: building that would take minutes and
    all memory before anybody looks whether there are weights. The limits are ten times and more of what the
    largest known models have.
    """
    return Finding(
        "CF555",
        "this config.json is not that of a model",
        place=place,
        label=reason,
        helps=("look whether model.path is the folder that you mean, and whether the file is whole",),
        unreadable=True,
    )
