"""The encoder of a tokenizer.model, by sentencepiece."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from crossfoot.data.encoders import LibraryEncoder, Source, facts_of, special_tokens, vocabulary_rows
from crossfoot.data.samples import Encoder, Placed
from crossfoot.data.special_text import Spans, Spellings
from crossfoot.data.tokenizer_settings import Settings


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
    special = special_tokens({text: ids[text] for text in texts}, settings.declared(), named)
    splitter = _Splitter(ids, settings, special.ids if source.special_text == "text" else ())
    coder = _SentencepieceCoder(processor, ids, None if settings.splits_specials else splitter)
    begins = bool(settings.values.get("add_bos_token", True))
    rows = vocabulary_rows((*range(base), *ids.values()), base, named)
    return LibraryEncoder(
        facts_of(source, "sentencepiece", named, rows, begins=begins), special, source.special_text, coder
    )


@dataclass(frozen=True)
class _SentencepieceCoder:
    """ids: of added and special tokens. splitter: None: no text is cut at them."""

    processor: Any
    numbers: Mapping[str, int]
    splitter: _Splitter | None

    def ids(self, texts: Sequence[str], own: Sequence[Spans]) -> list[list[int]]:
        # By itself it starts a thread for each core, and ends them, in every call.
        found: list[list[int]] = self.processor.encode(list(texts), num_threads=1)
        for place, (text, spans) in enumerate(zip(texts, own, strict=True)):
            if self.splitter is not None and (parts := self.splitter.split(text, spans)):
                found[place] = [
                    number
                    for part, is_token in parts
                    for number in ([self.numbers[part]] if is_token else self.processor.encode(part))
                ]
        return found

    def placed(self, text: str, own: Spans) -> Placed:
        """Where blanks were taken off a part, the part is looked for behind the one before."""
        parts = (self.splitter.split(text, own) if self.splitter is not None else []) or [(text, False)]
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        at = 0
        for part, is_token in parts:
            begin = text.index(part, at)
            at = begin + len(part)
            if is_token:
                ids.append(self.numbers[part])
                places.append((begin, at))
                continue
            part_ids, part_places = self._placed(part)
            ids += part_ids
            places += [(begin + first, begin + last) for first, last in part_places]
        return ids, places

    def text(self, ids: list[int]) -> str:
        """As of Coder: added tokens, which the file does not have, are special or padding."""
        text: str = self.processor.decode([one for one in ids if one < self.processor.get_piece_size()])
        return text

    def _placed(self, text: str) -> Placed:
        try:
            found = self.processor.encode(text, out_type="offset_mapping")
        except RuntimeError:  # up to 0.2.1
            pieces = self.processor.encode(text, out_type="immutable_proto").pieces
            return [one.id for one in pieces], [(one.begin, one.end) for one in pieces]
        return found["ids"], found["offsets"]


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
