"""Parquet files, row by row in bounded memory. pyarrow is imported where a file is read. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

from crossfoot.data.findings import Problem
from crossfoot.data.record import Record, is_beyond_reading, too_large

ROWS_AT_ONCE = 1000
BATCH_BYTES = 64 << 20
"""Of the rows that are in memory at once, by what the file says of their size."""
COLUMN_BYTES = 1 << 20
"""Read ahead of a column, no more: a row group may be as large as the file."""

Groups = Callable[[Sequence[int]], Sequence[tuple[int, int]]]
"""From the rows of each row group to the groups that are read, in order, and how many of their first rows."""


@dataclass(frozen=True)
class _Columns:
    """read: by name; heavy: those of which it is only known which row groups have any."""

    read: list[str]
    heavy: list[str]


def parquet_records(path: str, groups: Groups | None = None) -> Iterator[Record | Problem]:
    """One record a row. groups: which rows are read; None: all."""
    import pyarrow
    import pyarrow.parquet

    line = 0
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=COLUMN_BYTES) as file:
            names = file.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                yield Problem("CF513", 0, f"two columns have the name {twice}", fatal=True)
                return
            columns = _columns(file.schema_arrow)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            before = [0, *accumulate(sizes)]
            for group, rows in list(enumerate(sizes)) if groups is None else groups(sizes):
                line = before[group]
                for value in islice(_values(file, group, columns, rows), rows):
                    line += 1
                    yield too_large(line) if is_beyond_reading(value) else Record(line, value)
    except (pyarrow.ArrowException, OSError) as error:
        yield _broken(error, line)


def count_rows(path: str) -> int | Problem:
    """Rows, by the end of the file, or what is wrong with it."""
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        return _broken(error, 0)


def _columns(schema: Any) -> _Columns:
    """All columns: one that the task does not read is read too, to tell where it holds something."""
    heavy = [one.name for one in schema if _is_heavy(one.type)]
    return _Columns([name for name in dict.fromkeys(schema.names) if name not in heavy], heavy)


def _is_heavy(kind: Any) -> bool:
    """Pictures and sounds, and lists of numbers, which may be vectors of thousands."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_heavy(kind.value_type) or types.is_primitive(kind.value_type)
    if types.is_struct(kind):
        return any(_is_heavy(kind.field(place).type) for place in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _values(file: Any, group: int, columns: _Columns, rows: int) -> Iterator[dict[str, Any]]:
    metadata = file.metadata.row_group(group)
    chunks = [metadata.column(place) for place in range(metadata.num_columns)]
    there = {
        name: True
        for name in columns.heavy
        if any(_root(chunk) == name and _holds_something(chunk) for chunk in chunks)
    }
    read_bytes = sum(chunk.total_uncompressed_size for chunk in chunks if _root(chunk) in columns.read)
    fit, _ = divmod(BATCH_BYTES * max(1, metadata.num_rows), max(1, read_bytes))
    size = max(1, min(rows, ROWS_AT_ONCE, fit))
    for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=columns.read):
        for value in batch.to_pylist():
            yield {**value, **there}


def _root(chunk: Any) -> str:
    name: str = chunk.path_in_schema.partition(".")[0]
    return name


def _holds_something(chunk: Any) -> bool:
    """Whether a column of a row group has a value, as far as the file says."""
    statistics = chunk.statistics
    return statistics is None or not statistics.has_null_count or statistics.null_count < chunk.num_values


def _broken(error: Exception, line: int) -> Problem:
    return Problem("CF513", line, str(error).splitlines()[0], fatal=True)
