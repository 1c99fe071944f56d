"""From a chunk of records to token samples, and what is counted on the way. Nothing here remembers an earlier
chunk: any process may take any chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from crossfoot.data.findings import Problem
from crossfoot.data.lost_characters import LostCharacters
from crossfoot.data.over_long import sft_samples
from crossfoot.data.records import record_of
from crossfoot.data.samples import (
    Document,
    Encoder,
    Sample,
    Shape,
    Texts,
    documents,
    texts_of,
)
from crossfoot.data.special_text import NOTHING_SPELLED, SpelledRecord, SpelledRecords, SpelledTally
from crossfoot.data.unread_fields import count_unread
from crossfoot.index.chunks import Chunk
from crossfoot.index.columns import Columns, columns_of


@dataclass
class Part:
    """What a chunk came to. records: those read. unusable: seen before a token was made; untrainable: once it
    was tokenised. columns: of sft, documents: of pretrain. split_records, unread, special_text,
    template_text, lost (characters judged, lost, words): as in the header of the index.
    """

    file_id: int
    is_last: bool
    records: int = 0
    unusable: list[Problem] = field(default_factory=list)
    untrainable: list[Problem] = field(default_factory=list)
    columns: Columns | None = None
    split_records: int = 0
    documents: list[Document] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    special_text: SpelledRecords = NOTHING_SPELLED
    template_text: SpelledRecords = NOTHING_SPELLED
    lost: tuple[int, int, list[str]] = (0, 0, [])


class Tokeniser:
    """Makes parts of chunks."""

    def __init__(self, encoder: Encoder, shape: Shape) -> None:
        self._encoder = encoder
        self._shape = shape
        self._lost = LostCharacters(encoder.encode)  # it remembers words, no counts

    def __call__(self, chunk: Chunk) -> Part:
        """The samples (or documents) of a chunk, what is wrong with it, and its counts."""
        part = Part(chunk.file_id, chunk.is_last)
        batch = self._texts(chunk, part)
        samples: list[Sample] = []
        for made in self._made(batch):
            if isinstance(made, Sample):
                samples.append(made)
            elif isinstance(made, Document):
                part.documents.append(made)
            else:
                part.untrainable.append(made[1])
        part.columns = columns_of(samples) if samples else None
        part.split_records = sum(count > 1 for count in Counter(one.number for one in samples).values())
        self._count_spelled(batch, part)
        return part

    def _made(self, batch: Sequence[Texts]) -> Iterator[Sample | Document | tuple[int, Problem]]:
        if self._shape.task == "pretrain":
            return documents(batch, self._encoder)
        return sft_samples(batch, self._encoder, self._shape)

    def _texts(self, chunk: Chunk, part: Part) -> list[Texts]:
        """The texts of the good records; the others, and what is counted of texts, go into the part."""
        batch: list[Texts] = []
        for place, raw in enumerate(chunk.records, start=chunk.before + 1):
            if (record := record_of(raw)) is None:
                continue
            part.records += not (isinstance(record, Problem) and record.fatal)
            texts = record if isinstance(record, Problem) else texts_of(record, chunk.file_id, self._shape)
            if isinstance(texts, Problem):
                part.unusable.append(texts)
                continue
            batch.append(texts)
            count_unread(part.unread, texts.unread)
            self._lost.see(place, texts.written)
        part.lost = self._lost.taken()
        return batch

    def _count_spelled(self, batch: Iterable[Texts], part: Part) -> None:
        """Count the records that spell out a special token, or the template's marks; bad ones are none."""
        bad = {one.number for one in part.untrainable}
        ids = self._encoder.special.ids
        special = SpelledTally(ids)
        template = SpelledTally(mark for mark in self._shape.marks if mark not in ids)
        for texts in batch:
            if texts.number not in bad:
                for tally in (special, template):
                    if found := tally.in_record(texts.written):
                        tally.book(SpelledRecord(texts.file_id, texts.number, found))
        part.special_text, part.template_text = special.counted, template.counted
