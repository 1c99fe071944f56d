"""Module names of the model families that are trained most, by the model_type of config.json.

Not read from the weight files: transformers 5 renames and fuses while it loads (gpt_neox's embed_out becomes
lm_head, a mixture's experts become one tensor), so a tensor's name is not a module's. A test builds each
family and compares (tests/unit/test_rules_model.py).
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from crossfoot.written.config_values import ALL_LINEAR

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")
_LLAMA = ("embed_tokens", *_ATTENTION, *_GATED, "lm_head")
_LLAMA_PARTS = (
    "model",
    "layers",
    "self_attn",
    "mlp",
    "act_fn",
    "input_layernorm",
    "post_attention_layernorm",
    "norm",
    "rotary_emb",
)
_GEMMA2_PARTS = (*_LLAMA_PARTS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_MIXTURE = ("embed_tokens", *_ATTENTION, "lm_head")
_GPT2 = ("wte", "wpe", "c_attn", "c_proj", "c_fc", "lm_head")
_GPT2_PARTS = (
    "transformer",
    "drop",
    "h",
    "ln_1",
    "attn",
    "attn_dropout",
    "resid_dropout",
    "ln_2",
    "mlp",
    "act",
    "dropout",
    "ln_f",
)
_FUSED = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "lm_head")


@dataclass(frozen=True)
class ModuleNames:
    """The last parts of a family's module names. adaptable: linear and embedding modules, in the order of the
    forward. parts: all others (norms, blocks).
    """

    adaptable: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def tables(self) -> tuple[str, str]:
        """The input table and the output head."""
        return (self.adaptable[0], self.adaptable[-1])

    @property
    def blocks(self) -> tuple[str, ...]:
        """The linear modules of the blocks: no table, of tokens or of positions."""
        return tuple(name for name in self.adaptable[1:-1] if name != "wpe")


FAMILIES: Mapping[str, ModuleNames] = MappingProxyType(
    {
        "llama": ModuleNames(_LLAMA, _LLAMA_PARTS),
        "mistral": ModuleNames(_LLAMA, _LLAMA_PARTS),
        "qwen2": ModuleNames(_LLAMA, _LLAMA_PARTS),
        "qwen3": ModuleNames(_LLAMA, (*_LLAMA_PARTS, "q_norm", "k_norm")),
        "gemma": ModuleNames(_LLAMA, _LLAMA_PARTS),
        "gemma2": ModuleNames(_LLAMA, _GEMMA2_PARTS),
        "gemma3_text": ModuleNames(_LLAMA, (*_GEMMA2_PARTS, "q_norm", "k_norm")),
        "olmo2": ModuleNames(
            _LLAMA,
            (
                *(part for part in _LLAMA_PARTS if part != "input_layernorm"),
                "q_norm",
                "k_norm",
                "post_feedforward_layernorm",
            ),
        ),
        "granite": ModuleNames(_LLAMA, _LLAMA_PARTS),
        "smollm3": ModuleNames(_LLAMA, _LLAMA_PARTS),
        "mixtral": ModuleNames(_MIXTURE, (*_LLAMA_PARTS, "gate", "experts")),
        "qwen3_moe": ModuleNames(_MIXTURE, (*_LLAMA_PARTS, "gate", "experts", "q_norm", "k_norm")),
        "phi3": ModuleNames(
            ("embed_tokens", "o_proj", "qkv_proj", "gate_up_proj", "down_proj", "lm_head"),
            (
                *(part for part in _LLAMA_PARTS if part != "act_fn"),
                "activation_fn",
                "resid_attn_dropout",
                "resid_mlp_dropout",
            ),
        ),
        "glm4": ModuleNames(
            ("embed_tokens", *_ATTENTION, "gate_up_proj", "down_proj", "lm_head"),
            (
                *(part for part in _LLAMA_PARTS if part != "act_fn"),
                "activation_fn",
                "post_self_attn_layernorm",
                "post_mlp_layernorm",
            ),
        ),
        "starcoder2": ModuleNames(
            ("embed_tokens", *_ATTENTION, "c_fc", "c_proj", "lm_head"),
            (*(part for part in _LLAMA_PARTS if part != "act_fn"), "act"),
        ),
        "gpt2": ModuleNames(_GPT2, _GPT2_PARTS),
        "gpt_neox": ModuleNames(
            ("embed_in", *_FUSED),
            (
                "gpt_neox",
                "emb_dropout",
                "layers",
                "input_layernorm",
                "post_attention_layernorm",
                "post_attention_dropout",
                "post_mlp_dropout",
                "attention",
                "mlp",
                "act",
                "final_layer_norm",
                "rotary_emb",
            ),
        ),
        "bloom": ModuleNames(
            ("word_embeddings", *_FUSED),
            (
                "transformer",
                "word_embeddings_layernorm",
                "h",
                "input_layernorm",
                "self_attention",
                "attention_dropout",
                "post_attention_layernorm",
                "mlp",
                "gelu_impl",
                "ln_f",
            ),
        ),
    }
)


def adapted_modules(written: Sequence[str], family: str) -> tuple[str, ...] | None:
    """The names in lora.target_modules; all-linear is those of the family, None where it is not known."""
    if written != ALL_LINEAR:
        return tuple(written)
    names = FAMILIES.get(family)
    return names.blocks if names is not None else None


@cache
def causal_families() -> frozenset[str] | None:
    """Every model_type that the installed transformers has a causal language model of; None when it cannot be
    told. Reads the table in its source, because importing it brings torch with it.
    """
    folder = _transformers_folder()
    if folder is None:
        return None
    try:
        with open(os.path.join(folder, "models", "auto", "modeling_auto.py"), encoding="utf-8") as stream:
            _, found, text = stream.read().partition("\nMODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(")
    except OSError:
        return None
    table, end, _ = text.partition("\n)")
    names = frozenset(re.findall(r'^\s*\("([\w-]+)",', table, re.MULTILINE))
    return names if found and end and "llama" in names else None


def is_known_family(model_type: str) -> bool:
    """Whether the installed transformers has a folder for this model_type."""
    folder = _transformers_folder()
    name = model_type.replace("-", "_")
    return folder is not None and name.isidentifier() and os.path.isdir(os.path.join(folder, "models", name))


@cache
def _transformers_folder() -> str | None:
    found = importlib.util.find_spec("transformers")
    return os.path.dirname(found.origin) if found is not None and found.origin else None
