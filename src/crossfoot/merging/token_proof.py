"""The tokenizer beside a merged model: what AutoTokenizer makes of its files, held against the tokens of the
run's index, text by text.

transformers converts a tokenizer.model into ranked merges, which cannot say that two tokens rank equally;
with the 23,296 pieces of score 0 that Chinese-LLaMA-2 added, many texts come out otherwise. No order of
merges mends that: sentencepiece takes the leftmost of equals, so of AB, BC and CA each would have to come
before the next. But transformers has a class that asks sentencepiece itself, and tokenizer_config.json may
name it. Some tokenizer.json it builds anew as well, by the class that is named beside it; another class takes
it as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import AutoTokenizer

from crossfoot.data.conversation import turns_of
from crossfoot.data.encoders import LibraryEncoder
from crossfoot.data.findings import Problem
from crossfoot.data.records import Task, read_records
from crossfoot.data.samples import Placed, Shape, read_value
from crossfoot.data.saved_tokenizer import write_chat_template
from crossfoot.data.special_text import Spans
from crossfoot.data.tokenizer import CHAT_TEMPLATE
from crossfoot.data.tokenizer_settings import JSON_FILE, MODEL_FILE
from crossfoot.digests import sha256_of_file
from crossfoot.index.chunks import Chunk, chunks_of
from crossfoot.index.columns import Columns
from crossfoot.index.store import DataIndex
from crossfoot.index.tokenised import Tokeniser
from crossfoot.index.tokenising_line import TokenisingLine

SETTINGS = "tokenizer_config.json"
MOST_SHOWN = 3
MOST_IDS = 8
CONVERSATIONS = 32
Ids = npt.NDArray[np.int32]
_NO_IDS: Ids = np.empty(0, dtype=np.int32)
Pair = tuple[str, Ids, Ids]
"""Where a record is written, its ids in the index, its ids by AutoTokenizer."""
Difference = tuple[str, list[int], list[int]]


@dataclass(frozen=True)
class TokenProof:
    """texts: records that were compared; differing: those of which AutoTokenizer makes other ids. first: of
    the first ones (where, ids as trained, ids found), from the first difference on. conversations: rendered
    whole by apply_chat_template; other_conversations: those whose ids differ. tokenizer_class: what
    tokenizer_config.json names for it. why: nothing was compared.
    """

    texts: int = 0
    differing: int = 0
    first: tuple[Difference, ...] = ()
    conversations: int = 0
    other_conversations: int = 0
    tokenizer_class: str | None = None
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether every text gave the ids that were trained."""
        return not (self.why or self.differing or self.other_conversations)


def prove_tokenizer(folder: str, index: DataIndex, encoder: LibraryEncoder) -> TokenProof:
    """Find the settings with which AutoTokenizer of the folder makes the ids of the index, and leave them
    there; where none makes all, those that make the most. encoder: made the index.
    """
    if changed := _changed_source(index):
        is_there = os.path.exists(changed)
        where = "is not what was tokenised" if is_there else f"is not there, seen from {os.getcwd()}"
        return TokenProof(why=f"{changed} {where}")
    given = _settings(folder)
    best: tuple[TokenProof, Mapping[str, Any]] | None = None
    for change in _ways(folder, encoder):
        _write(folder, {**given, **change})
        try:
            found = _compared(folder, index, encoder)
        # transformers and its libraries raise bare Exception for files they dislike
        except Exception as error:
            found = TokenProof(why=f"AutoTokenizer cannot load it: {str(error).splitlines()[0]}")
        if best is None or _badness(found) < _badness(best[0]):
            best = found, change
        if found.holds:
            break
    assert best is not None
    _write(folder, {**given, **best[1]})
    return _with_chats(best[0], folder, index)


def _badness(proof: TokenProof) -> tuple[bool, int]:
    return bool(proof.why), proof.differing


def _ways(folder: str, encoder: LibraryEncoder) -> Iterator[Mapping[str, Any]]:
    """Changes of tokenizer_config.json, the likeliest first. The class that asks sentencepiece puts a begin
    token in front only when it is told to.
    """
    library = encoder.facts.library.split()[0]
    if library == "sentencepiece" and os.path.isfile(os.path.join(folder, MODEL_FILE)):
        pattern = "bos" if encoder.facts.bos_ids else "none"
        yield {"tokenizer_class": "SentencePieceBackend", "special_tokens_pattern": pattern}
    yield {}
    if os.path.isfile(os.path.join(folder, JSON_FILE)):
        yield {"tokenizer_class": "PreTrainedTokenizerFast"}


def _settings(folder: str) -> dict[str, Any]:
    try:
        with open(os.path.join(folder, SETTINGS), encoding="utf-8") as stream:
            values = json.load(stream)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(folder: str, values: Mapping[str, Any]) -> None:
    if _settings(folder) == values:
        return  # byte for byte as it was
    with open(os.path.join(folder, SETTINGS), "w", encoding="utf-8") as stream:
        json.dump(values, stream, ensure_ascii=False, indent=2)
        stream.write("\n")


def _changed_source(index: DataIndex) -> str | None:
    """A data file that is gone, or holds something else by now."""
    for path, source in zip(index.files, index.header.sources, strict=True):
        try:
            if sha256_of_file(path) != source.sha256:
                return path
        except OSError:
            return path
    return None


@dataclass(frozen=True)
class _AutoCoder:
    """What transformers makes of a text; where a token stands in it is not asked."""

    tokenizer: Any

    def ids(self, texts: Sequence[str], own: Sequence[Spans]) -> list[list[int]]:
        """As of Coder."""
        return [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]

    def placed(self, text: str, own: Spans) -> Placed:
        """As of Coder, but that each token is said to be the whole text."""
        (ids,) = self.ids([text], [own])
        return ids, [(0, len(text))] * len(ids)

    def text(self, ids: list[int]) -> str:
        """As of Coder."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def _compared(folder: str, index: DataIndex, encoder: LibraryEncoder) -> TokenProof:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    said = replace(encoder, coder=_AutoCoder(tokenizer), special_text="tokens")
    texts = differing = 0
    first: list[Difference] = []
    for where, trained, found in _pairs(index, encoder, said):
        texts += 1
        if np.array_equal(trained, found):
            continue
        differing += 1
        if len(first) < MOST_SHOWN:
            at = _first_difference(trained, found)
            both = (trained[at : at + MOST_IDS].tolist(), found[at : at + MOST_IDS].tolist())
            first.append((f"{where}, from token {at + 1:,} on", *both))
    return TokenProof(
        texts, differing, tuple(first), tokenizer_class=_settings(folder).get("tokenizer_class")
    )


def _with_chats(proof: TokenProof, folder: str, index: DataIndex) -> TokenProof:
    """The same with conversations rendered whole, by the template that gives the trained ids of most; it is
    left in the folder.
    """
    template = index.header.template
    file = os.path.join(folder, CHAT_TEMPLATE)
    if template is None or proof.why or not os.path.isfile(file):
        return proof
    with open(file, encoding="utf-8") as stream:
        own = stream.read()
    begins = "bos_token + " in own
    ways = [template.chat_template(begins=begins, parted=parted) for parted in (True, False)]
    found: dict[str, TokenProof] = {}
    for text in dict.fromkeys([own] if template.source else [own, *ways]):
        write_chat_template(folder, text)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        chats = list(islice(_conversations(index, tokenizer), CONVERSATIONS))
        found[text] = replace(proof, conversations=len(chats), other_conversations=chats.count(False))
        if found[text].holds:
            return found[text]
    best = min(found, key=lambda text: found[text].other_conversations)
    write_chat_template(folder, best)
    return found[best]


def _first_difference(one: Ids, other: Ids) -> int:
    shorter = min(len(one), len(other))
    differs = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differs[0]) if len(differs) else shorter


def _shape(index: DataIndex) -> Shape:
    header = index.header
    task: Task = "pretrain" if header.task == "pretrain" else "sft"
    return Shape(task, header.max_seq_len, header.template, header.columns, header.over_long)


def _pairs(index: DataIndex, encoder: LibraryEncoder, said: LibraryEncoder) -> Iterator[Pair]:
    """Of every record of the index, as it is cut there."""
    shape = _shape(index)
    kind = _Documents if shape.task == "pretrain" else _Samples
    compare = kind(index, Tokeniser(encoder, shape), Tokeniser(said, shape))
    progress = TokenisingLine()
    done = 0
    for chunk in chunks_of(index.files):
        yield from compare.pairs(chunk)
        done += len(chunk.records)
        progress(done, lambda: sum(source.records for source in index.header.sources))


@dataclass
class _Samples:
    """Of sft: a record is one sample of the index, or several. at: the next one."""

    index: DataIndex
    own: Tokeniser
    said: Tokeniser
    at: int = 0

    def pairs(self, chunk: Chunk) -> Iterator[Pair]:
        """Of the records of a chunk."""
        found = _by_number(self.said(chunk).columns)
        index, last = self.index, chunk.records[-1].number if chunk.records else 0
        trained: dict[int, list[Ids]] = {}
        while self.at < index.num_samples and index.file_ids[self.at] == chunk.file_id:
            number = int(index.numbers[self.at])
            if number > last:
                break
            trained.setdefault(number, []).append(index.sample(self.at)[0])
            self.at += 1
        for number, parts in trained.items():
            where = str(index.record_place(chunk.file_id, number))
            yield where, np.concatenate(parts), np.concatenate(found.get(number, [_NO_IDS]))


@dataclass
class _Documents:
    """Of pretrain: documents lie one behind the other in the blocks of the index, up to the last whole one.
    at: the first token of the next.
    """

    index: DataIndex
    own: Tokeniser
    said: Tokeniser
    at: int = 0

    def pairs(self, chunk: Chunk) -> Iterator[Pair]:
        """Of the documents of a chunk."""
        found = {one.number: one.ids for one in self.said(chunk).documents}
        for document in self.own(chunk).documents:
            trained = np.asarray(self.index.tokens[self.at : self.at + len(document.ids)])
            self.at += len(document.ids)
            ids = found.get(document.number, _NO_IDS)
            if len(trained) < len(document.ids):  # a last token that no block has
                ids = ids[: len(trained)] if len(ids) == len(document.ids) else ids
            where = str(self.index.record_place(chunk.file_id, document.number))
            yield where, trained, ids


def _by_number(columns: Columns | None) -> dict[int, list[Ids]]:
    """The ids of samples by the number of their record."""
    found: dict[int, list[Ids]] = {}
    if columns is not None:
        parts = np.split(columns["tokens"], np.cumsum(columns["lengths"])[:-1])
        for number, ids in zip(columns["numbers"].tolist(), parts, strict=True):
            found.setdefault(number, []).append(ids)
    return found


def _conversations(index: DataIndex, tokenizer: Any) -> Iterator[bool]:
    """Whether apply_chat_template makes of a whole record what was trained; of records that are one sample,
    of which nothing was cut.
    """
    shape = _shape(index)
    if shape.template is None:
        return
    once, counts = np.unique(index.numbers[index.file_ids == 0], return_counts=True)
    whole = set(once[counts == 1].tolist())
    samples = {int(number): i for i, number in enumerate(index.numbers) if index.file_ids[i] == 0}
    for record in read_records(index.files[0]):
        i = samples.get(record.number)
        if isinstance(record, Problem) or i is None or record.number not in whole:
            continue
        trained = index.sample(i)[0]
        if len(trained) >= shape.max_seq_len:
            continue
        turns = turns_of(read_value(record, shape.columns), shape.columns)
        said = [{"role": turn.role, "content": turn.text} for turn in turns]
        found = tokenizer.apply_chat_template(said, tokenize=True, return_dict=False)
        yield bool(np.array_equal(trained, found))
