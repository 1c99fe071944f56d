"""Following a ledger while another process writes it: only what is new is read, by byte offset."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from crossfoot.documents import Malformed, open_file
from crossfoot.findings.finding import Finding
from crossfoot.ledger.entry import StepEntry, entry_of
from crossfoot.ledger.findings import ledger_missing, line_damaged
from crossfoot.phrases import said_by

_CHUNK_BYTES = 1 << 18
_LARGEST_TAIL_BYTES = 1 << 24


class News(NamedTuple):
    """What a look at the ledger gave. is_anew: it is another file or was cut back; forget what was before."""

    entries: list[StepEntry]
    is_anew: bool


class LedgerFollower:
    """Reads a ledger's whole lines once each, in file order. A line without its newline is waited for.

    tail_lines: begin near the end, with about so many lines at first; None: with the first line. A line that
    cannot be read holds the reading up and is tried again with every look: on shared storage a line may be
    seen before its bytes are, and a continued run cuts damaged ones off.
    """

    def __init__(self, path: str, tail_lines: int | None = None) -> None:
        self.path = path
        self.finding: Finding | None = None
        """Why the reading stands still: a damaged line, or a file that may not be read."""
        self._tail_lines = tail_lines
        self._forget()

    @property
    def share(self) -> float:
        """How much of the file has been read, 0 to 1, as of the last look."""
        return min(1.0, self._offset / self.size_bytes) if self.size_bytes else 1.0

    def look(self, seconds: float = float("inf")) -> News:
        """The new lines, as many as can be read in about so many seconds."""
        self.finding = None
        try:
            descriptor = open_file(self.path)
        except FileNotFoundError:
            is_anew = self._offset > 0
            self._forget()
            return News([], is_anew)
        except OSError as error:
            self.finding = ledger_missing(self.path, False, said_by(error))
            return News([], False)
        try:
            return self._read(descriptor, time.monotonic() + seconds)
        except OSError as error:
            self.finding = ledger_missing(self.path, False, said_by(error))
            return News([], False)
        finally:
            os.close(descriptor)

    @property
    def is_caught_up(self) -> bool:
        """Whether all whole lines that were there at the last look have been read."""
        return self._is_caught_up

    def _forget(self) -> None:
        self._offset = self.size_bytes = self._lines = 0
        self._last_line = b""
        self._file: tuple[int, int] | None = None
        self._is_caught_up = True

    def _read(self, descriptor: int, deadline: float) -> News:
        found = os.fstat(descriptor)
        is_anew = self._file is not None and not self._is_same(descriptor, found)
        if is_anew:
            self._forget()
        if self._file is None and self._tail_lines is not None:
            self._offset = _tail_offset(descriptor, found.st_size, self._tail_lines)
        self._file, self.size_bytes = (found.st_dev, found.st_ino), found.st_size
        entries: list[StepEntry] = []
        chunk_bytes = _CHUNK_BYTES
        self._is_caught_up = False
        while not self._is_caught_up and self.finding is None:
            chunk = os.pread(descriptor, chunk_bytes, self._offset)
            end = chunk.rfind(b"\n") + 1
            if end:
                self._take(chunk[: end - 1].split(b"\n"), entries)
            if len(chunk) < chunk_bytes:
                self._is_caught_up = self.finding is None
            elif not end:
                chunk_bytes *= 2
            if time.monotonic() >= deadline:
                break
        return News(entries, is_anew)

    def _take(self, lines: list[bytes], entries: list[StepEntry]) -> None:
        for line in lines:
            try:
                entry = entry_of(line)
            except Malformed as error:
                self.finding = line_damaged(self.path, self._lines + 1, str(error))
                return
            entries.append(entry)
            self._offset += len(line) + 1
            self._lines += 1
            self._last_line = line

    def _is_same(self, descriptor: int, found: os.stat_result) -> bool:
        """Whether the last line read is still where it was read."""
        if self._file != (found.st_dev, found.st_ino) or found.st_size < self._offset:
            return False
        start = self._offset - len(self._last_line) - 1
        return not self._last_line or os.pread(descriptor, len(self._last_line), start) == self._last_line


def _tail_offset(descriptor: int, size_bytes: int, lines: int) -> int:
    """Where the last lines begin: at least so many, or all, or those that fit into 16 MiB."""
    tail_bytes = _CHUNK_BYTES
    while tail_bytes < size_bytes:
        tail = os.pread(descriptor, tail_bytes, size_bytes - tail_bytes)
        if tail.count(b"\n") > lines or tail_bytes >= _LARGEST_TAIL_BYTES:
            return size_bytes - tail_bytes + tail.find(b"\n") + 1
        tail_bytes *= 2
    return 0
