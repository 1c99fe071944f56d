"""What a model's config.json says, read without torch, and what hangs on it: no untrained rows in the
vocabulary.

The written file alone is read here; weights are never opened, nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from crossfoot.digests import sha256_of_parts
from crossfoot.findings.finding import Finding
from crossfoot.phrases import reason_of
from crossfoot.written.config import Config
from crossfoot.written.hub import hub_model
from crossfoot.written.model_kinds import sees_both_sides
from crossfoot.written.model_limits import beyond_sense, work_per_token
from crossfoot.written.token_rows import untrained_rows

BUILTIN_TINY = "builtin:tiny"
CONFIG_JSON = "config.json"
LARGEST_CONFIG_BYTES = 16 << 20
TINY_VOCABULARY = 260
TINY_MAX_POSITIONS = 2048
TINY_SIZES: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "llama",
        "vocab_size": TINY_VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": TINY_MAX_POSITIONS,
        "tie_word_embeddings": False,
    }
)
"""The config.json of builtin:tiny, as far as it decides shapes."""
INPUT_TABLE_NAMES = ("embed_tokens", "wte", "embed_in", "word_embeddings")
OUTPUT_TABLE_NAMES = ("lm_head", "embed_out", "output_layer")
UNTIED_FAMILIES = frozenset(
    (
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "phi",
        "phi3",
        "gpt_neox",
        "olmo",
        "olmo2",
        "deepseek_v3",
    )
)
"""Families whose configuration class says `tie_word_embeddings: bool = False` (transformers 5.23)."""


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model. vocab_size: rows of its embedding table. tied: embed_tokens and lm_head are one
    tensor.

    max_position_embeddings: tokens of the longest sequence it was made for; None when config.json does not
    say. stretched_positions: what rope scaling makes of that, when it is more. has_own_code: config.json
    names classes that lie beside it (auto_map). sees_both_sides: it is an encoder, or has one.
    work_per_token: see `arithmetic.layout.work_per_token`; None when config.json has not all sizes. sizes:
    what config.json says of its text part.
    """

    vocab_size: int
    tied: bool
    max_position_embeddings: int | None
    model_type: str
    stretched_positions: int | None = None
    has_own_code: bool = False
    sees_both_sides: bool = False
    work_per_token: int | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def positions(self) -> int | None:
        """Tokens of the longest sequence, rope scaling considered."""
        return self.stretched_positions or self.max_position_embeddings


def read_model_facts(path: str) -> ModelFacts | None:
    """The facts of the model at `path`: a local folder, builtin:tiny, or a hub id that is already in the
    local cache.

    None when there is nothing to read without the network, or when it is not the config of a language model:
    loading the model says then what is wrong.
    """
    if path == BUILTIN_TINY:
        return _facts_of(TINY_SIZES)
    folder = model_folder(path)
    if folder is None:
        return None
    try:
        values = read_config_json(folder)
    except ValueError:
        return None
    return _facts_of(values)


def model_folder(path: str) -> Path | None:
    """Where the files of a model or tokenizer are: the folder given, or that of a hub's id in the local
    cache. None: neither is there. Never asks the network.
    """
    if os.path.isdir(path):
        return Path(path)
    model = hub_model(path)
    return None if model is None else model.folder


def weight_marks(folder: Path) -> dict[str, str]:
    """What tells weight files from others of the same sizes: name -> bytes, and the sha256 of parts. Raises
    OSError.
    """
    files = (file for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".bin"))
    return {
        file.name: f"{file.stat().st_size:,} bytes, parts sha256 {sha256_of_parts(file)[:12]}"
        for file in files
        if file.is_file()
    }


def read_config_json(folder: Path) -> dict[str, Any]:
    """The values of a model's config.json. Raises ValueError with the reason: absent, a pipe, too large, not
    JSON, not an object, or of sizes that no model has.
    """
    file = folder / CONFIG_JSON
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{CONFIG_JSON} is not an ordinary file")
        if status.st_size > LARGEST_CONFIG_BYTES:
            raise ValueError(f"{CONFIG_JSON} has more than {LARGEST_CONFIG_BYTES:,} bytes")
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no {CONFIG_JSON} in it") from error
    except OSError as error:
        raise ValueError(f"{CONFIG_JSON} cannot be read: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{CONFIG_JSON} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{CONFIG_JSON} is not JSON, at line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(f"{CONFIG_JSON} is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"{CONFIG_JSON} is not an object")
    if (reason := beyond_sense(values)) is not None:
        raise ValueError(f"in {CONFIG_JSON} {reason}")
    return values


def model_missing(path: str, why: str = "") -> Finding:
    """The finding CF541, without its place; its page is the rule's, in checks/rules_model.py."""
    return Finding(
        "CF541",
        f"model.path names no model: {path}",
        notes=(*filter(None, [why]), "a model is a local Hugging Face folder, a hub id or builtin:tiny"),
        helps=("write the folder that holds config.json and the weights",),
        unreadable=True,
    )


def needs_trained_embeddings(
    config: Config, model_vocab_rows: int, tokenizer_vocabulary: int, tied: bool
) -> Finding | None:
    """The finding CF540, without its place, or None; its page is the rule's, in checks/rules_model.py.

    model_vocab_rows: rows of the table before it grows. tokenizer_vocabulary: rows the data's token ids need;
    padding does not count.
    """
    if config.lora is None or tokenizer_vocabulary <= model_vocab_rows:
        return None
    named = config.lora.trainable_token_indices
    untrained = untrained_rows(named, model_vocab_rows, tokenizer_vocabulary)
    if not untrained:
        return None
    saved = {name.rsplit(".", 1)[-1] for name in config.lora.modules_to_save}
    has_input, has_output = bool(saved & set(INPUT_TABLE_NAMES)), bool(saved & set(OUTPUT_TABLE_NAMES))
    if (has_input and has_output) or (tied and (has_input or has_output)):
        return None
    lacking = [name for name, has in (("embed_tokens", has_input), ("lm_head", has_output)) if not has]
    return Finding(
        "CF540",
        title=(
            f"the tokenizer has {tokenizer_vocabulary:,} tokens, the model {model_vocab_rows:,} rows, "
            f"and {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not trained"
        ),
        notes=(f"{untrained:,} new rows would stay as they were made up: the mean of the old rows",),
        helps=(
            "set lora.modules_to_save to [embed_tokens, lm_head]",
            "or train the new rows alone: set lora.trainable_token_indices to new",
            "or use the model's own tokenizer: leave tokenizer.path out",
        ),
    )


def _facts_of(values: Any) -> ModelFacts | None:
    """The facts in the values of a config.json, of the text part when the model has several; None if it has
    no table.
    """
    if not isinstance(values, Mapping):
        return None
    text = values.get("text_config")
    text = text if isinstance(text, dict) else values
    rows = text.get("vocab_size")
    if not isinstance(rows, int) or isinstance(rows, bool):
        return None
    positions = text.get("max_position_embeddings", text.get("n_positions"))
    tied = text.get("tie_word_embeddings", values.get("tie_word_embeddings"))
    model_type = str(values.get("model_type", ""))
    return ModelFacts(
        vocab_size=rows,
        tied=_tied_by_default(model_type) if tied is None else bool(tied),
        max_position_embeddings=positions if _is_number(positions) else None,
        model_type=model_type,
        stretched_positions=_stretched(text, positions),
        has_own_code="auto_map" in values,
        sees_both_sides=sees_both_sides(values),
        work_per_token=work_per_token(text),
        sizes=text,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e12


def _stretched(text: Mapping[str, Any], positions: Any) -> int | None:
    """Positions with rope scaling, when that is more than max_position_embeddings says.

    transformers 5 calls the section rope_parameters, before it was rope_scaling. Its factor multiplies
    original_max_position_embeddings; where that is absent, max_position_embeddings is the original one.
    """
    section = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(section, dict) or not _is_number(positions):
        return None
    factor = section.get("factor", 1)
    original = section.get("original_max_position_embeddings", positions)
    if not _is_number(factor) or not _is_number(original):
        return None
    reach = int(factor * original)
    return reach if reach > positions else None


def _tied_by_default(model_type: str) -> bool:
    """What a config.json that does not name tie_word_embeddings means: True, but for the families above."""
    return model_type not in UNTIED_FAMILIES
