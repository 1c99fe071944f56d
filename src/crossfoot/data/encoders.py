"""Encoders: one tokenizer each, by the library that reads its files. What they make of a text, and of
text that spells out a special token.

Data is encoded as data: a special token becomes that token only where the template's own words spell it,
or where `data.special_text: tokens` asks for the way of transformers, which makes it of any text.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol

from crossfoot.data.samples import Encoder, Placed, TokenizerFacts
from crossfoot.data.special_text import Spans, SpecialText, SpecialTokens
from crossfoot.data.tokenizer_settings import NAMES, Settings
from crossfoot.extras import install_command

FEW_CHARACTERS = 1 << 18
"""Up to so many, texts are encoded one by one: a batch starts a thread for each core. Where it does not, it
takes half the time.
"""
ONE_THREAD = ("TOKENIZERS_PARALLELISM", "false")
"""What the environment says where `tokenizers` starts no threads."""


class NoEndToken(ValueError):
    """The tokenizer has no token that ends a text."""


@dataclass(frozen=True)
class Source:
    """Where a tokenizer comes from. mark: the fingerprint of its files. special_text: as the config asks."""

    path: str
    mark: str
    special_text: SpecialText = "text"


class Coder(Protocol):
    """A tokenizer of one library."""

    def ids(self, texts: Sequence[str], own: Sequence[Spans]) -> list[list[int]]:
        """Of each text."""

    def placed(self, text: str, own: Spans) -> Placed:
        """Of one text, with the characters of each."""

    def text(self, ids: list[int]) -> str:
        """Of ids, special tokens left out."""


@dataclass(frozen=True)
class LibraryEncoder:
    """An Encoder by some library."""

    facts: TokenizerFacts
    special: SpecialTokens
    special_text: SpecialText
    coder: Coder
    reading: str | None = None

    def encode(self, texts: Sequence[str], own: Sequence[Spans] | None = None) -> list[list[int]]:
        """As of Encoder."""
        return self.coder.ids(texts, own or [()] * len(texts))

    def encode_placed(self, texts: Sequence[str], own: Sequence[Spans]) -> list[Placed]:
        """As of Encoder."""
        return list(map(self.coder.placed, texts, own))

    def decode(self, ids: Sequence[int]) -> str:
        """As of Encoder."""
        return self.coder.text(list(ids))


class _TokenizersCoder:
    """Encodes with a tokenizer of the `tokenizers` library, whose flag says whether special tokens are
    seen.
    """

    def __init__(
        self, tokenizer: Any, special: SpecialTokens, *, special_text: SpecialText, splits: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._sees_all = special_text == "tokens" and not splits
        self._sees_none = splits
        _mark_special(tokenizer, special)

    def ids(self, texts: Sequence[str], own: Sequence[Spans]) -> list[list[int]]:
        found: list[list[int]] = [[]] * len(texts)
        seen: list[int] = []
        unseen: list[int] = []
        for place, (text, spans) in enumerate(zip(texts, own, strict=True)):
            is_seen = self._is_seen(text, spans)
            if is_seen is None:
                found[place] = self._seen_in(text, spans)[0]
            else:
                (seen if is_seen else unseen).append(place)
        for places, is_seen in ((seen, True), (unseen, False)):
            encoded = self._plain([texts[place] for place in places], is_seen)
            for place, ids in zip(places, encoded, strict=True):
                found[place] = ids
        return found

    def placed(self, text: str, own: Spans) -> Placed:
        """As of Coder."""
        is_seen = self._is_seen(text, own)
        if is_seen is None:
            return self._seen_in(text, own)
        self._tokenizer.encode_special_tokens = not is_seen
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def text(self, ids: list[int]) -> str:
        """As of Coder."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _is_seen(self, text: str, own: Spans) -> bool | None:
        """Whether its special tokens are tokens; None: those in the spans alone."""
        if self._sees_all:
            return True
        if self._sees_none or next(self._special.spellings.within(text, own), None) is None:
            return False
        return None if self._special.spellings.in_data(text, own) else True

    def _plain(self, texts: list[str], is_seen: bool) -> list[list[int]]:
        tokenizer = self._tokenizer
        tokenizer.encode_special_tokens = not is_seen
        name, off = ONE_THREAD
        if sum(map(len, texts)) <= FEW_CHARACTERS and os.environ.get(name) != off:
            return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        return [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _seen_in(self, text: str, spans: Spans) -> Placed:
        """Special tokens are seen within the spans alone: a token of the same kind, which nobody else can
        spell, stands in for each of them there, so that the text around it is cut and normalised as
        always.
        """
        tokenizer, seams = self._seamed
        pieces, at = [], 0
        in_text: list[int] = []  # of each character of what is encoded, where it stands in the text
        for match in self._special.spellings.within(text, spans):
            seam = seams[match[0]]
            pieces += [text[at : match.start()], seam]
            in_text += [*range(at, match.start()), *[match.start()] * len(seam)]
            at = match.end()
        in_text += range(at, len(text) + 1)
        meant = {tokenizer.token_to_id(seam): self._special.ids[token] for token, seam in seams.items()}
        encoding = tokenizer.encode("".join([*pieces, text[at:]]), add_special_tokens=False)
        places = [(in_text[begin], in_text[end]) for begin, end in encoding.offsets]
        return [meant.get(number, number) for number in encoding.ids], places

    @cached_property
    def _seamed(self) -> tuple[Any, dict[str, str]]:
        """A copy of the tokenizer that sees the stand-ins only, and the stand-in of each special token."""
        from tokenizers import AddedToken, Tokenizer

        copy = Tokenizer.from_str(self._tokenizer.to_str())
        kinds = {token.content: token for token in self._tokenizer.get_added_tokens_decoder().values()}
        _mark_special(copy, self._special)
        copy.encode_special_tokens = True
        word = secrets.token_hex(8)
        seams = {text: f"\U0010fffe{word}{n}\U0010fffe" for n, text in enumerate(self._special.ids)}
        copy.add_tokens(
            [
                AddedToken(seam, special=False, **_flags(kinds[text]))
                for text, seam in seams.items()
                if text in kinds
            ]
        )
        return copy, seams


def _mark_special(tokenizer: Any, special: SpecialTokens) -> None:
    """Some tokens are special by the files beside tokenizer.json, which has them as ordinary added tokens."""
    from tokenizers import AddedToken

    tokenizer.add_special_tokens(
        [
            AddedToken(token.content, **_flags(token))
            for token in tokenizer.get_added_tokens_decoder().values()
            if token.content in special.ids and not token.special
        ]
    )


def _flags(token: Any) -> dict[str, bool]:
    return {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized")}


def by_tokenizers(source: Source, tokenizer: Any, settings: Settings) -> Encoder | None:
    """tokenizer.json as it is, with the tokens that the files beside it add. None: they do not name the token
    that ends a text, or begins it; then it is one that the tokenizer's class in transformers has.
    """
    from tokenizers import AddedToken

    settings = settings.padded_with((tokenizer.padding or {}).get("pad_token"))
    # A tokenizer.json may carry them, and every text would be cut or padded without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    plain = tokenizer.to_str()
    there = tokenizer.get_added_tokens_decoder().values()
    declared = {token.content for token in there if token.special} | settings.declared()
    added = settings.to_add({token.content for token in there})
    tokenizer.add_tokens([AddedToken(**token) for token in added])
    tokenizer.encode_special_tokens = settings.splits_specials
    named = {name: tokenizer.token_to_id(token["content"]) for name, token in settings.named.items()}
    bare, whole = (tokenizer.encode("a", add_special_tokens=special).ids[:1] for special in (False, True))
    if "eos_token" not in named or ("bos_token" not in named and whole != bare):
        return None
    texts = declared | {token["content"] for token in settings.specials()}
    special = special_tokens({text: tokenizer.token_to_id(text) for text in texts}, declared, named)
    base = tokenizer.get_vocab_size(with_added_tokens=False)
    rows = vocabulary_rows(tokenizer.get_vocab().values(), base, named)
    begins = bare != whole == [named.get("bos_token")]
    reading = tokenizer.to_str()
    facts = facts_of(source, "tokenizers", named, rows, begins=begins)
    coder = _TokenizersCoder(
        tokenizer, special, special_text=source.special_text, splits=settings.splits_specials
    )
    return LibraryEncoder(facts, special, source.special_text, coder, None if reading == plain else reading)


def by_transformers(source: Source, folder: str) -> Encoder:
    """What transformers makes of the folder. Imports torch; code that lies in the folder is never run."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(f"only transformers can read it: {install_command('train')}") from error

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    names = {name: getattr(tokenizer, f"{name}_id") for name in NAMES}
    named = {name: number for name, number in names.items() if number is not None}
    bare, whole = (tokenizer.encode("a", add_special_tokens=special)[:1] for special in (False, True))
    rows = vocabulary_rows(tokenizer.get_vocab().values(), tokenizer.vocab_size, named)
    begins = bare != whole == [named.get("bos_token")]
    texts = tokenizer.all_special_tokens
    ids = dict(zip(texts, tokenizer.convert_tokens_to_ids(texts), strict=True))
    special = special_tokens(ids, set(texts), named)
    facts = facts_of(source, "transformers", named, rows, begins=begins)
    splits = bool(getattr(tokenizer, "split_special_tokens", False))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        coder = _PythonCoder(tokenizer, special, sees_all=splits or source.special_text == "tokens")
        return LibraryEncoder(facts, special, source.special_text, coder)
    backend.no_truncation()
    backend.no_padding()
    reading = backend.to_str()
    fast = _TokenizersCoder(backend, special, special_text=source.special_text, splits=splits)
    return LibraryEncoder(facts, special, source.special_text, fast, reading)


@dataclass(frozen=True)
class _PythonCoder:
    """For a tokenizer that is written in Python: cut at the template's tokens where the data spells one
    out. It does not say where a token stands.
    """

    tokenizer: Any
    special: SpecialTokens
    sees_all: bool

    def ids(self, texts: Sequence[str], own: Sequence[Spans]) -> list[list[int]]:
        return [self._ids(text, spans) for text, spans in zip(texts, own, strict=True)]

    def placed(self, text: str, own: Spans) -> Placed:
        raise ValueError("a tokenizer written in Python does not say which characters a token is made of")

    def text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _ids(self, text: str, own: Spans) -> list[int]:
        if self.sees_all or not self.special.spellings.in_data(text, own):
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids, at = [], 0
        for match in self.special.spellings.within(text, own):
            ids += [*self._as_text(text[at : match.start()]), self.special.ids[match[0]]]
            at = match.end()
        return ids + self._as_text(text[at:])

    def _as_text(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def special_tokens(
    ids: Mapping[str, int], declared: Iterable[str], named: Mapping[str, int]
) -> SpecialTokens:
    """declared: texts that the files mark as special; a token that they only name may be ordinary text."""
    fixed = {ids[text] for text in declared} | {
        named[name] for name in ("bos_token", "eos_token") if name in named
    }
    return SpecialTokens(dict(ids), frozenset(fixed - {named.get("unk_token")}))


def facts_of(
    source: Source, library: str, named: Mapping[str, int], rows: int, *, begins: bool
) -> TokenizerFacts:
    """named: ids of the special tokens. rows: as of `vocabulary_rows`. begins: whether a text is begun with
    the begin token. Raises NoEndToken.
    """
    if "eos_token" not in named:
        raise NoEndToken(source.path)
    return TokenizerFacts(
        path=source.path,
        fingerprint=source.mark,
        vocabulary=rows,
        eos_id=named["eos_token"],
        bos_ids=(named["bos_token"],) if begins and "bos_token" in named else (),
        library=f"{library} {version(library)}",
    )


def vocabulary_rows(ids: Iterable[int], base: int, named: Mapping[str, int]) -> int:
    """Rows that the model's table needs: the highest id that text can give, plus one. base: the ids below it
    are the vocabulary's own; named: ids of the special tokens.

    A pad token that was added beyond the real vocabulary is no row: padding is masked, never looked up for a
    target, and must not grow the table.
    """
    others = {named.get(name) for name in ("bos_token", "eos_token", "unk_token")}
    padding = {named.get("pad_token")} - others
    return 1 + max(number for number in ids if number < base or number not in padding)
