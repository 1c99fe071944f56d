"""A file that is one JSON list, read record by record through a window that slides over it. Torch-free."""

from __future__ import annotations

import codecs
import io
import json
import os
from collections.abc import Iterator
from typing import Any, TextIO

from crossfoot.data.findings import Problem
from crossfoot.data.packing import is_packed, open_bytes, open_text
from crossfoot.data.record import (
    DECODER,
    EXACT_BYTES,
    LARGEST_RECORD_BYTES,
    Record,
    too_large,
    undecodable,
    unparsable,
)

READ_CHARACTERS = 1 << 20
PARSED_BYTES = 16 << 20
"""Of a list that is too large to be counted whole: it takes about a second."""


class _TooLarge(Exception):
    """The record that begins here is larger than any that is read."""


class _ArrayText:
    """A JSON list read through a sliding window: at most a few records are in memory. Knows line and
    column.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._position = 0
        self._decoder = DECODER
        self._at_end = False
        self.line = 1
        self.column = 1

    def _fill(self) -> bool:
        """Read on, doubling what is held; False at the end of the file. Raises _TooLarge."""
        held = self._text[self._position :]
        if _is_too_large(held):
            raise _TooLarge
        more = self._stream.read(max(READ_CHARACTERS, len(held)))
        self._at_end = not more
        self._text, self._position = held + more, 0
        return bool(more)

    def _advance(self, position: int) -> None:
        passed = self._text[self._position : position]
        newlines = passed.count("\n")
        self.line += newlines
        self.column = len(passed) - passed.rfind("\n") if newlines else self.column + len(passed)
        self._position = position

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            position = self._position
            while position < len(self._text) and self._text[position] in " \t\r\n":
                position += 1
            self._advance(position)
            if position < len(self._text):
                return self._text[position]
            if not self._fill():
                return ""

    def skip_character(self) -> None:
        """Pass the character that peek showed."""
        self._advance(self._position + 1)

    def value(self) -> Any:
        """The JSON value that starts here. Raises ValueError with line and column at the spot that is
        wrong, _TooLarge.
        """
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                # The window may end inside the record: only an error well before its end is certain.
                cut = error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if cut and not self._at_end:
                    self._fill()
                    continue
                self._advance(error.pos)
                raise
            if end == len(self._text) and not self._at_end:
                self._fill()
                continue
            if _is_too_large(self._text[self._position : end]):
                raise _TooLarge
            self._advance(end)
            return value


def _is_too_large(text: str) -> bool:
    return 4 * len(text) > LARGEST_RECORD_BYTES and len(text.encode(errors="ignore")) > LARGEST_RECORD_BYTES


def records_of_list(path: str) -> Iterator[Record | Problem]:
    """The records of a JSON list, each with its number and the line on which it starts. Reading stops at the
    first broken spot, and at a record that is too large.
    """
    with open_text(path) as stream:
        yield from _array_values(_ArrayText(stream), path)


def number_in_list(path: str, start: int) -> tuple[int, int]:
    """(number, line) of the record of a JSON list that begins at byte `start`; the file is parsed up to
    there.
    """
    text = _beginning(path, start)
    number = 1 + sum(isinstance(one, Record) for one in _array_values(text, path))
    return number, text.line


def count_list(path: str) -> int | Problem:
    """The records of a JSON list, or what is wrong with it; of a file beyond EXACT_BYTES its beginning alone
    is parsed.
    """
    size = os.path.getsize(path)
    is_whole = size <= EXACT_BYTES or is_packed(path)
    found = records_of_list(path) if is_whole else _array_values(_beginning(path, PARSED_BYTES), path)
    records, last = 0, None
    for last in found:
        records += isinstance(last, Record)
    if isinstance(last, Problem) and (is_whole or not records):
        return last
    return records if is_whole else round(records * size / PARSED_BYTES)


def _beginning(path: str, size: int) -> _ArrayText:
    """The first bytes of a file, as text; a character that is cut off at their end is left out."""
    with open_bytes(path) as stream:
        before = io.BytesIO(stream.read(size))
    return _ArrayText(io.TextIOWrapper(before, encoding="utf-8-sig", errors="ignore", newline=""))


def _array_values(text: _ArrayText, path: str) -> Iterator[Record | Problem]:
    number = 1
    try:
        text.peek()
        text.skip_character()
        if text.peek() == "]":
            text.skip_character()
        else:
            while True:
                text.peek()
                line = text.line
                yield Record(number, text.value(), line)
                after = text.peek()
                if after not in (",", "]"):
                    reason = "expected a comma or ]" if after else "the file ends before its list is closed"
                    yield _broken(number, reason, text)
                    return
                text.skip_character()
                if after == "]":
                    break
                number += 1
        if text.peek():
            yield _broken(number, "text after the end of the list", text)
    except _TooLarge:
        yield too_large(number, text.line, fatal=True)
    except UnicodeDecodeError:
        yield _find_undecodable(path, number)
    except (ValueError, RecursionError) as error:
        yield unparsable(error, number, text.column, text.line)


def _broken(number: int, reason: str, text: _ArrayText) -> Problem:
    return Problem("CF503", number, reason, text.column, fatal=True, line=text.line)


def _find_undecodable(path: str, number: int) -> Problem:
    """The line of the first byte that is not UTF-8, after a reader has met one. A lone carriage return ends a
    line too.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, last = 1, ""
    with open_bytes(path) as stream:
        while block := stream.read(1 << 20):
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                text = error.object[: error.start].decode("utf-8", errors="ignore")
                return undecodable(number, error, line + _line_ends(last, text))
            line += _line_ends(last, text)
            last = text[-1:] or last
    return Problem("CF504", number, "the file ends inside a character", fatal=True, line=line)


def _line_ends(last: str, text: str) -> int:
    """Line ends in text: \\n, \\r\\n or \\r; `last` is the character before it (a \\r\\n may be cut in
    two).
    """
    halves = text.count("\r\n") + (last == "\r" and text.startswith("\n"))
    return text.count("\n") + text.count("\r") - halves
