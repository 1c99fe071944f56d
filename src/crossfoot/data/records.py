"""The reader of data files: record by record, each with its line, in bounded memory. Torch-free.

Whole files, a few of their records (sampling.py) and their number come from the functions here; how a kind of
file is read stands in line_files.py, json_list.py, tables.py and parquet.py. JSON is read by the json module
and nothing is guessed: a date stays the text that it is. Parquet carries its types.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from crossfoot.data.findings import Problem
from crossfoot.data.json_list import count_list, records_of_list
from crossfoot.data.line_files import Line, count_lines, lines_of
from crossfoot.data.numbering import is_json_list, kind_of
from crossfoot.data.packing import BROKEN, is_packed
from crossfoot.data.parquet import count_rows, parquet_records
from crossfoot.data.record import Record
from crossfoot.data.tables import TABLES, count_table, table_records

Task = Literal["sft", "pretrain"]
_KINDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
KINDS: dict[str, tuple[str, ...]] = {"sft": _KINDS, "pretrain": (*_KINDS, ".txt")}


def raw_records(path: str) -> Iterator[Line | Record | Problem]:
    """What one file holds, in order. Lines are not parsed yet: that may be done elsewhere (`record_of`)."""
    found = _records(path, kind_of(path))
    return _until_broken(found) if is_packed(path) else found


def _records(path: str, kind: str) -> Iterator[Line | Record | Problem]:
    if kind == ".parquet":
        return parquet_records(path)
    if kind in TABLES:
        return table_records(path)
    return records_of_list(path) if is_json_list(path) else lines_of(path, kind)


def _until_broken(found: Iterator[Line | Record | Problem]) -> Iterator[Line | Record | Problem]:
    last = 0
    try:
        for one in found:
            last = one.number
            yield one
    except BROKEN as error:
        yield broken_packing(error, last)


def broken_packing(error: Exception, last: int) -> Problem:
    """A packed file that breaks off behind its record `last`."""
    reason = f"it breaks off after {last:,} records: {str(error)[:1].lower()}{str(error)[1:]}"
    return Problem("CF526", 0, reason, fatal=True)


def record_of(raw: Line | Record | Problem) -> Record | Problem | None:
    """The record; None for a line that turns out blank."""
    return raw.record() if isinstance(raw, Line) else raw


def read_records(path: str) -> Iterator[Record | Problem]:
    """The records of one file, in order; what cannot be read comes as a Problem in its place."""
    return (record for record in map(record_of, raw_records(path)) if record is not None)


def count_file(path: str) -> int | Problem:
    """Records of one file, blank lines apart, or what is wrong with it; of a large file its beginning is
    counted. Lines are not parsed; a JSON list is, because braces inside texts make anything less unsafe.
    """
    kind = kind_of(path)
    try:
        if kind == ".parquet":
            return count_rows(path)
        if kind in TABLES:
            return count_table(path)
        return count_list(path) if is_json_list(path) else count_lines(path, kind)
    except BROKEN as error:
        return broken_packing(error, 0)
