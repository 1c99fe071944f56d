"""Sizes in a config.json that no model has: a wrong path, a damaged file, or a trap.

Building such a model, before any weight is looked for, would take minutes or all memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEEPEST = 20
MOST_PARAMETERS = 10**14
"""Fifty times as many as the largest model that is known of."""

_LAYERS = "num_hidden_layers n_layer n_layers num_layers num_decoder_layers"
_WIDTH = "hidden_size n_embd d_model"
_WIDTHS = f"{_WIDTH} intermediate_size ffn_dim n_inner moe_intermediate_size head_dim"
_HEADS = "num_attention_heads n_head num_heads num_key_value_heads num_experts n_routed_experts"
LIMITS: Mapping[str, int] = {
    **dict.fromkeys(_LAYERS.split(), 2_000),
    **dict.fromkeys(_WIDTHS.split(), 1 << 20),
    **dict.fromkeys((*_HEADS.split(), "num_local_experts"), 1 << 16),
    **dict.fromkeys(("vocab_size",), 10**7),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 10**8),
}
"""Ten times and more of what the largest models have, by the names that families give it."""


def beyond_sense(values: Any, depth: int = 0) -> str | None:
    """What no model has, in the values of a config.json and its parts (text_config); None for a model."""
    if not isinstance(values, dict) or depth > DEEPEST:
        return None
    for name, limit in LIMITS.items():
        value = values.get(name)
        if isinstance(value, int | float) and not -limit <= value <= limit:
            is_short = isinstance(value, float) or abs(value) < 10**18
            shown = f"{value:,}" if is_short else "a number of more than 18 digits"
            return f"{name} is {shown}: no model has more than {limit:,}"
    parameters = _parameters(values)
    if parameters > MOST_PARAMETERS:
        return f"the sizes are those of a model with some {parameters:.1g} parameters"
    found = (beyond_sense(part, depth + 1) for part in values.values())
    return next((reason for reason in found if reason is not None), None)


def work_per_token(values: Mapping[str, Any]) -> int | None:
    """What one more token of a sample costs, in the unit in which its attention costs length^2; at least 1.
    None when the sizes are not there.

    A sample of L tokens multiplies 2 x parameters x L in matrices, and 2 x layers x width x L^2 in causal
    attention (scores and sums, half of each). Forward and backward keep the ratio.
    """
    layers, width = _first(values, _LAYERS, 0.0), _first(values, _WIDTH, 0.0)
    if not layers or not width:
        return None
    return max(1, round(_parameters(values) / (layers * width)))


def _parameters(values: Mapping[str, Any]) -> float:
    """About how many parameters the blocks have: attention, and three matrices for each expert."""
    layers = _first(values, _LAYERS, 1.0)
    width = _first(values, _WIDTH, 1.0)
    inner = _first(values, "intermediate_size ffn_dim n_inner", 4 * width)
    experts = _first(values, "num_local_experts num_experts n_routed_experts", 1.0)
    inner_of_expert = _first(values, "moe_intermediate_size", inner)
    rows = _first(values, "vocab_size", 0.0)
    return rows * width + layers * (4 * width**2 + 3 * width * max(inner, experts * inner_of_expert))


def _first(values: Mapping[str, Any], names: str, default: float) -> float:
    found = (values.get(name) for name in names.split())
    return next((float(one) for one in found if isinstance(one, int | float) and one > 0), default)
