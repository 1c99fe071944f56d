"""Data files as chunks of bounded size: read in order by one process, tokenised by any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crossfoot.data.findings import Problem
from crossfoot.data.line_files import Line
from crossfoot.data.record import Record, characters_in
from crossfoot.data.records import raw_records

CHUNK_RECORDS = 1000
CHUNK_BYTES = 1_000_000
"""A record that is larger is a chunk of its own."""


@dataclass(frozen=True)
class Chunk:
    """Records of one file, one after the other. before: how many were read earlier, in all files. is_last:
    the file has no more.
    """

    file_id: int
    before: int
    records: Sequence[Line | Record | Problem]
    is_last: bool


def chunks_of(files: Sequence[str]) -> Iterator[Chunk]:
    """The records of all files in their order; of each file at least one chunk, which may be empty."""
    before = 0
    for file_id, file in enumerate(files):
        held: list[Line | Record | Problem] = []
        held_bytes = 0
        for record in raw_records(file):
            size = _bytes_of(record)
            if len(held) >= CHUNK_RECORDS or (held and held_bytes + size > CHUNK_BYTES):
                yield Chunk(file_id, before, held, is_last=False)
                before += len(held)
                held, held_bytes = [], 0
            held.append(record)
            held_bytes += size
        yield Chunk(file_id, before, held, is_last=True)
        before += len(held)


def _bytes_of(record: Line | Record | Problem) -> int:
    """About its size."""
    if isinstance(record, Line):
        return len(record.raw or b"")
    return characters_in(record.value) if isinstance(record, Record) else 0
