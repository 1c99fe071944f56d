"""An index held against the files it was made of: a seeded sample of its records is read and tokenised again
by other code (`reference_records`, `reference_tokens`), and compared token by token.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from crossfoot.findings.finding import Place
from crossfoot.index.checksums import contradiction_of
from crossfoot.index.reference_chat import text_of
from crossfoot.index.reference_records import Found, found_records, value_of
from crossfoot.index.reference_tokenizers import (
    NotComparable,
    ReferenceTokenizer,
    Unusable,
    data,
    fast_reference,
    load_reference,
    settings_of,
)
from crossfoot.index.reference_tokens import Expected, difference_of, expected_answers
from crossfoot.index.store import TOKENIZER, DataIndex, IndexHeader
from crossfoot.phrases import counted

SAMPLED_RECORDS = 200
TOKENISED_CHARACTERS = 20_000_000
"""Text tokenised again for the blocks of a pretrain index, at most: a block may cover a whole book."""
READ_BYTES = 1 << 30
"""Of larger data about this much is read, the beginning of each file, and the sample is drawn from there."""


@dataclass(frozen=True)
class Difference:
    """A sample that is not what its file says. sample, place: None where it is not one in particular."""

    sample: int | None
    place: Place | None
    message: str

    @property
    def origin(self) -> str | None:
        """The place in words."""
        return None if self.place is None else str(self.place)


@dataclass
class Comparison:
    """What came of it. total: samples of the index; compared: of them; notes: what was not compared, and why;
    differences: in file order. characters: of the documents that were tokenised.
    """

    total: int
    compared: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    by_other_reading: int = 0
    characters: int = 0

    def judge(self, index: DataIndex, i: int, expect: Callable[[int], Expected], readings: int) -> None:
        """Book sample i, which must be what one of the readings of the tokenizer expects."""
        message = ""
        try:
            for reading in range(readings):
                found = difference_of(index, i, expect(reading))
                if found is None:
                    self.compared += 1
                    self.by_other_reading += reading > 0
                    return
                message = found
        except NotComparable as reason:
            self.pass_over(str(reason))
            return
        except (Unusable, ValueError) as reason:
            message = f"no sample can be made of it: {reason}"
        self.compared += 1
        self.differ(index, i, message)

    def differ(self, index: DataIndex, i: int, message: str) -> None:
        """Book a difference of sample i."""
        self.differences.append(Difference(i, index.place(i), message))

    def pass_over(self, reason: str) -> None:
        """Book a sample that cannot be compared."""
        self.passed_over[reason] = self.passed_over.get(reason, 0) + 1

    def close(self) -> None:
        """Write the notes."""
        for reason, count in self.passed_over.items():
            self.notes.append(f"{count:,} of the sampled records not compared: {reason}")
        if self.by_other_reading:
            self.notes.append(
                f"{self.by_other_reading:,} of the sampled records come out of tokenizer.json as other "
                "tokens; the files beside it, or transformers, make another tokenizer of it: it is kept in "
                "the index"
            )


def compare_with_files(index: DataIndex, folder: str, seed: str) -> Comparison:
    """Hold an index against its files. folder: the tokenizer's. seed: decides which records are looked at.

    Reads each file up to the last record that is looked at. Raises OSError when one cannot be read.
    """
    comparison = Comparison(index.num_samples)
    if (message := contradiction_of(index)) is not None:
        comparison.differences.append(Difference(None, None, message))
        return comparison
    try:
        tokenizers = _readings(index, folder)
    except NotComparable as reason:
        comparison.notes.append(f"its records were not compared with their files: {reason}")
        return comparison
    chosen = _choose(index, seed)
    if index.header.task == "pretrain":
        _compare_blocks(index, tokenizers, chosen, comparison)
    else:
        _compare_answers(index, tokenizers, chosen, comparison)
    comparison.close()
    return comparison


def _readings(index: DataIndex, folder: str) -> list[ReferenceTokenizer]:
    """The tokenizer by its own file, and what the builder made of it, where that is kept in the index."""
    facts, special_text = index.header.tokenizer, index.header.special_text
    kept = os.path.join(index.folder, TOKENIZER)
    other = []
    if TOKENIZER in index.header.checksums:
        other.append(fast_reference(kept, settings_of(folder), facts, special_text))
    try:
        return [load_reference(folder, facts, special_text), *other]
    except NotComparable:
        if other:
            return other
        raise
    except Exception as error:  # the libraries raise bare Exception for a damaged file
        raise NotComparable(f"{folder}: {str(error).splitlines()[0]}") from error


def _choose(index: DataIndex, seed: str) -> list[int]:
    """Ids of the samples to look at, ascending; all of a small set."""
    share = min(1.0, READ_BYTES / max(1, sum(map(_effort, index.files))))
    bounds = np.searchsorted(index.file_ids, np.arange(len(index.files) + 1))
    counts = [math.ceil(samples * share) for samples in np.diff(bounds).tolist()]
    ends = np.cumsum(counts)
    total = int(ends[-1])
    drawn = random.Random(seed).sample(range(total), min(SAMPLED_RECORDS, total))
    files = np.searchsorted(ends, drawn, side="right")
    return sorted(int(bounds[f] + n - (ends[f] - counts[f])) for f, n in zip(files, drawn, strict=True))


def _effort(file: str) -> int:
    """Bytes of a file; those of .json weigh more, because a list is parsed and not only passed over."""
    return os.path.getsize(file) * (8 if file.lower().endswith(".json") else 1)


def _first_of_record(index: DataIndex, i: int) -> int:
    """The first sample that begins in the record in which sample i begins."""
    file_id = index.file_ids[i]
    first = int(np.searchsorted(index.file_ids, file_id))
    return first + int(np.searchsorted(index.numbers[first : i + 1], index.numbers[i]))


def _compare_answers(
    index: DataIndex, tokenizers: Sequence[ReferenceTokenizer], chosen: Sequence[int], told: Comparison
) -> None:
    header = index.header
    wanted: list[dict[int, list[int]]] = [{} for _ in index.files]
    for i in chosen:
        wanted[int(index.file_ids[i])].setdefault(int(index.numbers[i]), []).append(i)
    for file, here in zip(index.files, wanted, strict=True):
        for found in _until_broken(file) if here else ():
            for i in here.pop(found.number, ()):
                told.judge(
                    index, i, _answer_of(found, header, tokenizers, _part_of(index, i)), len(tokenizers)
                )
            if not here:
                break
        for i in (i for ids in here.values() for i in ids):
            told.compared += 1
            told.differ(index, i, "there is no such record in its file")


def _part_of(index: DataIndex, i: int) -> tuple[int, int]:
    """(which sample of its record sample i is, how many that record has)."""
    first = _first_of_record(index, i)
    here = index.numbers[first : int(np.searchsorted(index.file_ids, index.file_ids[i], side="right"))]
    return i - first, int(np.searchsorted(here, index.numbers[i], side="right"))


def _answer_of(
    found: Found, header: IndexHeader, tokenizers: Sequence[ReferenceTokenizer], part: tuple[int, int]
) -> Callable[[int], Expected]:
    def expected(reading: int) -> Expected:
        which, count = part
        answers = expected_answers(value_of(found), header, tokenizers[reading])
        if which >= len(answers) or which + 1 == count < len(answers):
            made = counted(len(answers), "sample")
            raise Unusable(f"its record comes to {made}, and the index has {count} of it")
        return answers[which]

    return expected


def _until_broken(file: str) -> Iterator[Found]:
    """The records of a file, as far as it can be read: what is missing then is told as missing."""
    try:
        yield from found_records(file)
    except ValueError:
        return


class _Block:
    """A block of which the documents are being read. places: for each reading of the tokenizer, where in the
    index's stream of tokens the next document may begin.
    """

    def __init__(self, index: DataIndex, i: int, readings: int) -> None:
        self.sample = i
        self._tokens = index.tokens
        self._begin, self._end = int(index.offsets[i]), int(index.offsets[i + 1])
        window = index.header.max_seq_len
        passed = (i - _first_of_record(index, i)) * window
        self._within = range(passed, passed + window)
        self._places: list[list[int] | None] = [None] * readings

    def take(self, reading: int, document: Sequence[int]) -> None:
        """The next document, with its begin and end tokens. Of the first one, the block may begin inside."""
        ids = np.array(document, dtype=np.int32)
        places = self._places[reading]
        if places is None:
            part = ids[self._within.start : self._within.stop]
            inside = np.flatnonzero(part == self._tokens[self._begin]) + self._within.start
            places = [self._begin - int(at) for at in inside if at <= self._begin]
        self._places[reading] = [at + len(ids) for at in places if self._fits(at, ids)]

    def _fits(self, at: int, ids: np.ndarray) -> bool:
        here = self._tokens[at : min(at + len(ids), self._end)]
        return bool(np.array_equal(here, ids[: len(here)]))

    @property
    def is_found(self) -> bool:
        """Whether one reading came to the end of the block."""
        return any(at >= self._end for places in self._places for at in places or ())

    @property
    def is_lost(self) -> bool:
        """Whether no reading fits."""
        return all(places == [] for places in self._places)

    @property
    def reading(self) -> int:
        """The first reading that came to the end of the block."""
        return next(n for n, places in enumerate(self._places) if any(at >= self._end for at in places or ()))


def _compare_blocks(
    index: DataIndex, tokenizers: Sequence[ReferenceTokenizer], chosen: Sequence[int], told: Comparison
) -> None:
    """Tokenise the documents that each sampled block covers, from the one it begins in, and find it there."""
    wanted: list[dict[int, list[int]]] = [{} for _ in index.files]
    for i in chosen:
        wanted[int(index.file_ids[i])].setdefault(int(index.numbers[i]), []).append(i)
    open_blocks: list[_Block] = []
    for file_id, file in enumerate(index.files):
        here = wanted[file_id]
        for found in _until_broken(file) if here or open_blocks else ():
            open_blocks += [_Block(index, i, len(tokenizers)) for i in here.pop(found.number, [])]
            if open_blocks:
                open_blocks = _feed(index, open_blocks, found, tokenizers, told)
            if not open_blocks and not here:
                break
        for i in (i for ids in here.values() for i in ids):
            told.compared += 1
            told.differ(index, i, "there is no such document in its file")
    for block in open_blocks:
        told.compared += 1
        told.differ(index, block.sample, "the files end before the documents of this block do")


def _feed(
    index: DataIndex,
    blocks: Sequence[_Block],
    found: Found,
    tokenizers: Sequence[ReferenceTokenizer],
    told: Comparison,
) -> list[_Block]:
    """Give a document to the open blocks. Returns those that are still open."""
    try:
        text = text_of(value_of(found), index.header.columns.get("text", "text"))
        told.characters += len(text)
        if told.characters > TOKENISED_CHARACTERS:
            raise NotComparable("their documents are too long to be tokenised in a few seconds")
        documents = [
            [*one.begin, *(token.id for token in one.encode([data(text)])), one.end] for one in tokenizers
        ]
    except (Unusable, ValueError):
        return list(blocks)  # left out of the index too; a block that begins here is not found
    except NotComparable as reason:
        for _ in blocks:
            told.pass_over(str(reason))
        return []
    still = []
    for block in blocks:
        for reading, document in enumerate(documents):
            if max(document) < index.header.tokenizer.vocabulary:
                block.take(reading, document)
        if block.is_found:
            _book_block(index, block, told)
        elif block.is_lost:
            told.compared += 1
            told.differ(index, block.sample, "its tokens are not those of the documents from there on")
        else:
            still.append(block)
    return still


def _book_block(index: DataIndex, block: _Block, told: Comparison) -> None:
    """The tokens are right: mask, counts and digests remain."""
    part = slice(int(index.offsets[block.sample]), int(index.offsets[block.sample + 1]))
    ids = index.tokens[part].tolist()
    told.judge(index, block.sample, lambda _: Expected(ids, [True] * len(ids), 0), 1)
    told.by_other_reading += block.reading > 0
