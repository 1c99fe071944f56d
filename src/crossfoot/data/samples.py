"""From records to samples: what a record must have, how sft masks its prompt, how pretrain cuts documents
into blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from crossfoot.data.findings import Problem
from crossfoot.data.record import NamedTwice, Record
from crossfoot.data.records import FIELDS, Task
from crossfoot.data.special_text import Spans, SpecialText, SpecialTokens
from crossfoot.data.templates import TEMPLATES
from crossfoot.data.unread_fields import unread_fields

IGNORED_LABEL = -100

BYTES_PER_TOKEN = 3.5
"""Assumption for estimates, not studied: UTF-8 bytes of text per token (Chinese about 3.3, English about 4).
"""


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
class Texts:
    """The texts of one good record: (prompt, answer) for sft, (document,) for pretrain. own: where the
    template's words stand in the prompt. unread: names of its fields that hold something and are not read.
    written: what is read, as it stands in the file. number, line: as of a Problem.
    """

    file_id: int
    number: int
    parts: tuple[str, ...]
    own: Spans = ()
    unread: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    line: int = 0

    @property
    def spelled_in(self) -> tuple[tuple[str, Spans], ...]:
        """Each text, with the template's words in it."""
        return tuple(zip(self.parts, (self.own, *[()] * len(self.parts)), strict=False))

    def problem(self, code: str, reason: str) -> Problem:
        """What is wrong with it."""
        return Problem(code, self.number, reason, line=self.line)

    @property
    def characters(self) -> int:
        """Length of all parts together."""
        return sum(map(len, self.parts))


def texts_of(record: Record, file_id: int, task: Task, template: str) -> Texts | Problem:
    """The texts of a record, or why it cannot be trained on."""
    value = record.value
    own: Spans = ()
    if not isinstance(value, dict):
        return record.problem("CF506", f"it is {_kind(value)}")
    if isinstance(value, NamedTwice):
        return record.problem("CF556", f"it names {json.dumps(value.name, ensure_ascii=False)} twice")
    if task == "pretrain":
        if problem := _missing(record, "text", "CF510"):
            return problem
        parts: tuple[str, ...] = (value["text"],)
    else:
        for field, code in (("output", "CF507"), ("instruction", "CF508")):
            if problem := _missing(record, field, code):
                return problem
        extra = value.get("input")
        if extra is not None and not isinstance(extra, str):
            return record.problem("CF508", f'"input" is {_kind(extra)}, not text')
        asked = (value["instruction"], extra or "")
        parts = (TEMPLATES[template](*asked), value["output"])
        own = TEMPLATES[template].own_spans(*asked)
    for part in parts:
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(part[error.start]):04x}"
            return record.problem("CF511", f"it holds {half}, half of a character")
    written = tuple(filter(None, (value.get(field) for field in FIELDS[task])))
    return Texts(file_id, record.number, parts, own, unread_fields(value, task), written, record.line)


def _missing(record: Record, field: str, code: str) -> Problem | None:
    value = record.value
    if field not in value:
        found = ", ".join(list(value)[:8]) or "nothing"
        return record.problem(code, f'no "{field}"; it has: {found}')
    text = value[field]
    if not isinstance(text, str):
        return record.problem(code, f'"{field}" is {_kind(text)}, not text')
    if not text.strip():
        return record.problem(code, f'"{field}" is empty')
    return None


def _kind(value: object) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), f"of type {type(value).__name__}")


def sft_samples(
    batch: Sequence[Texts], encoder: Encoder, max_seq_len: int
) -> Iterator[Sample | tuple[int, Problem]]:
    """A sample (or a file id and its Problem) for each record: begin token and prompt masked, answer and end
    token trained.

    Prompt and answer are tokenised separately. Cut at max_seq_len tokens; what is cut off is always answer,
    because a prompt that leaves no room for one trained token is a Problem.
    """
    facts = encoder.facts
    prompts = encoder.encode([texts.parts[0] for texts in batch], [texts.own for texts in batch])
    answers = encoder.encode([texts.parts[1] for texts in batch])
    for texts, prompt, answer in zip(batch, prompts, answers, strict=True):
        masked = len(facts.bos_ids) + len(prompt)
        if masked >= max_seq_len:
            reason = f"the prompt has {masked} tokens, data.max_seq_len is {max_seq_len}"
            yield texts.file_id, texts.problem("CF509", reason)
            continue
        whole = [*facts.bos_ids, *prompt, *answer, facts.eos_id]
        if problem := _not_as_text(texts, (prompt, answer), encoder) or _not_trainable(
            answer, whole, facts, texts
        ):
            yield texts.file_id, problem
            continue
        ids = np.array(whole[:max_seq_len], dtype=np.int32)
        trained = np.ones(len(ids), dtype=np.uint8)
        trained[:masked] = 0
        yield Sample(ids, trained, max(0, len(whole) - max_seq_len), texts.file_id, texts.number)


def _not_as_text(texts: Texts, encoded: Sequence[Sequence[int]], encoder: Encoder) -> Problem | None:
    """Its data spells out a special token, for which the vocabulary has no other tokens than that one."""
    if encoder.special_text == "tokens" or all(map(encoder.special.fixed.isdisjoint, encoded)):
        return None
    for (part, own), ids in zip(texts.spelled_in, encoded, strict=True):
        if token := encoder.special.surviving(part, own, ids):
            return texts.problem(
                "CF511", f"it spells out {token}, and the tokenizer has no other tokens for that"
            )
    return None


def _not_trainable(
    body: Sequence[int], whole: Sequence[int], facts: TokenizerFacts, texts: Texts
) -> Problem | None:
    """A trained text without a token of its own (body), or a token that the model's table has no row for: the
    text spells out the tokenizer's added padding token.
    """
    if not body:
        return texts.problem("CF551", "no token comes of its text")
    highest = max(whole)
    if highest < facts.vocabulary:
        return None
    reason = (
        f"it spells out a special token with id {highest}, but the model's table has {facts.vocabulary} rows"
    )
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
    facts = encoder.facts
    for texts, body in zip(batch, encoder.encode([texts.parts[0] for texts in batch]), strict=True):
        whole = [*facts.bos_ids, *body, facts.eos_id]
        problem = _not_as_text(texts, (body,), encoder) or _not_trainable(body, whole, facts, texts)
        if problem is not None:
            yield texts.file_id, problem
        else:
            yield Document(np.array(whole, dtype=np.int32), texts.file_id, texts.number)


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
