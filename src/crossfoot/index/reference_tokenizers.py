"""A tokenizer a second time, to hold an index against: special tokens of a template are tokens, those
that data spells out are text (or tokens, as the index was asked for).

Shares no code with what the index is built with (`encoders.py`). Uses tokenizers or sentencepiece; never
transformers, nor torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from crossfoot.data.samples import TokenizerFacts

_CONFIG_FILES = ("special_tokens_map.json", "tokenizer_config.json")


class NotComparable(Exception):
    """Something that only the code which built the index can do; the message says what."""


class Unusable(Exception):
    """A record that no sample can be made of; the message says why."""


class Piece(NamedTuple):
    """A part of a text. is_template: the template's own words, not data."""

    text: str
    is_template: bool


def data(text: str) -> Piece:
    """A piece that is data."""
    return Piece(text, False)


class Token(NamedTuple):
    """An id, and the characters of the text that it is made of."""

    id: int
    begin: int
    end: int


Encode = Callable[[Sequence[Piece]], list[Token]]


@dataclass(frozen=True)
class ReferenceTokenizer:
    """encode: tokens of the pieces as one text, without begin and end; NotComparable for what it cannot,
    Unusable for data whose special token cannot be text. begin, end: ids before and behind a sample.
    """

    encode: Encode
    begin: tuple[int, ...]
    end: int


def load_reference(folder: str, facts: TokenizerFacts, special_text: str) -> ReferenceTokenizer:
    """The tokenizer of a folder. Raises NotComparable when it has neither tokenizer.json nor
    tokenizer.model.
    """
    settings = settings_of(folder)
    if os.path.isfile(path := os.path.join(folder, "tokenizer.json")):
        return fast_reference(path, settings, facts, special_text)
    if os.path.isfile(path := os.path.join(folder, "tokenizer.model")):
        added = _json(folder, "added_tokens.json") or {}
        return _sentencepiece_reference(path, settings, added, facts, special_text)
    raise NotComparable(f"{folder} has neither tokenizer.json nor tokenizer.model")


def settings_of(folder: str) -> dict[str, Any]:
    """What the files beside a vocabulary say."""
    settings: dict[str, Any] = {}
    for name in _CONFIG_FILES:
        if isinstance(loaded := _json(folder, name), dict):
            settings |= loaded
    return settings


def fast_reference(
    path: str, settings: dict[str, Any], facts: TokenizerFacts, special_text: str
) -> ReferenceTokenizer:
    """A tokenizer.json by itself. settings: of the folder; what they do not name is taken from `facts`."""
    from tokenizers import Tokenizer

    with open(path, encoding="utf-8") as stream:
        written = json.load(stream)
    written["added_tokens"] = there = written.get("added_tokens") or []
    marked = {one["content"] for one in there if one.get("special")}
    named_texts = _named_texts(settings)
    for one in there:
        one["special"] = one.get("special") or one["content"] in named_texts
    special = {one["content"] for one in there if one["special"]}
    tokenizer, inner = (Tokenizer.from_str(json.dumps(one)) for one in (written, _without_first(written)))
    for one in (tokenizer, inner):
        one.no_truncation()
        one.no_padding()
    begin, end = facts.bos_ids, facts.eos_id
    if (named := _named(settings, "bos_token")) is not None:
        first, bare = (tokenizer.encode("a", add_special_tokens=adds).ids[:1] for adds in (True, False))
        begin = tuple(first) if first == [tokenizer.token_to_id(named)] != bare else ()
    if (named := _named(settings, "eos_token")) is not None:
        number = tokenizer.token_to_id(named)
        end = facts.eos_id if number is None else number
    splits = bool(settings.get("split_special_tokens"))
    unknown = tokenizer.token_to_id(_named(settings, "unk_token") or "")
    forbidden = {tokenizer.token_to_id(text) for text in marked} | {end, *begin}

    def tokens_of(text: str, sees_special: bool, at: int = 0) -> list[Token]:
        chosen = inner if at else tokenizer
        chosen.encode_special_tokens = not sees_special
        made = chosen.encode(text, add_special_tokens=False)
        return [
            Token(one, at + begin, at + end) for one, (begin, end) in zip(made.ids, made.offsets, strict=True)
        ]

    def encode(pieces: Sequence[Piece]) -> list[Token]:
        whole = "".join(piece.text for piece in pieces)
        if special_text == "tokens" or splits:
            return tokens_of(whole, sees_special=not splits)
        cuts = _cuts(pieces, special)
        if not _spells(pieces, special):
            return tokens_of(whole, sees_special=bool(cuts))
        if any(one[flag] for one in written["added_tokens"] if one["content"] in cuts for flag in _FLAGS):
            raise NotComparable("a token of the template takes the blanks beside it")
        joined: list[Token] = []
        at = 0
        for part, is_token in _cut(pieces, special, ()):
            number = int(tokenizer.token_to_id(part) or 0)
            made = [Token(number, at, at + len(part))] if is_token else tokens_of(part, False, at)
            if not is_token and (forbidden - {unknown}) & {one.id for one in made}:
                raise Unusable("it spells out a special token, which is no text to this tokenizer")
            joined += made
            at += len(part)
        return joined

    return ReferenceTokenizer(encode, begin, end)


_BLANK_FLAGS = ("lstrip", "rstrip", "single_word")
_FLAGS = (*_BLANK_FLAGS, "normalized")


def _without_first(value: Any) -> Any:
    """A tokenizer.json that puts no blank before a text that does not begin the whole."""
    if isinstance(value, list):
        return [_without_first(one) for one in value]
    if isinstance(value, dict):
        same = {key: one if key == "vocab" else _without_first(one) for key, one in value.items()}
        return {**same, "prepend_scheme": "never"} if same.get("prepend_scheme") == "first" else same
    return value


def _cuts(pieces: Sequence[Piece], special: Collection[str]) -> list[str]:
    """The special tokens in the template's words, in order."""
    return [token for piece in pieces if piece.is_template for _, token in _found(piece.text, special)]


def _spells(pieces: Sequence[Piece], special: Collection[str]) -> bool:
    """Whether the data spells out a special token, perhaps together with the template's words beside it."""
    whole = "".join(piece.text for piece in pieces)
    return len(_found(whole, special)) != len(_cuts(pieces, special))


def _found(text: str, special: Collection[str]) -> list[tuple[int, str]]:
    """(where, which) of the special tokens in a text, one behind the other."""
    found: list[tuple[int, str]] = []
    at = 0
    while True:
        begins = [(begin, -len(one), one) for one in special if (begin := text.find(one, at)) >= 0]
        if not begins:
            return found
        begin, _, token = min(begins)
        found.append((begin, token))
        at = begin + len(token)


def _sentencepiece_reference(
    path: str, settings: dict[str, Any], added: dict[str, int], facts: TokenizerFacts, special_text: str
) -> ReferenceTokenizer:
    from sentencepiece import SentencePieceProcessor

    model: Any = SentencePieceProcessor(model_file=path)
    decoder = settings.get("added_tokens_decoder", {})
    marked = {str(one["content"]) for one in decoder.values() if one.get("special")}
    special = _named_texts(settings) | marked
    numbers = {**added, **{str(one["content"]): int(number) for number, one in decoder.items()}}
    for text in special - set(numbers):
        if model.id_to_piece(number := model.piece_to_id(text)) == text:
            numbers[text] = number
    flagged = {str(one["content"]) for one in decoder.values() if any(one.get(flag) for flag in _BLANK_FLAGS)}
    splits = bool(settings.get("split_special_tokens"))
    end = _number(model, settings, added, "eos_token", model.eos_id())
    begin = _number(model, settings, added, "bos_token", model.bos_id())
    adds_begin = bool(settings.get("add_bos_token", True)) and model.bos_id() >= 0
    forbidden = {end, begin, *(numbers[one] for one in marked | (special & set(added)))} - {model.unk_id()}

    def tokens_of(text: str, at: int = 0) -> list[Token]:
        try:
            made = model.encode(text, out_type="offset_mapping")
        except RuntimeError as error:
            raise NotComparable("sentencepiece before 0.2.2 does not say where a token stands") from error
        places = zip(made["ids"], made["offsets"], strict=True)
        return [Token(one, at + begin, at + end) for one, (begin, end) in places]

    def encode(pieces: Sequence[Piece]) -> list[Token]:
        whole = "".join(piece.text for piece in pieces)
        everything = special | set(numbers)
        seen = {token for _, token in _found(whole, everything)}
        if splits or not seen:
            return tokens_of(whole)
        if seen & (flagged | (everything - set(numbers))):
            raise NotComparable("it spells out a token whose id or blanks only the builder knows")
        in_data = everything if special_text == "tokens" else everything - special
        joined: list[Token] = []
        at = 0
        for part, is_token in _cut(pieces, everything, in_data):
            found = [Token(numbers[part], at, at + len(part))] if is_token else tokens_of(part, at)
            if special_text == "text" and not is_token and forbidden & {one.id for one in found}:
                raise Unusable("it spells out a special token, which is no text to this tokenizer")
            joined += found
            at += len(part)
        return joined

    return ReferenceTokenizer(encode, (begin,) if adds_begin else (), end if end >= 0 else facts.eos_id)


def _cut(
    pieces: Sequence[Piece], in_template: Collection[str], in_data: Collection[str]
) -> list[tuple[str, bool]]:
    """The text of the pieces in parts, none empty, and whether each part is a token."""
    parts: list[tuple[str, bool]] = []
    rest = ""
    for piece in pieces:
        at = 0
        for begin, token in _found(piece.text, in_template if piece.is_template else in_data):
            parts += [(rest + piece.text[at:begin], False), (token, True)]
            rest, at = "", begin + len(token)
        rest += piece.text[at:]
    return [part for part in (*parts, (rest, False)) if part[0]]


def _number(model: Any, settings: dict[str, Any], added: dict[str, int], key: str, default: int) -> int:
    name = _named(settings, key)
    if name is None:
        return default
    return int(added[name]) if name in added else int(model.piece_to_id(name))


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


def _named_texts(settings: dict[str, Any]) -> set[str]:
    """The special tokens that the files name."""
    more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    values = list(more.values()) if isinstance(more, dict) else list(more)
    values += [settings[key] for key in settings if key.endswith("_token")]
    values += [one for one in settings.get("added_tokens_decoder", {}).values() if one.get("special")]
    named = (_named({"one": value}, "one") for value in values)
    return {name for name in named if name}
