"""The append-only book: one line per optimizer step, written whole or not at all.

One process writes (rank 0). A line counts once its newline is there: a crash can only tear the last one,
which readers leave out and say so. `append` hands the line to the operating system; only `fsync` makes it
survive a power cut.

The writer does not trust that it is alone: before every line it looks whether the file is as it left it.
Lines that an earlier attempt has added meanwhile may stay, since they do not count; a line of this attempt or
a later one, or a file that was cut, ends the writing.

All attempts at a run append to one book. A checkpoint makes it durable first, so what a crash tears or a
power cut damages stands after the last line that the checkpoint vouches for. Those steps are computed again:
when the book is opened for continuing, it is cut back to the last line that can be read. Damage before the
checkpoint's last line is no crash's: such a book is refused.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterable

from crossfoot import durable
from crossfoot.documents import Malformed, open_file
from crossfoot.durable import sync, sync_open
from crossfoot.findings.finding import Finding, Refused
from crossfoot.ledger.entry import StepEntry, entry_of
from crossfoot.ledger.findings import (
    disk_full,
    last_line_torn,
    ledger_cut,
    ledger_missing,
    ledger_shared,
    ledger_unwritable,
    line_damaged,
)
from crossfoot.phrases import said_by, step_name

CUT_FILE = "ledger-cut.jsonl"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class BookLines(list[StepEntry]):
    """The lines of a ledger in file order, as far as they can be read.

    torn: says so when an unfinished last line was left out, else None. damage: one finding for each line that
    cannot be read; the lines end before the first of them. whole_bytes: size of the file up to and with the
    last line that is here.
    """

    def __init__(
        self,
        entries: Iterable[StepEntry] = (),
        torn: Finding | None = None,
        damage: tuple[Finding, ...] = (),
        whole_bytes: int = 0,
    ) -> None:
        super().__init__(entries)
        self.torn = torn
        self.damage = damage
        self.whole_bytes = whole_bytes


class LedgerBook:
    """The ledger of one run, open for appending. Opening cuts off a torn last line that a crash has left.

    whole_bytes: cut back to this size, from `read_readable`, when lines before the last are damaged too.
    keep_in: a folder that gets the damaged lines that are cut off (CUT_FILE). successor: asked before every
    line, a later attempt at the run that has begun, None while there is none. Raises Refused (CF701: disk
    full; CF702: any other reason why it cannot be written).
    """

    def __init__(
        self,
        path: str,
        *,
        whole_bytes: int | None = None,
        keep_in: str | None = None,
        successor: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.path = path
        self._successor = successor
        self.cut: Finding | None = None
        """The note about what was cut off when it was opened (CF749), None when nothing was."""
        self.last_step: int | None = None
        """The last step this object has written, None before the first."""
        self.last_durable_step: int | None = None
        """The last step this object has fsynced."""
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._good_bytes = _end_of_last_line(self._descriptor)
            if whole_bytes is not None:
                self._good_bytes = min(self._good_bytes, whole_bytes)
            self._cut_back(keep_in)
        except OSError as error:
            self._drop_descriptor()
            raise self._refusal(error, "be opened") from error
        self._is_torn = False
        self._is_folder_synced = False

    def append(self, entry: StepEntry) -> None:
        """Write the step's line: one write, nothing buffered here.

        When the disk is full or fails, what was written of the line is cut off again and Refused says what is
        safe. Refused (CF754) and nothing is written when another process writes this ledger.
        """
        line = memoryview(entry.to_line().encode("utf-8"))
        try:
            self._refuse_company(entry.attempt)
            if (
                self._is_torn
            ):  # the last failure could not be cleaned up then; without it now no line may follow
                os.ftruncate(self._descriptor, self._good_bytes)
                self._is_torn = False
            written = 0
            while written < len(line):  # more than once only when the disk is nearly full
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            self._cut_off()
            with contextlib.suppress(Refused):
                self.fsync()  # so that the refusal can say that what was written before is safe
            raise self._refusal(error, f"take the line of {step_name(entry.step)}") from error
        self._good_bytes += len(line)
        self.last_step = entry.step

    def fsync(self) -> None:
        """Make every appended line survive a power cut, the file's name too. Raises Refused."""
        try:
            sync_open(self._descriptor)
            if not self._is_folder_synced:
                sync(os.path.dirname(self.path) or ".")
                self._is_folder_synced = True
        except OSError as error:
            raise self._refusal(error, "be made durable") from error
        self.last_durable_step = self.last_step

    def close(self) -> None:
        """Fsync and close; a second call does nothing."""
        if self._descriptor < 0:
            return
        try:
            self.fsync()
        finally:
            self._drop_descriptor()

    def _drop_descriptor(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _cut_back(self, keep_in: str | None) -> None:
        """Cut off what stands after the last good line, durably, and note it. Raises OSError."""
        size_bytes = os.fstat(self._descriptor).st_size
        if size_bytes <= self._good_bytes:
            return
        tail = os.pread(self._descriptor, size_bytes - self._good_bytes, self._good_bytes)
        lines = tail.count(b"\n")
        kept = os.path.join(keep_in, CUT_FILE) if keep_in is not None and lines else None
        if kept is not None:
            durable.replace(kept, tail)
        os.ftruncate(self._descriptor, self._good_bytes)
        sync_open(self._descriptor)
        number = os.pread(self._descriptor, self._good_bytes, 0).count(b"\n") + 1
        self.cut = ledger_cut(self.path, number, len(tail), lines, kept)

    def _refuse_company(self, attempt: int) -> None:
        """Refused when a later attempt has begun, or the file is not as it was left, and not for lines of
        earlier attempts alone. Raises OSError.
        """
        notes: tuple[str, ...] = ()
        added_bytes = os.fstat(self._descriptor).st_size - self._good_bytes
        if (later := self._successor()) is not None:
            notes = (f"attempt {later} has begun, and this process belongs to attempt {attempt}",)
        elif added_bytes < 0:
            notes = (f"{-added_bytes:,} bytes of what was written are not there any more",)
        elif added_bytes and not self._is_torn:
            *lines, rest = os.pread(self._descriptor, added_bytes, self._good_bytes).split(b"\n")
            if rest or any(_attempt_of(line) >= attempt for line in lines):
                notes = (f"{added_bytes:,} bytes were added that this process did not write",)
            self._good_bytes += added_bytes
        if notes:
            raise Refused(ledger_shared(self.path, notes))

    def _cut_off(self) -> None:
        """Take back what was written of an unfinished line, if the file lets us."""
        try:
            os.ftruncate(self._descriptor, self._good_bytes)
        except OSError:
            self._is_torn = True

    def _refusal(self, error: OSError, deed: str) -> Refused:
        written = "no step" if self.last_step is None else f"all up to {step_name(self.last_step)}"
        durable = (
            "none of them" if self.last_durable_step is None else f"up to {step_name(self.last_durable_step)}"
        )
        notes = [f"the system says: {said_by(error)}"]
        if self._descriptor >= 0 or self.last_step is not None:
            notes.append(
                f"since this run opened it, {written} is in the ledger; safe against a power cut: {durable}"
            )
        refuse = disk_full if error.errno in _FULL else ledger_unwritable
        return Refused(refuse(self.path, deed, tuple(notes)))


def read_book(path: str) -> BookLines:
    """The ledger's lines in file order, a list; `.torn` reports an unfinished last line, which is left out.

    Raises Refused, unreadable: CF703 there is no ledger, CF704 lines that cannot be read, each named.
    """
    lines = read_readable(path)
    if lines.damage:
        raise Refused(lines.damage)
    return lines


def read_readable(path: str) -> BookLines:
    """The ledger's lines up to the first that cannot be read; `.damage` names all of those.

    Raises Refused, unreadable: CF703 there is no ledger.
    """
    try:
        with open(open_file(path), "rb") as file:
            return _lines_of(path, file)
    except OSError as error:
        is_absent = isinstance(error, FileNotFoundError)
        raise Refused(ledger_missing(path, is_absent, said_by(error))) from error


def _lines_of(path: str, file: Iterable[bytes]) -> BookLines:
    entries: list[StepEntry] = []
    findings: list[Finding] = []
    torn, whole_bytes = None, 0
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            torn = last_line_torn(path, number, len(line))
            break
        try:
            entry = entry_of(line[:-1])
        except Malformed as error:
            findings.append(line_damaged(path, number, str(error)))
            continue
        if not findings:
            entries.append(entry)
            whole_bytes += len(line)
    return BookLines(entries, torn, tuple(findings), whole_bytes)


def _attempt_of(line: bytes) -> float:
    """Which attempt wrote a line; infinite for what is no line."""
    try:
        return entry_of(line.decode("utf-8")).attempt
    except (ValueError, RecursionError):
        return math.inf


def _end_of_last_line(descriptor: int) -> int:
    """Bytes up to and with the last newline, 0 when there is none."""
    block_bytes = 1 << 16
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - block_bytes)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
