"""A second, small reader of data files, to hold an index against them. It shares no code with the reader that
the index is built with (`records.py`), and looks only at files that one has accepted.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Iterator
from typing import IO, Any, AnyStr, NamedTuple

WINDOW_CHARACTERS = 1 << 20
LONGEST_BYTES = 16 << 20
"""A longer line is no record of an index: it was left out."""
ROWS_AT_ONCE = 100
_BLANK = " \t\r\n"


class _Row(NamedTuple):
    """A row of a Parquet file that is not made into Python values yet."""

    table: Any
    number: int


class Found(NamedTuple):
    """A record as it is met. number: its line in a file of lines, its row in Parquet, its place in a JSON
    list, from 1. raw: for `value_of`.
    """

    number: int
    raw: Any


def found_records(path: str) -> Iterator[Found]:
    """The records of a data file, in order. Raises OSError, ValueError, or pyarrow's errors when it cannot be
    read.
    """
    bare = path.lower()
    ending = os.path.splitext(bare[:-3] if bare.endswith(".gz") else bare)[1]
    if ending == ".parquet":
        return _rows(path)
    if ending == ".txt":
        return _plain_lines(path)
    if ending in (".csv", ".tsv"):
        return _cells(path)
    return _listed(path) if ending == ".json" and _is_list(path) else _json_lines(path)


def value_of(found: Found) -> Any:
    """What a record says. Raises ValueError when it is not JSON."""
    if isinstance(found.raw, bytes):
        return json.loads(found.raw.decode("utf-8").rstrip())
    if isinstance(found.raw, _Row):
        table, number = found.raw
        return {name: table.column(name)[number].as_py() for name in table.schema.names}
    return found.raw


def _opened(path: str, newline: str | None = None) -> IO[str]:
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return open(path, encoding="utf-8-sig", newline=newline)


def _cells(path: str) -> Iterator[Found]:
    csv.field_size_limit(LONGEST_BYTES)
    with _opened(path, newline="") as stream:
        first = stream.readline()
        counts = {mark: first.count(mark) for mark in ",;\t"}
        delimiter = max(counts, key=lambda mark: counts[mark])
        stream.seek(0)
        for row, cells in enumerate(csv.DictReader(stream, delimiter=delimiter), start=1):
            yield Found(row, {name: cell for name, cell in cells.items() if cell})


def _is_list(path: str) -> bool:
    with _opened(path) as stream:
        while block := stream.read(4096):
            if begins := block.lstrip(_BLANK):
                return begins[0] == "["
    return False


def _json_lines(path: str) -> Iterator[Found]:
    opens: Any = gzip.open if path.lower().endswith(".gz") else open
    with opens(path, "rb") as stream:
        for line, raw in enumerate(_bounded(stream), start=1):
            bare = raw[3:] if line == 1 and raw.startswith(b"\xef\xbb\xbf") else raw
            if bare.strip():
                yield Found(line, bare)


def _plain_lines(path: str) -> Iterator[Found]:
    with _opened(path) as stream:
        for line, text in enumerate(_bounded(stream), start=1):
            if text.strip():
                yield Found(line, {"text": text.removesuffix("\n")})


def _bounded(stream: IO[AnyStr]) -> Iterator[AnyStr]:
    """Lines; of one that is longer than any record its beginning."""
    while line := stream.readline(LONGEST_BYTES + 1):
        yield line
        while len(line) > LONGEST_BYTES and line[-1:] not in ("\n", b"\n"):
            line = stream.readline(LONGEST_BYTES + 1)


def _rows(path: str) -> Iterator[Found]:
    import pyarrow.parquet

    line = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        names = [one.name for one in file.schema_arrow if "binary" not in str(one.type)]
        for table in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
            for number in range(table.num_rows):
                line += 1
                yield Found(line, _Row(table, number))


def _listed(path: str) -> Iterator[Found]:
    """The values of a JSON list. A value that does not parse ends where the window ends: then more is read.

    Raises ValueError when the list breaks off.
    """
    decode = json.JSONDecoder().raw_decode
    with _opened(path, newline="") as stream:
        text = stream.read(WINDOW_CHARACTERS)
        while "[" not in text and (more := stream.read(WINDOW_CHARACTERS)):
            text += more
        at = text.index("[") + 1
        number = 0
        while True:
            while at < len(text) and text[at] in _BLANK + ",":
                at += 1
            if text[at : at + 1] == "]":
                return
            broken = None
            try:
                value, end = decode(text, at)
            except ValueError as error:
                broken, end = error, len(text)
            if end == len(text):  # cut off by the window, or not known to be whole
                more = stream.read(max(WINDOW_CHARACTERS, len(text) - at))
                if not more:
                    raise broken or ValueError("the list is not closed")
                text, at = text[at:] + more, 0
                continue
            number += 1
            yield Found(number, value)
            at = end
