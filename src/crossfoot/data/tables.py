"""Tables as text: CSV, with a header, and tabs, commas or semicolons between. Torch-free."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from itertools import islice

from crossfoot.data.findings import Problem
from crossfoot.data.packing import UTF8, is_packed, open_bytes, open_text
from crossfoot.data.record import EXACT_BYTES, LARGEST_RECORD_BYTES, Record

TABLES = (".csv", ".tsv")


def header_of(path: str, encoding: str = UTF8) -> list[str]:
    """The names of the columns. Raises UnicodeDecodeError and csv.Error."""
    with open_text(path, encoding) as stream:
        return next(csv.reader(stream, delimiter=_delimiter(path), strict=True), [])


def table_records(path: str, encoding: str = UTF8) -> Iterator[Record | Problem]:
    """A record for each row: its cells that are not empty, by the names in the header. Rows are numbered
    from 1 behind the header.
    """
    csv.field_size_limit(LARGEST_RECORD_BYTES)
    number, line = 0, 1
    with open_text(path, encoding) as stream:
        rows = csv.reader(stream, delimiter=_delimiter(path), strict=True)
        try:
            header = next(rows, [])
            if twice := next((name for name in header if header.count(name) > 1), None):
                yield Problem("CF527", 0, f"two columns have the name {twice!r}", fatal=True)
                return
            while True:
                line = rows.line_num + 1
                row = next(rows, None)
                if row is None:
                    return
                if not row:
                    continue
                number += 1
                if len(row) != len(header):
                    reason = f"it has {len(row)} cells, and the header has {len(header)}"
                    yield Problem("CF527", number, reason, fatal=True, line=line)
                    return
                yield Record(
                    number, {name: cell for name, cell in zip(header, row, strict=True) if cell}, line
                )
        except csv.Error as error:
            yield Problem("CF527", number + 1, str(error), fatal=True, line=line)
        except UnicodeDecodeError as error:
            reason = f"byte 0x{error.object[error.start]:02x} does not belong to {encoding} text"
            yield Problem("CF504", 0, reason, fatal=True, line=_undecodable_line(path, encoding))


def _undecodable_line(path: str, encoding: str) -> int:
    """The first: text is decoded in blocks, ahead of the rows. 0 where the encoding has wide line ends."""
    with open_bytes(path) as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                raw.decode(encoding)
            except UnicodeDecodeError:
                return 0 if encoding.startswith(("UTF-16", "UTF-32")) else number
    return 0


def count_table(path: str) -> int | Problem:
    """Rows, of a large file by the size of the first ones; or what is wrong with it."""
    size = os.path.getsize(path)
    found = table_records(path)
    if size > EXACT_BYTES and not is_packed(path):
        return round(size * _FIRST_ROWS / max(1, _bytes_of_first(path)))
    records = 0
    for one in found:
        if isinstance(one, Problem):
            return one
        records += 1
    return records


_FIRST_ROWS = 10_000


def _bytes_of_first(path: str) -> int:
    records = islice(table_records(path), _FIRST_ROWS)
    return sum(
        len(",".join(one.value.values()).encode(errors="ignore")) + 1
        for one in records
        if isinstance(one, Record)
    )


def _delimiter(path: str) -> str:
    """The one that the header has most of; of none a comma."""
    with open_bytes(path) as stream:
        header = stream.readline(1 << 16)
    return max(",;\t", key=lambda one: header.count(one.encode()))
