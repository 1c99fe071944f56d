"""Encoders: one tokenizer each, by the library that reads its files. What they make of a text, and of
text that spells out a special token.

Data is encoded as data: a special token becomes that token only where the template's own words spell it,
or where `data.special_text: tokens` asks for the way of transformers, which makes it of any text.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from crossfoot.data.samples import Encoder, TokenizerFacts
from crossfoot.data.special_text import Spans, SpecialText, SpecialTokens, Spellings
from crossfoot.data.tokenizer_settings import NAMES, Settings
from crossfoot.extras import install_command

FEW_CHARACTERS = 1 << 18
"""Up to so many, texts are encoded one by one: a batch starts a thread for each core."""


class NoEndToken(ValueError):
    """The tokenizer has no token that ends a text."""


@dataclass(frozen=True)
class Source:
    """Where a tokenizer comes from. mark: the fingerprint of its files. special_text: as the config asks."""

    path: str
    mark: str
    special_text: SpecialText = "text"


Encode = Callable[[Sequence[str], Sequence[Spans]], list[list[int]]]


@dataclass(frozen=True)
class _Encoder:
    facts: TokenizerFacts
    special: SpecialTokens
    special_text: SpecialText
    to_ids: Encode
    reading: str | None = None

    def encode(self, texts: Sequence[str], own: Sequence[Spans] | None = None) -> list[list[int]]:
        return self.to_ids(texts, own or [()] * len(texts))


class _TokenizersEncode:
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

    def __call__(self, texts: Sequence[str], own: Sequence[Spans]) -> list[list[int]]:
        found: list[list[int]] = [[]] * len(texts)
        seen: list[int] = []
        unseen: list[int] = []
        for place, (text, spans) in enumerate(zip(texts, own, strict=True)):
            if self._sees_all:
                seen.append(place)
            elif self._sees_none or next(self._special.spellings.within(text, spans), None) is None:
                unseen.append(place)
            elif not self._special.spellings.in_data(text, spans):
                seen.append(place)
            else:
                found[place] = self._seen_in(text, spans)
        for places, is_seen in ((seen, True), (unseen, False)):
            encoded = self._plain([texts[place] for place in places], is_seen)
            for place, ids in zip(places, encoded, strict=True):
                found[place] = ids
        return found

    def _plain(self, texts: list[str], is_seen: bool) -> list[list[int]]:
        tokenizer = self._tokenizer
        tokenizer.encode_special_tokens = not is_seen
        if sum(map(len, texts)) <= FEW_CHARACTERS:
            return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        return [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _seen_in(self, text: str, spans: Spans) -> list[int]:
        """Special tokens are seen within the spans alone: a token of the same kind, which nobody else can
        spell, stands in for each of them there, so that the text around it is cut and normalised as
        always.
        """
        tokenizer, seams = self._seamed
        pieces, at = [], 0
        for match in self._special.spellings.within(text, spans):
            pieces += [text[at : match.start()], seams[match[0]]]
            at = match.end()
        meant = {tokenizer.token_to_id(seam): self._special.ids[token] for token, seam in seams.items()}
        ids = tokenizer.encode("".join([*pieces, text[at:]]), add_special_tokens=False).ids
        return [meant.get(number, number) for number in ids]

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
    special = _special_tokens({text: tokenizer.token_to_id(text) for text in texts}, declared, named)
    base = tokenizer.get_vocab_size(with_added_tokens=False)
    rows = vocabulary_rows(tokenizer.get_vocab().values(), base, named)
    begins = bare != whole == [named.get("bos_token")]
    reading = tokenizer.to_str()
    facts = _facts(source, "tokenizers", named, rows, begins=begins)
    encode = _TokenizersEncode(
        tokenizer, special, special_text=source.special_text, splits=settings.splits_specials
    )
    return _Encoder(facts, special, source.special_text, encode, None if reading == plain else reading)


def by_sentencepiece(source: Source, file: str, settings: Settings) -> Encoder:
    """tokenizer.model with the tokens that the files beside it add; it adds no begin token by itself.

    sentencepiece makes control tokens of no text. Where they are meant, the text is cut there, as
    transformers does.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=file)
    base = processor.get_piece_size()
    ids = sentencepiece_ids(processor, settings)
    named = {name: ids[token["content"]] for name, token in settings.named.items()}
    texts = settings.declared() | {token["content"] for token in settings.specials()}
    special = _special_tokens({text: ids[text] for text in texts}, settings.declared(), named)
    splitter = _Splitter(ids, settings, special.ids if source.special_text == "text" else ())

    def encode(texts: Sequence[str], own: Sequence[Spans]) -> list[list[int]]:
        # By itself it starts a thread for each core, and ends them, in every call.
        found: list[list[int]] = processor.encode(list(texts), num_threads=1)
        if not settings.splits_specials:
            for place, (text, spans) in enumerate(zip(texts, own, strict=True)):
                if parts := splitter.split(text, spans):
                    found[place] = [
                        number
                        for part, is_token in parts
                        for number in ([ids[part]] if is_token else processor.encode(part))
                    ]
        return found

    begins = bool(settings.values.get("add_bos_token", True))
    rows = vocabulary_rows((*range(base), *ids.values()), base, named)
    return _Encoder(
        _facts(source, "sentencepiece", named, rows, begins=begins), special, source.special_text, encode
    )


def sentencepiece_ids(processor: Any, settings: Settings) -> dict[str, int]:
    """The ids of added and special tokens, by their text: the vocabulary's own, else the next free ones."""
    base = processor.get_piece_size()
    ids: dict[str, int] = {token["content"]: number for number, token in settings.added.items()}
    free = base + sum(number >= base for number in settings.added)
    for content in (token["content"] for token in settings.specials()):
        if content not in ids:
            number = processor.piece_to_id(content)
            is_piece = processor.id_to_piece(number) == content
            ids[content] = number if is_piece else free
            free += not is_piece
    return ids


class _Splitter:
    """Cuts a text where it spells out an added or special token, as transformers does for sentencepiece;
    tokens that are for a template alone, only in its words.
    """

    def __init__(self, ids: Iterable[str], settings: Settings, templates_alone: Iterable[str]) -> None:
        self._ids = frozenset(ids)
        self._all = Spellings(self._ids)
        self._anywhere = Spellings(self._ids - set(templates_alone))
        self._added = {token["content"]: token for token in settings.added.values()}

    def split(self, text: str, own: Spans) -> list[tuple[str, bool]]:
        """The parts, none empty, and whether each is a token; [] where there is nothing to cut. A token
        may take the blanks beside it, or want to be a word of its own.
        """
        if not self._all.are_in(text):
            return []
        cuts = [match.span() for match in self._all.within(text, own)]
        cuts = sorted(
            cuts + [match.span() for match in self._anywhere.within(text, _between(own, len(text)))]
        )
        if not cuts:
            return []
        parts, at = [], 0
        for begin, end in [*cuts, (len(text), len(text))]:
            parts += [[text[at:begin], False], [text[begin:end], True]]
            at = end
        trimmed = self._trimmed([part for part in parts if part[0]])
        return [(part, is_token and part in self._ids) for part, is_token in trimmed if part]

    def _trimmed(self, parts: list[list[Any]]) -> list[list[Any]]:
        last = len(parts) - 1
        for place, (part, is_token) in enumerate(parts):
            token = self._added.get(part, {}) if is_token else {}
            if token.get("rstrip") and place < last:
                parts[place + 1][0] = parts[place + 1][0].lstrip()
            if token.get("lstrip") and place:
                parts[place - 1][0] = parts[place - 1][0].rstrip()
            if token.get("single_word"):
                before, after = parts[place - 1 : place], parts[place + 1 : place + 2]
                if before and before[0][0] and before[0][0][-1] != " ":
                    before[0][0] += part
                    parts[place][0] = ""
                elif after and after[0][0] and after[0][0][0] != " ":
                    after[0][0] = part + after[0][0]
                    parts[place][0] = ""
        return parts


def _between(spans: Spans, length: int) -> list[tuple[int, int]]:
    """What lies outside the spans."""
    edges = [0, *(edge for span in spans for edge in span), length]
    return [gap for gap in list(pairwise(edges))[::2] if gap[0] < gap[1]]


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
    special = _special_tokens(ids, set(texts), named)
    facts = _facts(source, "transformers", named, rows, begins=begins)
    splits = bool(getattr(tokenizer, "split_special_tokens", False))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _Encoder(
            facts,
            special,
            source.special_text,
            _python_encode(tokenizer, special, source.special_text, splits),
        )
    backend.no_truncation()
    backend.no_padding()
    reading = backend.to_str()
    encode = _TokenizersEncode(backend, special, special_text=source.special_text, splits=splits)
    return _Encoder(facts, special, source.special_text, encode, reading)


def _python_encode(tokenizer: Any, special: SpecialTokens, special_text: SpecialText, splits: bool) -> Encode:
    """For a tokenizer that is written in Python: cut at the template's tokens where the data spells one
    out.
    """

    def encode_one(text: str, own: Spans) -> list[int]:
        if splits or special_text == "tokens" or not special.spellings.in_data(text, own):
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        ids, at = [], 0
        for match in special.spellings.within(text, own):
            ids += [*as_text(text[at : match.start()]), special.ids[match[0]]]
            at = match.end()
        return ids + as_text(text[at:])

    def as_text(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    return lambda texts, own: [encode_one(text, spans) for text, spans in zip(texts, own, strict=True)]


def _special_tokens(
    ids: Mapping[str, int], declared: Iterable[str], named: Mapping[str, int]
) -> SpecialTokens:
    """declared: texts that the files mark as special; a token that they only name may be ordinary text."""
    fixed = {ids[text] for text in declared} | {
        named[name] for name in ("bos_token", "eos_token") if name in named
    }
    return SpecialTokens(dict(ids), frozenset(fixed - {named.get("unk_token")}))


def _facts(
    source: Source, library: str, named: Mapping[str, int], rows: int, *, begins: bool
) -> TokenizerFacts:
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
