"""Some records of a data file, spread evenly over it. Where they lie is decided here, how they are read in
records.py. Torch-free.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import BinaryIO

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.data.findings import Problem
from crossfoot.data.json_list import number_in_list
from crossfoot.data.line_files import line_record
from crossfoot.data.numbering import is_json_list, kind_of
from crossfoot.data.packing import is_packed
from crossfoot.data.parquet import parquet_records
from crossfoot.data.record import DECODER, LARGEST_RECORD_BYTES, Record, too_large
from crossfoot.data.records import read_records
from crossfoot.data.tables import TABLES

WHOLE_BYTES = 2 << 20
SOME_RECORDS = 200
"""Of files up to this size all records are looked at, of larger ones so many."""
LONGEST_RECORD_BYTES = 1 << 20
"""A record longer than this is passed over when only some are looked at."""
MOST_LONG_LINES = 8
"""Of those, so many at most are followed to see whether they are too large to be read at all."""
BLOCK_BYTES = 1 << 17
FAR_BYTES = 64 << 20
"""A JSON list is parsed so far, to number a record: in a second or two."""
GROUPS = 4
"""Row groups of a Parquet file that are looked into: each is read in one piece."""


@dataclass(frozen=True)
class Drawn:
    """A record as it was drawn; start: its first byte when its number is not known yet (0), else None."""

    found: Record | Problem
    start: int | None = None


def some_records(path: str, count: int) -> Iterator[Drawn]:
    """About `count` records, from places spread evenly over the file; the first one is always among them.
    Of a packed file, or a table, whose rows may have several lines, the first ones.
    """
    if is_packed(path) or kind_of(path) in TABLES:
        return map(Drawn, islice(read_records(path), count))
    if kind_of(path) == ".parquet":
        return map(Drawn, parquet_records(path, partial(_spread, count)))
    return _items(path, count) if is_json_list(path) else _lines(path, count)


def located(problem: Problem, path: str, start: int | None) -> Problem:
    """The problem with the number of its record, for which the file up to there is read; far into a JSON list
    its byte is told instead.
    """
    if start is None:
        return problem
    number, line = number_at(path, start)
    near = "" if number else f", near byte {start:,}"
    return replace(problem, number=number, line=line, reason=problem.reason + near)


def number_at(path: str, start: int) -> tuple[int, int]:
    """(number, line) of the record that begins at byte `start`, as a Problem has them. (0, 0): it lies too
    far into a JSON list.
    """
    if not is_json_list(path):
        return _line_at(path, start), 0
    return number_in_list(path, start) if start <= FAR_BYTES else (0, 0)


def _line_at(path: str, start: int) -> int:
    """The line on which byte `start` of the file lies; the file up to there is read."""
    line = 1
    with open(path, "rb") as stream:
        left = start
        while left and (block := stream.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            left -= len(block)
    return line


def _lines(path: str, count: int) -> Iterator[Drawn]:
    """Lines that begin after evenly spread offsets, none twice."""
    yield from map(Drawn, islice(read_records(path), 1))
    kind = kind_of(path)
    with open(path, "rb") as stream:
        last, looks = 0, MOST_LONG_LINES
        for offset in _offsets(os.path.getsize(path), count):
            stream.seek(offset)
            rest = stream.readline(LONGEST_RECORD_BYTES)
            if looks and _is_cut(rest):
                looks -= 1
                if _never_ends(stream):
                    looks = 0
                    yield Drawn(too_large(0), offset)
                continue
            start = stream.tell()
            raw = stream.readline(LONGEST_RECORD_BYTES)
            if start <= last or not raw or _is_cut(rest) or _is_cut(raw):
                continue
            last = start
            if (found := line_record(raw, 0, kind)) is not None:
                yield Drawn(found, start)


def _offsets(size: int, count: int) -> Iterator[int]:
    """`count` - 1 offsets, evenly spread behind 0."""
    for place in range(1, count):
        offset, _rest = divmod(place * size, count)
        yield offset


def _is_cut(line: bytes) -> bool:
    return len(line) == LONGEST_RECORD_BYTES and not line.endswith(b"\n")


def _never_ends(stream: BinaryIO) -> bool:
    """Whether the line that is being read is larger than any record that is read."""
    for _ in range(LARGEST_RECORD_BYTES // LONGEST_RECORD_BYTES):
        if not _is_cut(stream.readline(LONGEST_RECORD_BYTES)):
            return False
    return True


def _items(path: str, count: int) -> Iterator[Drawn]:
    """Objects of a JSON list behind evenly spread offsets. Inside a text an object can only be guessed at, so
    that one counts which has half of the fields of the first record.
    """
    first = list(islice(read_records(path), 1))
    yield from map(Drawn, first)
    value = first[0].value if first and isinstance(first[0], Record) else None
    names = frozenset(value if isinstance(value, dict) else ()) - {"input"}
    with open(path, "rb") as stream:
        last = 0
        for offset in _offsets(os.path.getsize(path), count):
            stream.seek(offset)
            block = stream.read(BLOCK_BYTES)
            drawn = _object(block, offset, names)
            if drawn is not None and drawn.start is not None and drawn.start > last:
                last = drawn.start
                yield drawn


def _object(block: bytes, offset: int, names: frozenset[str]) -> Drawn | None:
    for match in islice(re.finditer(rb"\}\s*,\s*(?=\{)", block), 4):
        text = block[match.end() :].decode("utf-8", errors="ignore")
        try:
            value, _end = DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and 2 * len(names & value.keys()) >= len(names):
            return Drawn(Record(0, value), offset + match.end())
    return None


def _spread(count: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Evenly spread row groups of a Parquet file, and their first rows: about `count` together."""
    groups = min(len(sizes), GROUPS)
    wanted = sorted({round(place * (len(sizes) - 1) / max(1, groups - 1)) for place in range(groups)})
    return [(group, max(1, ceil_div(count, groups))) for group in wanted]
