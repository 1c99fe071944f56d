"""What a tokenizer's folder must have before any library reads it: a vocabulary, in files that end."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
NEEDS_NONE = ("ByT5Tokenizer",)
"""Classes of transformers whose tokens are the bytes."""
LARGEST_FILE_BYTES = 256 << 20
"""The largest vocabularies that are known have 35 MB."""


def refuse_unreadable(folder: str, names: Sequence[str]) -> None:
    """Raise FileNotFoundError or ValueError for a tokenizer's folder that a library would make nothing of, or
    read for ever. names: of the tokenizer's files that are there.
    """
    for name in names:
        status = os.stat(os.path.join(folder, name))
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{name} in {folder} is not an ordinary file")
        if status.st_size > LARGEST_FILE_BYTES:
            size = f"{status.st_size:,} bytes, and at most {LARGEST_FILE_BYTES:,} are read"
            raise ValueError(f"{name} in {folder} has {size}")
    if not set(names) & set(VOCABULARIES) and not _needs_none(folder):
        # transformers 5 makes an empty tokenizer of it, without a word
        raise FileNotFoundError(
            f"no vocabulary in {folder}: it has {', '.join(names) or 'no tokenizer file'}"
        )


def _needs_none(folder: str) -> bool:
    """Whether the tokens are the bytes, or code of the folder's own makes them, which is another finding."""
    try:
        with open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8") as stream:
            settings = json.load(stream)
        return "auto_map" in settings or settings["tokenizer_class"] in NEEDS_NONE
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
