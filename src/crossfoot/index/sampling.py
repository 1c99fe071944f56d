"""Some records of a data file, spread evenly over it, or all of a small one.

Torch-free: Parquet and plain text are read here without `datasets`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.index.bad_data import Problem
from crossfoot.index.records import (
    FIELDS,
    Record,
    Task,
    first_character,
    kind_of,
    line_record,
    parquet_columns,
    read_records,
)

LONGEST_RECORD_BYTES = 1 << 20
"""A record longer than this is passed over when only some are looked at."""
BLOCK_BYTES = 1 << 17
GROUPS = 4
"""Row groups of a Parquet file that are looked into: each is read in one piece."""


@dataclass(frozen=True)
class Drawn:
    """A record as it was drawn; start: its first byte when its line is not known yet (line 0), else None."""

    found: Record | Problem
    start: int | None = None


def all_records(path: str, task: Task) -> Iterator[Drawn]:
    """Every record of a file, in order."""
    if kind_of(path) == ".parquet":
        return _rows(path, task, None)
    if kind_of(path) == ".txt":
        return _documents(path)
    return map(Drawn, read_records(path, task))


def some_records(path: str, task: Task, count: int) -> Iterator[Drawn]:
    """About `count` records, from places spread evenly over the file; the first one is always among them."""
    if kind_of(path) == ".parquet":
        return _rows(path, task, count)
    if kind_of(path) == ".json" and first_character(path) == b"[":
        return _items(path, task, count)
    return _lines(path, task, count)


def with_line(problem: Problem, path: str, start: int | None) -> Problem:
    """The problem with the line of its record, for which the file up to there is read."""
    if start is None:
        return problem
    line = 1
    with open(path, "rb") as stream:
        left = start
        while left and (block := stream.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            left -= len(block)
    return replace(problem, line=line)


def _documents(path: str) -> Iterator[Drawn]:
    with open(path, "rb") as stream:
        for line, raw in enumerate(stream, start=1):
            if (document := _document(raw, line)) is not None:
                yield Drawn(document)


def _document(raw: bytes, line: int) -> Record | Problem | None:
    """One line of plain text; None for a blank one."""
    bare = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
    try:
        text = bare.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        reason = f"byte 0x{byte:02x} does not belong to UTF-8 text"
        return Problem("CF504", line, reason, fatal=True)
    return Record(line, {"text": text}) if text.strip() else None


def _lines(path: str, task: Task, count: int) -> Iterator[Drawn]:
    """Lines that begin after evenly spread offsets, none twice."""
    is_text = kind_of(path) == ".txt"
    if is_text:
        yield from islice(_documents(path), 1)
    else:
        yield from map(Drawn, islice(read_records(path, task), 1))
    with open(path, "rb") as stream:
        last = 0
        for offset in _offsets(os.path.getsize(path), count):
            stream.seek(offset)
            rest = stream.readline(LONGEST_RECORD_BYTES)
            start = stream.tell()
            raw = stream.readline(LONGEST_RECORD_BYTES)
            if start <= last or not raw or _is_cut(rest) or _is_cut(raw):
                continue
            last = start
            found = _document(raw, 0) if is_text else line_record(raw, 0)
            if found is not None:
                yield Drawn(found, start)


def _offsets(size: int, count: int) -> Iterator[int]:
    """`count` - 1 offsets, evenly spread behind 0."""
    for place in range(1, count):
        offset, _rest = divmod(place * size, count)
        yield offset


def _is_cut(line: bytes) -> bool:
    return len(line) == LONGEST_RECORD_BYTES and not line.endswith(b"\n")


def _items(path: str, task: Task, count: int) -> Iterator[Drawn]:
    """Objects of a JSON list behind evenly spread offsets. Inside a text an object can only be guessed at, so
    that one counts which has a field of the task.
    """
    yield from map(Drawn, islice(read_records(path, task), 1))
    decoder = json.JSONDecoder()
    with open(path, "rb") as stream:
        last = 0
        for offset in _offsets(os.path.getsize(path), count):
            stream.seek(offset)
            block = stream.read(BLOCK_BYTES)
            drawn = _object(block, offset, task, decoder)
            if drawn is not None and drawn.start is not None and drawn.start > last:
                last = drawn.start
                yield drawn


def _object(block: bytes, offset: int, task: Task, decoder: json.JSONDecoder) -> Drawn | None:
    for match in islice(re.finditer(rb"\}\s*,\s*(?=\{)", block), 4):
        text = block[match.end() :].decode("utf-8", errors="ignore")
        try:
            value, _end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and any(field in value for field in FIELDS[task] if field != "input"):
            return Drawn(Record(0, value), offset + match.end())
    return None


def _rows(path: str, task: Task, count: int | None) -> Iterator[Drawn]:
    """Rows of a Parquet file: all, or the first ones of evenly spread row groups."""
    problem, names = parquet_columns(path, FIELDS[task])
    if problem is not None:
        yield Drawn(problem)
        return
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _rows_of(file, names, count)
    except (pyarrow.ArrowException, OSError) as error:
        yield Drawn(Problem("CF513", 0, str(error).splitlines()[0], fatal=True))


def _rows_of(file: Any, names: list[str], count: int | None) -> Iterator[Drawn]:
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    if count is None:
        wanted, rows = list(range(len(sizes))), None
    else:
        groups = max(1, min(len(sizes), GROUPS))
        wanted = sorted({round(place * (len(sizes) - 1) / max(1, groups - 1)) for place in range(groups)})
        rows = max(1, ceil_div(count, groups))
    for group in wanted:
        line = sum(sizes[:group])
        batches = file.iter_batches(batch_size=rows or 1000, row_groups=[group], columns=names)
        for batch in batches if rows is None else islice(batches, 1):
            for value in batch.to_pylist():
                line += 1
                yield Drawn(Record(line, value))
