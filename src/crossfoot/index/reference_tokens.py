"""What one record must have become, worked out a second time: template, tokens, label mask, counts, digests.

Written from the definitions, one text at a time, and without the code that builds an index (`samples.py`,
`templates.py`, `tokenizer.py`'s encoders). Uses tokenizers or sentencepiece; never transformers, nor torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from crossfoot.data.samples import TokenizerFacts
from crossfoot.index.store import DataIndex

SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
_CONFIG_FILES = ("special_tokens_map.json", "tokenizer_config.json")


class NotComparable(Exception):
    """Something that only the code which built the index can do; the message says what."""


class Unusable(Exception):
    """A record that no sample can be made of; the message says why."""


@dataclass(frozen=True)
class ReferenceTokenizer:
    """encode: ids of a text without special tokens; NotComparable when it holds one that is to be split off.
    begin, end: ids before and behind a sample.
    """

    encode: Callable[[str], list[int]]
    begin: tuple[int, ...]
    end: int


@dataclass(frozen=True)
class Expected:
    """A sample as it must be. trained[i]: whether token i is a label as written. lost_tokens: cut off."""

    ids: Sequence[int]
    trained: Sequence[bool]
    lost_tokens: int

    def digests(self) -> tuple[int, int]:
        """Of the ids, and of ids and labels; the first token is never a target."""
        ids = b"".join(int(one).to_bytes(4, "little", signed=True) for one in self.ids)
        labels = bytes([0, *map(int, self.trained[1:])])
        both = (blake2b(content, digest_size=8).digest() for content in (ids, ids + labels))
        tokens, whole = (int.from_bytes(digest, "little") for digest in both)
        return tokens, whole


def load_reference(folder: str, facts: TokenizerFacts) -> ReferenceTokenizer:
    """The tokenizer of a folder. Raises NotComparable when it has neither tokenizer.json nor
    tokenizer.model.
    """
    settings = settings_of(folder)
    if os.path.isfile(path := os.path.join(folder, "tokenizer.json")):
        return fast_reference(path, settings, facts)
    if os.path.isfile(path := os.path.join(folder, "tokenizer.model")):
        return _sentencepiece_reference(path, settings, _json(folder, "added_tokens.json") or {}, facts)
    raise NotComparable(f"{folder} has neither tokenizer.json nor tokenizer.model")


def settings_of(folder: str) -> dict[str, Any]:
    """What the files beside a vocabulary say."""
    settings: dict[str, Any] = {}
    for name in _CONFIG_FILES:
        if isinstance(loaded := _json(folder, name), dict):
            settings |= loaded
    return settings


def fast_reference(path: str, settings: dict[str, Any], facts: TokenizerFacts) -> ReferenceTokenizer:
    """A tokenizer.json by itself. settings: of the folder; what they do not name is taken from `facts`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(settings.get("split_special_tokens"))
    begin, end = facts.bos_ids, facts.eos_id
    if (named := _named(settings, "bos_token")) is not None:
        first, bare = (tokenizer.encode("a", add_special_tokens=adds).ids[:1] for adds in (True, False))
        begin = tuple(first) if first == [tokenizer.token_to_id(named)] != bare else ()
    if (named := _named(settings, "eos_token")) is not None:
        known = tokenizer.token_to_id(named)
        end = facts.eos_id if known is None else known

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return ReferenceTokenizer(encode, begin, end)


def _sentencepiece_reference(
    path: str, settings: dict[str, Any], added: dict[str, int], facts: TokenizerFacts
) -> ReferenceTokenizer:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=path)
    pieces = model.get_piece_size()
    special = {model.id_to_piece(i) for i in range(pieces) if model.is_control(i) or model.is_unknown(i)}
    special |= set(added) | {str(one["content"]) for one in settings.get("added_tokens_decoder", {}).values()}
    special |= {name for key in settings if key.endswith("_token") and (name := _named(settings, key))}

    def number(key: str, default: int) -> int:
        name = _named(settings, key)
        if name is None:
            return default
        return int(added[name]) if name in added else int(model.piece_to_id(name))

    def encode(text: str) -> list[int]:
        if any(one in text for one in special) and not settings.get("split_special_tokens"):
            raise NotComparable("it spells out a special token, which is to be split off")
        return list(model.encode(text))

    adds_begin = bool(settings.get("add_bos_token", True)) and model.bos_id() >= 0
    end = number("eos_token", model.eos_id())
    return ReferenceTokenizer(
        encode,
        (number("bos_token", model.bos_id()),) if adds_begin else (),
        end if end >= 0 else facts.eos_id,
    )


def _json(folder: str, name: str) -> Any:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return None


def _named(settings: dict[str, Any], key: str) -> str | None:
    value = settings.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def prompt_of(template: str | None, instruction: str, extra: str) -> str:
    """The text before an answer. Raises NotComparable for a template that is not written down here."""
    if template != "alpaca2":
        raise NotComparable(f"the template {template} is known to the code that builds the index alone")
    lines = ["[INST] <<SYS>>", SYSTEM, "<</SYS>>", "", instruction, *([extra] if extra else [])]
    return "\n".join(lines) + " [/INST]"


def expected_answer(
    value: Any, template: str | None, max_seq_len: int, tokenizer: ReferenceTokenizer
) -> Expected:
    """The sample of an sft record: begin, prompt, answer, end; answer and end trained; cut at the window.

    Raises Unusable for a record that has none, NotComparable.
    """
    prompt = tokenizer.encode(prompt_of(template, text_of(value, "instruction"), _extra(value)))
    answer = tokenizer.encode(text_of(value, "output"))
    masked = len(tokenizer.begin) + len(prompt)
    if masked >= max_seq_len:
        raise Unusable(f"its prompt has {masked} tokens of {max_seq_len}")
    ids = [*tokenizer.begin, *prompt, *answer, tokenizer.end]
    kept = ids[:max_seq_len]
    return Expected(kept, [at >= masked for at in range(len(kept))], len(ids) - len(kept))


def text_of(value: Any, field: str) -> str:
    """A text that a record must have. Raises Unusable."""
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise Unusable(f'it has no "{field}"')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Unusable(f'its "{field}" holds half of a character')
    return text


def _extra(value: dict[str, Any]) -> str:
    extra = value.get("input")
    if extra is not None and not isinstance(extra, str):
        raise Unusable('its "input" is not text')
    return extra or ""


def difference_of(index: DataIndex, i: int, expected: Expected) -> str | None:
    """How sample i of the index differs from what it must be, in words; None when it does not."""
    part = slice(int(index.offsets[i]), int(index.offsets[i + 1]))
    ids, trained = index.tokens[part].tolist(), [bool(one) for one in index.trained[part]]
    for at, (has, should) in enumerate(zip(ids, expected.ids, strict=False), start=1):
        if has != should:
            return f"token {at:,} is {has} in the index, and {should} by its file"
    if len(ids) != len(expected.ids):
        return f"it has {len(ids):,} tokens in the index, and {len(expected.ids):,} by its file"
    for at, (labelled, should) in enumerate(zip(trained, expected.trained, strict=True), start=1):
        if labelled != should:
            words = ("masked", "trained")
            return f"token {at:,} is {words[labelled]} in the index, and must be {words[should]}"
    tokens, whole = expected.digests()
    numbers = {
        "length": (index.lengths[i], len(expected.ids)),
        "number of trained tokens": (index.trained_tokens[i], sum(expected.trained[1:])),
        "number of lost tokens": (index.lost_tokens[i], expected.lost_tokens),
        "digest of tokens": (index.token_digests[i], tokens),
        "digest": (index.digests[i], whole),
    }
    for name, (has, should) in numbers.items():
        if int(has) != should:
            return f"its {name} is {int(has)} in the index, and must be {should}"
    return None
