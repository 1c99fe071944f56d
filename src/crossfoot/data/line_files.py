"""Files with one record a line: JSON values, or plain text. Lines are read in bounded memory. Torch-free."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from crossfoot.data.findings import Problem
from crossfoot.data.packing import is_packed, open_bytes
from crossfoot.data.record import (
    DECODER,
    EXACT_BYTES,
    LARGEST_RECORD_BYTES,
    Record,
    too_large,
    undecodable,
    unparsable,
)

BLOCK_BYTES = 1 << 20


class Line(NamedTuple):
    """A line that is not blank, as it stands in its file; raw is None where it is too large to be read."""

    number: int
    raw: bytes | None
    kind: str

    def record(self) -> Record | Problem | None:
        """What it holds: one JSON value, or one document; None where it is blank after all."""
        if self.raw is None:
            return too_large(self.number)
        return line_record(self.raw, self.number, self.kind)


def lines_of(path: str, kind: str) -> Iterator[Line]:
    """The lines of a file that are not blank, not parsed yet."""
    with open_bytes(path) as stream:
        for number, raw in enumerate(_raw_lines(stream, kind), start=1):
            if raw is None or not raw.isspace():
                yield Line(number, raw, kind)


def count_lines(path: str, kind: str) -> int:
    """Lines that are not blank; of a file beyond EXACT_BYTES its beginning is counted. Nothing is parsed."""
    records, size, seen_bytes = 0, os.path.getsize(path), 0
    with open_bytes(path) as stream:
        for raw in _raw_lines(stream, kind):
            records += raw is None or bool(raw.strip())
            seen_bytes = stream.tell()
            if seen_bytes >= EXACT_BYTES and not is_packed(path):
                break
    return (
        records
        if is_packed(path) or seen_bytes >= size or not seen_bytes
        else round(records * size / seen_bytes)
    )


def _raw_lines(stream: Any, kind: str) -> Iterator[bytes | None]:
    """Lines with their ends; None for one that is too large, which is passed over. Of plain text \\r ends a
    line too; elsewhere \\n alone, as in the JSONL format.
    """
    ends = (b"\n", b"\r") if kind == ".txt" else (b"\n",)
    held, is_too_large = b"", False
    while block := stream.readline(BLOCK_BYTES):
        if block.endswith(b"\r") and stream.peek(1).startswith(b"\n"):
            block += stream.read(1)  # the block ended between the two
        for part in block.splitlines(keepends=True) if kind == ".txt" and b"\r" in block else (block,):
            held = held + part if held else part
            if len(held) > LARGEST_RECORD_BYTES:
                held, is_too_large = b"", True
            if part.endswith(ends):
                yield None if is_too_large else held
                held, is_too_large = b"", False
    if held or is_too_large:
        yield None if is_too_large else held


def line_record(raw: bytes, line: int, kind: str) -> Record | Problem | None:
    """What one line of a file of this kind holds; None for a blank line."""
    bare = raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
    if not bare.strip():
        return None
    try:
        text = bare.decode("utf-8")
    except UnicodeDecodeError as error:
        return undecodable(line, error)
    if kind == ".txt":
        return Record(line, {"text": text.rstrip("\r\n")}) if text.strip() else None
    try:
        return Record(line, DECODER.decode(text.rstrip()))
    except (ValueError, RecursionError) as error:
        return unparsable(error, line, getattr(error, "colno", 0))
