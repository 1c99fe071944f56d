"""Lines of JSON that are kept one by one as they come, behind one that says of what they are made: a command
that was killed goes on with them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from crossfoot import durable
from crossfoot.documents import Malformed, open_file, parse_object, plain
from crossfoot.output import escaped

_NOT_IN_A_LINE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SYNC_EVERY = 64


@dataclass(frozen=True)
class Lines:
    """What a file holds. first: of what the others are made; None where no line is whole. torn_bytes: of a
    last line without an end, which is left out.
    """

    first: dict[str, Any] | None
    rest: tuple[dict[str, Any], ...]
    torn_bytes: int


def lines_of(content: bytes) -> Lines:
    """Raises Malformed, whose line says which."""
    whole, end, torn = content.rpartition(b"\n")
    values = []
    for number, line in enumerate((whole + end).splitlines(), start=1):
        try:
            values.append(parse_object(line))
        except Malformed as error:
            raise Malformed(str(error), number, error.column) from error
    return Lines(values[0] if values else None, tuple(values[1:]), len(torn))


class LineFile:
    """A file of lines, open for this process alone. before: what was there; first: its first line."""

    def __init__(self, path: str, first: Mapping[str, Any]) -> None:
        """first: the first line, where nothing stands behind one yet. A torn last line is cut off. Raises
        BlockingIOError where another process writes it, any other OSError, and Malformed.
        """
        self.path = path
        self._file: IO[bytes] = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            durable.lock(self._file.fileno())
            self._file.seek(0)
            content = self._file.read()
            self.before = lines_of(content)
            self._whole_bytes = len(content) - self.before.torn_bytes if self.before.rest else 0
            self._unsynced = 0
            self._file.truncate(self._whole_bytes)
            self.first = dict(first) if not self.before.rest else self.before.first or {}
            if not self.before.rest:
                self.append(first)
                durable.sync(os.path.dirname(path) or ".")
        except BaseException:
            self._file.close()
            raise

    def append(self, value: Mapping[str, Any]) -> None:
        """One line, whole or not at all; now and then all of them are made durable. Raises OSError."""
        line = memoryview((line_of(value) + "\n").encode("utf-8"))
        try:
            written = 0
            while written < len(line):  # more than once only when the disk is nearly full
                written += self._file.write(line[written:])
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._whole_bytes)
            raise
        self._whole_bytes += len(line)
        self._unsynced += 1
        if self._unsynced == _SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """A power cut takes nothing of what is there. Raises OSError."""
        durable.sync_open(self._file.fileno())
        self._unsynced = 0

    def close(self) -> None:
        """Another process may write it."""
        self._file.close()


def append_line(path: str, value: Mapping[str, Any]) -> None:
    """A line at the end of a file that holds nothing but such lines, for one writer. One that a crash has
    torn is ended first, and stays unread. Raises OSError.
    """
    line = json.dumps(plain(value), allow_nan=False) + "\n"
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode())


def readable_lines(path: str) -> Iterator[dict[str, Any]]:
    """The lines of such a file, none where there is none. Those that nobody can read are left out: what they
    said is lost, so no number may hang on all of them being there.
    """
    with suppress(OSError), open(open_file(path), "rb") as file:
        for line in file:
            with suppress(Malformed):
                yield parse_object(line)


def line_of(value: Mapping[str, Any]) -> str:
    """A line of JSON: letters of all scripts as they are; what would end a line elsewhere as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_IN_A_LINE.sub(lambda found: escaped(found[0]), text)
