"""Counting tokens without transformers: the tokenizer's own library, when it is here and loads at once.

The counts are those of the index (tests/unit/test_look.py compares), but for texts that spell out special
tokens; where they differ, the index is right.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from crossfoot.index.locate import BYTES_PER_TOKEN
from crossfoot.index.tokenizer import local_folder, tokenizer_path, uses_sentencepiece
from crossfoot.written.config import Config
from crossfoot.written.model_facts import BUILTIN_TINY, TINY_VOCABULARY

LARGEST_JSON_BYTES = 6 << 20
"""A tokenizer.json loads at about 35 MB a second; of a larger one, tokens are estimated."""


class TokenCounter(Protocol):
    """Text to numbers of tokens."""

    @property
    def begin_tokens(self) -> int:
        """Tokens that the tokenizer puts before a text."""

    @property
    def vocabulary(self) -> int | None:
        """Rows that the model's table needs, None when that is not known."""

    @property
    def is_exact(self) -> bool:
        """Counted, not estimated."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""


@dataclass(frozen=True)
class Estimate:
    """Tokens from the size of a text."""

    begin_tokens: int = 1
    vocabulary: int | None = None
    is_exact: bool = False

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, about."""
        return [round(len(text.encode()) / BYTES_PER_TOKEN) for text in texts]


@dataclass(frozen=True)
class _Bytes:
    """builtin:tiny, by its definition: one token a byte."""

    begin_tokens: int = 1
    vocabulary: int | None = TINY_VOCABULARY
    is_exact: bool = True

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.encode()) for text in texts]


@dataclass(frozen=True)
class _SentencePiece:
    processor: Any
    begin_tokens: int
    vocabulary: int | None
    is_exact: bool = True

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.processor.encode(list(texts))]


@dataclass(frozen=True)
class _Rust:
    tokenizer: Any
    begin_tokens: int
    vocabulary: int | None
    is_exact: bool = True

    def count(self, texts: Sequence[str]) -> list[int]:
        # One by one: a batch would start a thread for each core, and some hundred texts are soon done.
        return [len(self.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


def token_counter(config: Config, index_dir: str) -> TokenCounter:
    """The counter of this run's tokenizer. What is wrong with a tokenizer is said elsewhere: here it is an
    estimate then.
    """
    path = tokenizer_path(config)
    if path == BUILTIN_TINY:
        return _Bytes()
    try:
        folder = local_folder(path, index_dir, may_fetch=False)
        if folder is None:
            return Estimate()
        if uses_sentencepiece(folder):
            return _sentencepiece(folder)
        file = os.path.join(folder, "tokenizer.json")
        if os.path.getsize(file) > LARGEST_JSON_BYTES:
            return Estimate()
        return _rust(folder, file)
    except Exception:  # the libraries raise bare Exception for a damaged file
        return Estimate()


def _sentencepiece(folder: str) -> TokenCounter:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
    settings = _settings(folder)
    added = {int(number): piece for piece, number in _read(folder, "added_tokens.json").items()}
    has_begin = settings.get("bos_token") is not None and settings.get("add_bos_token", True)
    return _SentencePiece(processor, int(has_begin), _rows(processor.get_piece_size(), added, settings))


def _rust(folder: str, file: str) -> TokenCounter:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    bare, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    base = tokenizer.get_vocab_size(with_added_tokens=False)
    return _Rust(tokenizer, int(whole[:1] != bare[:1]), _rows(base, added, _settings(folder)))


def _rows(base: int, added: Mapping[int, str], settings: Mapping[str, Any]) -> int:
    """As tokenizer.vocabulary_rows: an added padding token is no row."""
    others = {_content(settings.get(name)) for name in ("bos_token", "eos_token", "unk_token")}
    padding = {_content(settings.get("pad_token"))} - others
    for number, token in settings.get("added_tokens_decoder", {}).items():
        added = {**added, int(number): _content(token)}
    real = [number for number, piece in added.items() if number < base or piece not in padding]
    return max([base, *(number + 1 for number in real)])


def _settings(folder: str) -> dict[str, Any]:
    return {**_read(folder, "special_tokens_map.json"), **_set(_read(folder, "tokenizer_config.json"))}


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _read(folder: str, name: str) -> dict[str, Any]:
    file = os.path.join(folder, name)
    if not os.path.isfile(file):
        return {}
    with open(file, encoding="utf-8") as stream:
        values = json.load(stream)
    return values if isinstance(values, dict) else {}
