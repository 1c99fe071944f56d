"""A small model of the same architecture: from config.json, with random weights, as an ordinary Hugging Face
folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.findings.finding import Place, Refused
from crossfoot.models.load import read_model_config
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.probing.findings import not_shrinkable
from crossfoot.written.model_facts import BUILTIN_TINY

LAYERS, HEAD_DIM, VOCABULARY = 2, 16, 320
MOST_KEY_HEADS, MOST_EXPERTS = 2, 4
MOST_PARAMETERS = 20_000_000
INITIALIZER_RANGE = 0.1
"""Spread of the random weights. At transformers' 0.02 a narrow model's attention is all but uniform, and the
gradient of its queries and keys is little more than rounding."""


def write_small_model(path: str, folder: Path, seed: int, place: Place) -> str:
    """Write the small model of the model at `path` into `folder`; returns a line that says what it is.

    builtin:tiny is small: it is written as it is. path: a folder with a config.json, or a hub id; weights are
    not read. The same (path, seed) gives the same weights. Raises Refused: no config.json, not a causal
    language model, or an architecture that cannot be shrunk (CF751).
    """
    if path == BUILTIN_TINY:
        write_tiny_model(folder)
        return "builtin:tiny as it is"
    config = read_model_config(path)
    before = describe(config)
    why = ""
    for shrink in (shrink_all, shrink_layers):
        try:
            small = read_model_config(path)
            shrink(small.get_text_config())
            model = _made(small, seed)
            model.save_pretrained(folder)
            return f"{path} shrunk, random weights: {describe(small)}; it has {before}"
        except Exception as error:  # an architecture of any make may refuse any size in any way
            why = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            )
    raise Refused(not_shrinkable(path, why, place))


def _made(config: PretrainedConfig, seed: int) -> torch.nn.Module:
    """The model of a config, float32, with random weights, after one forward. ValueError when it is not
    small."""
    with torch.device("meta"):
        parameters = sum(
            p.numel() for p in AutoModelForCausalLM.from_config(config, trust_remote_code=False).parameters()
        )
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"it would still have {parameters:,} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()
        with torch.no_grad():
            model(input_ids=torch.arange(8)[None, :], use_cache=False)
    return model


def describe(config: PretrainedConfig) -> str:
    """A model's sizes in words."""
    text = config.get_text_config()
    words = [f"{text.num_hidden_layers} layers", f"hidden size {text.hidden_size}"]
    heads, key_heads = (getattr(text, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    if heads:
        words.append(f"{heads} heads on {key_heads or heads}")
    return f"{text.model_type}, {', '.join(words)}, {text.vocab_size:,} tokens"


def shrink_all(config: PretrainedConfig) -> None:
    """Few layers, narrow, small vocabulary, a wider spread of the random weights; keeps the ratio of query to
    key heads, tied tables, the kinds of layers and the kind of rotary positions.
    """
    shrink_layers(config)
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    group, rest = divmod(heads, key_heads)
    if rest:
        raise ValueError(f"{heads} heads do not share {key_heads} key heads evenly")
    small_key_heads = min(key_heads, MOST_KEY_HEADS if group > 1 else 4)
    old_head_dim, _rest = divmod(config.hidden_size, heads)
    old_head_dim = getattr(config, "head_dim", None) or old_head_dim
    old_hidden = config.hidden_size
    hidden = small_key_heads * group * HEAD_DIM
    wanted = {
        "num_key_value_heads": small_key_heads,
        "num_kv_heads": small_key_heads,
        "head_dim": HEAD_DIM,
        "num_attention_heads": small_key_heads * group,
        "hidden_size": hidden,
        "word_embed_proj_dim": hidden,
        "num_experts": MOST_EXPERTS,
        "num_local_experts": MOST_EXPERTS,
        "n_routed_experts": MOST_EXPERTS,
        "num_experts_per_tok": 2,
    }
    for name in (
        "intermediate_size",
        "ffn_dim",
        "n_inner",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
    ):
        if getattr(config, name, None):
            wanted[name] = 8 * ceil_div(getattr(config, name) * hidden, 8 * old_hidden)
    for name, value in wanted.items():
        old = getattr(config, name, None)
        is_derived = isinstance(getattr(type(config), name, None), property)
        if isinstance(old, int) and old > value and not is_derived:
            setattr(config, name, value)
    if getattr(config, "query_pre_attn_scalar", None):
        config.query_pre_attn_scalar = HEAD_DIM
    if hasattr(config, "initializer_range"):
        config.initializer_range = INITIALIZER_RANGE
    _shorten_rope_factors(config, old_head_dim)


def shrink_layers(config: PretrainedConfig) -> None:
    """Two layers, or one of each kind, and a small vocabulary."""
    layers = min(LAYERS, config.num_hidden_layers)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        kept = list(dict.fromkeys(kinds))
        kept += kinds[: max(0, layers - len(kept))]
        layers, config.layer_types = len(kept), kept
    config.num_hidden_layers = layers
    config.vocab_size = min(config.vocab_size, VOCABULARY)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, list) or (isinstance(token, int) and token >= config.vocab_size):
            setattr(config, name, None)
    config.use_cache = False


def _shorten_rope_factors(config: PretrainedConfig, old_head_dim: int) -> None:
    """Rotary positions with one factor for each pair of a head's dimensions (longrope): as many as are
    left.
    """
    parameters: Any = getattr(config, "rope_parameters", None) or {}
    for name in ("long_factor", "short_factor"):
        factors = parameters.get(name)
        if isinstance(factors, list):
            pairs, _rest = divmod(len(factors) * HEAD_DIM, old_head_dim)
            parameters[name] = factors[:pairs]
