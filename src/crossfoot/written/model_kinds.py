"""Whether a config.json is that of a causal language model, and of one that needs no code of its own."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from crossfoot.written.model_modules import causal_families, is_known_family

ENCODERS = frozenset(
    (
        *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"),
        *("megatron-bert", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer"),
        *("xlm-roberta", "xlm-roberta-xl", "xmod"),
    )
)
"""Families that look at both sides of a token, unless config.json says is_decoder: transformers has a causal
form of them, and warns where it is loaded as an encoder."""
ENCODER_DECODERS = frozenset(
    (
        *(
            "bart",
            "bigbird_pegasus",
            "blenderbot",
            "blenderbot-small",
            "marian",
            "mbart",
            "moshi",
            "musicgen",
        ),
        *("musicgen_melody", "mvp", "pegasus", "plbart", "prophetnet", "trocr", "whisper"),
    )
)
"""Families of which the causal form is the decoder alone."""
NOT_PACKABLE = frozenset(
    (
        *("bailing_hybrid", "bamba", "biogpt", "bloom", "blt", "codegen", "cpmant", "deepseek_v4"),
        *("falcon", "falcon_h1", "falcon_mamba", "flint", "gemma2", "git", "gpt_neo"),
        *("gpt_neox_japanese", "gpt_oss", "gptj", "granite_swa", "granitemoe_swa", "granitemoehybrid"),
        *("hy_v4", "inkling2_text", "inkling_text", "jamba", "kimi_linear", "mamba", "mamba2"),
        *("mimo_v2_flash", "moss_transcribe_diarize", "mpt", "nemotron_h", "olmo_hybrid", "openai-gpt"),
        *("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp"),
        *("qwen4_exp_text", "recurrent_gemma", "rwkv", "stablelm", "vaultgemma", "xglm", "xlstm"),
        *("zamba", "zamba2", "zaya"),
    )
)
"""Causal families whose attention cannot be told where a sample ends, or takes more than ours gives, or which
carry a state from token to token. A test asks transformers."""
_WORDS_FOR_CAUSAL: Mapping[str, tuple[str, object]] = MappingProxyType(
    {"xlm": ("causal", True), "xlnet": ("attn_type", "uni")}
)


class Kind(Enum):
    """What a config.json is of."""

    CAUSAL = "a causal language model, or a family that nothing is known of here"
    NOT_CAUSAL = "another kind of model"
    UNKNOWN = "a model_type that the installed transformers does not have"
    OWN_CODE = "a model whose classes lie beside it"
    NAMELESS = "no model_type"


def kind_of(values: Mapping[str, Any]) -> Kind:
    """What the values of a config.json are of. Without transformers, only what is certain is said."""
    family = values.get("model_type")
    if isinstance(family, str) and family:
        return Kind.NOT_CAUSAL if sees_both_sides(values) else kind_of_family(family, "auto_map" in values)
    return Kind.OWN_CODE if "auto_map" in values else Kind.NAMELESS


def kind_of_family(family: str, has_own_code: bool) -> Kind:
    """What transformers has of a model_type. has_own_code: classes of that name lie beside config.json; they
    are not needed where transformers has some.
    """
    families = causal_families()
    if families is None or family in families:
        return Kind.CAUSAL
    if has_own_code:
        return Kind.OWN_CODE
    return Kind.NOT_CAUSAL if is_known_family(family) else Kind.UNKNOWN


def sees_both_sides(values: Mapping[str, Any]) -> bool:
    """Whether a token of this model, or of a half of it, sees the tokens after it."""
    family, is_decoder = values.get("model_type"), values.get("is_decoder") is True
    if family in ENCODERS:
        return not is_decoder
    if family in ENCODER_DECODERS:
        return not is_decoder and values.get("is_encoder_decoder") is not False
    if family in _WORDS_FOR_CAUSAL:
        key, wanted = _WORDS_FOR_CAUSAL[str(family)]
        return values.get(key) != wanted
    return values.get("is_encoder_decoder") is True or values.get("use_bidirectional_attention") in (
        True,
        "all",
    )
