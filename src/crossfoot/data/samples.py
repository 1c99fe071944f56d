"""From records to samples: what a record must have, which of its tokens are trained, how pretrain cuts
documents into blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from crossfoot.data.conversation import (
    Columns,
    NotTrainable,
    Turn,
    kind,
    quoted_name,
    renamed,
    text_in,
    turns_of,
)
from crossfoot.data.findings import Problem
from crossfoot.data.record import NamedTwice, Record
from crossfoot.data.records import Task
from crossfoot.data.special_text import Spans, SpecialText, SpecialTokens
from crossfoot.data.templates import Stretch, Template
from crossfoot.data.unread_fields import unread_fields

IGNORED_LABEL = -100

BYTES_PER_TOKEN = 3.5
"""Assumption for estimates, not studied: UTF-8 bytes of text per token (Chinese about 3.3, English about 4).
"""


OverLong = Literal["truncate", "split", "drop"]
Placed = tuple[list[int], list[tuple[int, int]]]
"""The ids of a text, and the characters of each: begin and end."""


class Encoder(Protocol):
    """Text to ids, without special tokens added."""

    @property
    def facts(self) -> TokenizerFacts:
        """What it is, and the tokens that go around."""

    @property
    def reading(self) -> str | None:
        """What `tokenizers` makes of the tokenizer's folder, as a tokenizer.json; None where that is what
        the folder's own tokenizer.json says, or another library reads it.
        """

    @property
    def special(self) -> SpecialTokens:
        """Its special tokens."""

    @property
    def special_text(self) -> SpecialText:
        """What one becomes that the data spells out."""

    def encode(self, texts: Sequence[str], own: Sequence[Spans] | None = None) -> list[list[int]]:
        """The ids of each text. own: for each text, where a template's own words stand; None: all is data."""

    def encode_placed(self, texts: Sequence[str], own: Sequence[Spans]) -> Sequence[Placed]:
        """The same, each with where in its text it begins and ends."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without its special tokens."""


@dataclass(frozen=True)
class Sample:
    """One sample as it goes into the index. ids, trained [L]; lost_tokens: trained tokens cut off; number:
    of the record in which it starts.
    """

    ids: npt.NDArray[np.int32]
    trained: npt.NDArray[np.uint8]
    lost_tokens: int
    file_id: int
    number: int


@dataclass(frozen=True)
class Shape:
    """What becomes of a record, beside the tokenizer. template: of sft. columns, over_long: as in the
    config.
    """

    task: Task
    max_seq_len: int
    template: Template | None = None
    columns: Columns = field(default_factory=dict)
    over_long: OverLong = "truncate"

    @property
    def marks(self) -> tuple[str, ...]:
        """The template's words that a text has which was put into it before."""
        return () if self.template is None else self.template.marks


@dataclass(frozen=True)
class Texts:
    """The texts of one good record. stretches: what is tokenised. unread: names of its fields that hold
    something and are not read. written: what is read, as it stands in the file. number, line: as of a
    Problem. turns: of a conversation.
    """

    file_id: int
    number: int
    stretches: tuple[Stretch, ...]
    unread: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    line: int = 0
    turns: tuple[Turn, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The texts of the stretches."""
        return tuple(stretch.text for stretch in self.stretches)

    def problem(self, code: str, reason: str) -> Problem:
        """What is wrong with it."""
        return Problem(code, self.number, reason, line=self.line)


def texts_of(record: Record, file_id: int, shape: Shape) -> Texts | Problem:
    """The texts of a record, or why it cannot be trained on."""
    turns: tuple[Turn, ...] = ()
    try:
        value = read_value(record, shape.columns)
        if shape.template is None:
            written: tuple[str, ...] = (text_in(value, "text", "CF510"),)
            stretches: tuple[Stretch, ...] = (
                Stretch(written[0], trained=((0, len(written[0])),), begins=True, ends=True),
            )
        else:
            turns = turns_of(value, shape.columns)
            written = tuple(turn.text for turn in turns)
            stretches = shape.template.stretches(turns)
        for text in written:
            _refuse_halves(text)
    except NotTrainable as error:
        return record.problem(error.code, error.reason)
    unread = unread_fields(value, shape.task, shape.columns)
    return Texts(file_id, record.number, stretches, unread, written, record.line, turns)


def read_value(record: Record, columns: Columns) -> dict[str, Any]:
    """The fields of a record under the names that are read. Raises NotTrainable: CF506, CF556."""
    value = record.value
    if not isinstance(value, dict):
        raise NotTrainable("CF506", f"it is {kind(value)}")
    if isinstance(value, NamedTwice):
        raise NotTrainable("CF556", f"it names {quoted_name(value.name)} twice")
    return renamed(value, columns)


def _refuse_halves(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise NotTrainable("CF511", f"it holds {half}, half of a character") from error


_LABEL = {False: b"\0", True: b"\1"}


@dataclass(frozen=True)
class Coded:
    """The tokens of a record before any cut. trained: of each, 1 where it is a label. parts: the ids of each
    stretch, without those around it. shortest_answer: tokens of the trained part that has the fewest.
    """

    ids: Sequence[int]
    trained: bytearray
    parts: Sequence[Sequence[int]]
    shortest_answer: int

    @property
    def masked_tokens(self) -> int:
        """Tokens before the first trained one; the first of a sample never is."""
        first = self.trained.find(1, 1)
        return len(self.ids) if first < 0 else first


def coded_texts(batch: Sequence[Texts], encoder: Encoder) -> Iterator[Coded]:
    """The tokens of each record."""
    stretches = [stretch for texts in batch for stretch in texts.stretches]
    plain = [one for one in stretches if not one.is_mixed]
    mixed = [one for one in stretches if one.is_mixed]
    of_plain = iter(encoder.encode([one.text for one in plain], [one.own for one in plain]))
    of_mixed = iter(encoder.encode_placed([one.text for one in mixed], [one.own for one in mixed]))
    facts = encoder.facts
    for texts in batch:
        ids: list[int] = []
        trained = bytearray()
        parts: list[list[int]] = []
        answers: list[int] = []
        for stretch in texts.stretches:
            if stretch.is_mixed:
                part, places = next(of_mixed)
                labels = labels_of(places, stretch.trained)
                answers.append(sum(labels))
            else:
                part = next(of_plain)
                labels = bytearray(_LABEL[bool(stretch.trained)] * len(part))
                if stretch.trained:
                    answers.append(len(part))
            begin = facts.bos_ids if stretch.begins else ()
            end = (facts.eos_id,) if stretch.ends else ()
            ids += [*begin, *part, *end]
            trained += _LABEL[False] * len(begin) + labels + _LABEL[bool(stretch.trained)] * len(end)
            parts.append(part)
        yield Coded(ids, trained, parts, min(answers, default=0))


def labels_of(places: Sequence[tuple[int, int]], trained: Spans) -> bytearray:
    """1 for each token of which a character lies in a trained part. places: where each begins and ends in
    the text; bytes of one character that are tokens each begin where it does.
    """
    labels = bytearray(len(places))
    spans = iter(trained)
    span = next(spans, None)
    for at, (begin, end) in enumerate(places):
        while span is not None and begin >= span[1]:
            span = next(spans, None)
        if span is None:
            break
        labels[at] = int(begin >= span[0] or end > span[0])
    return labels


def untrainable(texts: Texts, coded: Coded, encoder: Encoder) -> Problem | None:
    """What is wrong with the tokens of a record: its data spells out a special token, for which the
    vocabulary has no other tokens than that one; a trained text has no token of its own; or the model's table
    has no row for a token, the tokenizer's added padding token, which the text spells out.
    """
    if encoder.special_text != "tokens" and not all(map(encoder.special.fixed.isdisjoint, coded.parts)):
        for stretch, ids in zip(texts.stretches, coded.parts, strict=True):
            if token := encoder.special.surviving(stretch.text, stretch.own, ids):
                return texts.problem(
                    "CF511", f"it spells out {token}, and the tokenizer has no other tokens for that"
                )
    if not coded.shortest_answer:
        return texts.problem("CF551", "no token comes of its text")
    highest, rows = max(coded.ids), encoder.facts.vocabulary
    if highest < rows:
        return None
    reason = f"it spells out a special token with id {highest}, but the model's table has {rows} rows"
    return texts.problem("CF511", reason)


@dataclass(frozen=True)
class Document:
    """A whole document of pretrain, with the tokens around it: ids [L]. number: of its record."""

    ids: npt.NDArray[np.int32]
    file_id: int
    number: int


def documents(batch: Sequence[Texts], encoder: Encoder) -> Iterator[Document | tuple[int, Problem]]:
    """A document (or a file id and its Problem) for each record: begin token if the tokenizer has one, text,
    end token.
    """
    for texts, coded in zip(batch, coded_texts(batch, encoder), strict=True):
        if problem := untrainable(texts, coded, encoder):
            yield texts.file_id, problem
        else:
            yield Document(np.array(coded.ids, dtype=np.int32), texts.file_id, texts.number)


class BlockCutter:
    """Joins documents in order and cuts blocks.

    Holds less than one block between calls. A last block of one token is left out: it has no target.
    """

    def __init__(self, max_seq_len: int) -> None:
        self._block_tokens = max_seq_len
        self._rest = np.empty(0, dtype=np.int32)
        self._rest_origin = (0, 0)
        self.left_out_tokens = 0

    def blocks(self, more: Sequence[Document]) -> Iterator[Sample]:
        """The blocks that become full with these documents."""
        parts = [self._rest, *(one.ids for one in more)]
        origins = [self._rest_origin, *((one.file_id, one.number) for one in more)]
        ends = np.cumsum([len(ids) for ids in parts])
        joined = np.concatenate(parts)
        full, rest = divmod(len(joined), self._block_tokens)
        cuts = np.arange(full + 1, dtype=np.int64) * self._block_tokens
        owners = np.minimum(np.searchsorted(ends, cuts, side="right"), len(more))
        for cut, owner in zip(cuts[:full], owners[:full], strict=True):
            yield self._block(joined[cut : cut + self._block_tokens], origins[owner])
        self._rest = joined[len(joined) - rest :].copy()
        self._rest_origin = origins[owners[full]]

    def last_block(self) -> Iterator[Sample]:
        """The last, short block, if it has a target."""
        if len(self._rest) >= 2:
            yield self._block(self._rest, self._rest_origin)
        else:
            self.left_out_tokens = len(self._rest)

    @staticmethod
    def _block(ids: npt.NDArray[np.int32], origin: tuple[int, int]) -> Sample:
        return Sample(ids, np.ones(len(ids), dtype=np.uint8), 0, *origin)


@dataclass(frozen=True)
class TokenizerFacts:
    """What made the tokens. vocabulary: rows the model's table needs (an added pad token does not count).

    bos_ids: the tokens put before every sample (empty, or one). library: what turned text into ids, with its
    version.
    """

    path: str
    fingerprint: str
    vocabulary: int
    eos_id: int
    bos_ids: tuple[int, ...]
    library: str
