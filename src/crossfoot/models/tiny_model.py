"""The model part of builtin:tiny: a two-layer Llama made on the spot, saved as an ordinary Hugging Face
folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from crossfoot.model_source.source import ModelSource
from crossfoot.models.folder_beside import folder_beside, open_to_others
from crossfoot.written.model_facts import TINY_SIZES, TINY_VOCABULARY

LAST_FILE = "config.json"
"""Renamed into place after all other files: where it is, the model is whole."""


def write_tiny_model(
    folder: str | os.PathLike[str], vocabulary: int = TINY_VOCABULARY, seed: int = 0
) -> Path:
    """Write the tiny model into `folder`, which may hold other files (a tokenizer's) already or later.

    Two layers, hidden size 64, 4 heads, float32, embed_tokens and lm_head not tied; about 115,000 parameters.
    The same (vocabulary, seed) gives the same bytes, so several processes may write at once: each saves into
    its own temporary folder beside `folder` and renames file by file, config.json last. A folder that has a
    whole model is left alone.
    """
    target = Path(folder)
    if (target / LAST_FILE).exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(
        **{**TINY_SIZES, "vocab_size": vocabulary},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    with folder_beside(target) as temporary:
        model.save_pretrained(temporary)
        open_to_others(temporary)
        for file in sorted(temporary.iterdir(), key=lambda path: path.name == LAST_FILE):
            os.replace(file, target / file.name)
    return target


def tiny_written(source: ModelSource) -> ModelSource:
    """The same source, its base written where that is builtin:tiny."""
    if source.is_tiny:
        write_tiny_model(source.base)
    return source
