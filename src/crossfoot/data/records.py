"""The reader of data files: record by record, each with its line, in bounded memory. Torch-free.

Whole files, a few of their records (sampling.py) and their number come from the functions here; how a kind of
file is read stands in line_files.py, json_list.py and parquet.py. JSON is read by the json module and nothing
is guessed: a date stays the text that it is. Parquet carries its types.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from crossfoot.data.findings import Problem
from crossfoot.data.json_list import count_list, records_of_list
from crossfoot.data.line_files import Line, count_lines, lines_of
from crossfoot.data.numbering import is_json_list, kind_of
from crossfoot.data.parquet import count_rows, parquet_records
from crossfoot.data.record import Record

Task = Literal["sft", "pretrain"]
FIELDS: dict[str, tuple[str, ...]] = {"sft": ("instruction", "input", "output"), "pretrain": ("text",)}
KINDS: dict[str, tuple[str, ...]] = {
    "sft": (".json", ".jsonl", ".parquet"),
    "pretrain": (".json", ".jsonl", ".parquet", ".txt"),
}


def raw_records(path: str, task: Task) -> Iterator[Line | Record | Problem]:
    """What one file holds, in order. Lines are not parsed yet: that may be done elsewhere (`record_of`)."""
    kind = kind_of(path)
    if kind == ".parquet":
        return parquet_records(path, FIELDS[task])
    return records_of_list(path) if is_json_list(path) else lines_of(path, kind)


def record_of(raw: Line | Record | Problem) -> Record | Problem | None:
    """The record; None for a line that turns out blank."""
    return raw.record() if isinstance(raw, Line) else raw


def read_records(path: str, task: Task) -> Iterator[Record | Problem]:
    """The records of one file, in order; what cannot be read comes as a Problem in its place."""
    return (record for record in map(record_of, raw_records(path, task)) if record is not None)


def count_file(path: str, task: Task) -> int | Problem:
    """Records of one file, blank lines apart, or what is wrong with it; of a large file its beginning is
    counted. Lines are not parsed; a JSON list is, because braces inside texts make anything less unsafe.
    """
    if kind_of(path) == ".parquet":
        return count_rows(path)
    if not is_json_list(path):
        return count_lines(path, kind_of(path))
    return count_list(path)
