"""The reader of data files: record by record, each with its line, in bounded memory. Torch-free.

Whole files, a few of their records (sampling.py) and their number come from the functions here. JSON is read
by the json module and nothing is guessed: a date stays the text that it is. Parquet carries its types.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, BinaryIO, Literal, TextIO

from crossfoot.data.findings import Problem
from crossfoot.written.git_lfs import is_pointer

Task = Literal["sft", "pretrain"]
FIELDS: dict[str, tuple[str, ...]] = {"sft": ("instruction", "input", "output"), "pretrain": ("text",)}
KINDS: dict[str, tuple[str, ...]] = {
    "sft": (".json", ".jsonl", ".parquet"),
    "pretrain": (".json", ".jsonl", ".parquet", ".txt"),
}
READ_CHARACTERS = 1 << 20
ROWS_AT_ONCE = 1000
COLUMN_BYTES = 1 << 20
"""Read ahead of a Parquet column, no more: a row group may be as large as the file."""
EXACT_BYTES = 64 << 20
"""Line files up to this size are counted line by line; of larger ones the rest is estimated from this much.
"""

Groups = Callable[[Sequence[int]], Sequence[tuple[int, int]]]
"""From the rows of each row group to the groups that are read, in order, and how many of their first rows."""


@dataclass(frozen=True)
class Record:
    """One record as it stands in its file: any JSON value, or {"text": line} from plain text. line is
    1-based.
    """

    line: int
    value: Any


def kind_of(path: str) -> str:
    """The ending that decides how a file is read, in small letters with its dot."""
    return os.path.splitext(path)[1].lower()


def file_problem(path: str, task: Task) -> Problem | None:
    """Why a file cannot even be opened for this task, else None. Reads its first bytes."""
    kind = kind_of(path)
    if kind not in KINDS[task]:
        if kind == ".txt":
            return Problem(
                "CF502",
                0,
                f"{path} is plain text, which has no instructions; data.task: pretrain reads it",
                fatal=True,
            )
        return Problem("CF502", 0, f"{path}: {task} reads {', '.join(KINDS[task])}", fatal=True)
    if os.path.isdir(path):
        return Problem("CF501", 0, f"{path} is a folder", fatal=True)
    try:
        with open(path, "rb") as stream:
            stream.read(1)
    except OSError as error:
        return Problem("CF501", 0, f"{path}: {error.strerror}", fatal=True)
    return Problem("CF565", 0, path, fatal=True) if is_pointer(path) else None


def read_records(path: str, task: Task) -> Iterator[Record | Problem]:
    """The records of one file, in order; what cannot be read comes as a fatal Problem in its place."""
    if kind_of(path) == ".parquet":
        return parquet_records(path, task)
    if is_list(path):
        return _array(path)
    return _lines(path)


def count_file(path: str, task: Task) -> int | Problem:
    """Records of one file, blank lines apart, or what is wrong with it. Lines are not parsed, and of a file
    beyond EXACT_BYTES its beginning is counted.

    A JSON list is parsed whole: braces inside texts make anything less unsafe.
    """
    if kind_of(path) == ".parquet":
        return _count_rows(path)
    records = 0
    if is_list(path):
        for record in _array(path):
            if isinstance(record, Problem):
                return record
            records += 1
        return records
    size, seen_bytes = os.path.getsize(path), 0
    with open(path, "rb") as stream:
        for raw in _raw_lines(stream, kind_of(path)):
            records += bool(raw.strip())
            seen_bytes += len(raw)
            if seen_bytes >= EXACT_BYTES:
                break
    return records if seen_bytes >= size or not seen_bytes else round(records * size / seen_bytes)


def is_list(path: str) -> bool:
    """Whether a file is one JSON list: named .json, and its first character is [."""
    if kind_of(path) != ".json":
        return False
    with open(path, "rb") as stream:
        block = stream.read(1 << 16).removeprefix(codecs.BOM_UTF8)
        while block:
            if stripped := block.lstrip(b" \t\r\n"):
                return stripped.startswith(b"[")
            block = stream.read(1 << 16)
    return False


def _lines(path: str) -> Iterator[Record | Problem]:
    """One JSON value a line, or one document; blank lines are skipped."""
    kind = kind_of(path)
    with open(path, "rb") as stream:
        for line, raw in enumerate(_raw_lines(stream, kind), start=1):
            record = line_record(raw, line, kind)
            if record is None:
                continue
            is_first_broken = line == 1 and isinstance(record, Problem) and record.code == "CF503"
            if is_first_broken and kind == ".json" and _is_one_object(path):
                yield Problem(
                    "CF503", 1, "the file is one object; a list of records is expected", 1, fatal=True
                )
                return
            yield record


def _raw_lines(stream: BinaryIO, kind: str) -> Iterator[bytes]:
    """Lines with their ends. Of plain text \\r ends one too; elsewhere \\n alone, as in the JSONL format."""
    for raw in stream:
        if kind == ".txt" and b"\r" in raw:
            yield from raw.splitlines(keepends=True)
        else:
            yield raw


def line_record(raw: bytes, line: int, kind: str) -> Record | Problem | None:
    """What one line of a file of this kind holds; None for a blank line."""
    bare = raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
    if not bare.strip():
        return None
    try:
        text = bare.decode("utf-8")
    except UnicodeDecodeError as error:
        return _undecodable(line, error)
    if kind == ".txt":
        return Record(line, {"text": text.rstrip("\r\n")}) if text.strip() else None
    try:
        return Record(line, json.loads(text.rstrip()))
    except (ValueError, RecursionError) as error:
        return _unparsable(error, line, getattr(error, "colno", 0), may_be_array=bare.strip() == b"[")


def _is_one_object(path: str) -> bool:
    """Whether a whole file of moderate size is a single JSON object over several lines (only asked after an
    error).
    """
    if os.path.getsize(path) > 64 << 20:
        return False
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return isinstance(json.load(stream), dict)
    except (ValueError, RecursionError):
        return False


def _undecodable(line: int, error: UnicodeDecodeError) -> Problem:
    byte = error.object[error.start]
    return Problem("CF504", line, f"byte 0x{byte:02x} does not belong to UTF-8 text", fatal=True)


def _unparsable(error: Exception, line: int, column: int, *, may_be_array: bool = False) -> Problem:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    if may_be_array:
        reason += "; a list of records belongs into a file named .json"
    return Problem("CF503", line, reason[:1].lower() + reason[1:], column, fatal=True)


class _ArrayText:
    """A JSON list read through a sliding window: at most a few records are in memory. Knows line and
    column.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._position = 0
        self._decoder = json.JSONDecoder()
        self._at_end = False
        self.line = 1
        self.column = 1

    def _fill(self) -> bool:
        """Read on, doubling what is held; False at the end of the file."""
        held = self._text[self._position :]
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
        wrong.
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
            self._advance(end)
            return value


def _array(path: str) -> Iterator[Record | Problem]:
    """The records of a JSON list, each with the line on which it starts. Reading stops at the first broken
    spot.
    """
    with open(path, encoding="utf-8-sig", newline="") as stream:
        text = _ArrayText(stream)
        try:
            yield from _array_values(text)
        except UnicodeDecodeError:
            yield _find_undecodable(path)
        except (ValueError, RecursionError) as error:
            yield _unparsable(error, text.line, text.column)


def _array_values(text: _ArrayText) -> Iterator[Record | Problem]:
    text.peek()
    text.skip_character()
    if text.peek() == "]":
        text.skip_character()
    else:
        while True:
            text.peek()
            line = text.line
            yield Record(line, text.value())
            after = text.peek()
            if after not in (",", "]"):
                reason = "expected a comma or ]" if after else "the file ends before its list is closed"
                yield Problem("CF503", text.line, reason, text.column, fatal=True)
                return
            text.skip_character()
            if after == "]":
                break
    if text.peek():
        yield Problem("CF503", text.line, "text after the end of the list", text.column, fatal=True)


def _find_undecodable(path: str) -> Problem:
    """The line of the first byte that is not UTF-8, after a reader has met one. A lone carriage return ends a
    line too.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, last = 1, ""
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                text = error.object[: error.start].decode("utf-8", errors="ignore")
                return _undecodable(line + _line_ends(last, text), error)
            line += _line_ends(last, text)
            last = text[-1:] or last
    return Problem("CF504", line, "the file ends inside a character", fatal=True)


def _line_ends(last: str, text: str) -> int:
    """Line ends in text: \\n, \\r\\n or \\r; `last` is the character before it (a \\r\\n may be cut in
    two).
    """
    halves = text.count("\r\n") + (last == "\r" and text.startswith("\n"))
    return text.count("\n") + text.count("\r") - halves


def parquet_records(path: str, task: Task, groups: Groups | None = None) -> Iterator[Record | Problem]:
    """One record a row, of the task's columns only. groups: which rows are read; None: all."""
    import pyarrow
    import pyarrow.parquet

    line = 0
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=COLUMN_BYTES) as file:
            columns, problem = _columns(file.schema_arrow.names, FIELDS[task])
            if problem is not None:
                yield problem
                return
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            before = [0, *accumulate(sizes)]
            for group, rows in list(enumerate(sizes)) if groups is None else groups(sizes):
                line = before[group]
                for value in islice(_values(file, group, columns, rows), rows):
                    line += 1
                    yield Record(line, value)
    except (pyarrow.ArrowException, OSError) as error:
        yield _broken_parquet(error, line)


def _values(file: Any, group: int, columns: Sequence[str], rows: int) -> Iterator[dict[str, Any]]:
    size = max(1, min(rows, ROWS_AT_ONCE))
    for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=columns):
        yield from batch.to_pylist()


def _columns(names: Sequence[str], fields: Sequence[str]) -> tuple[list[str], Problem | None]:
    """The columns of the task that a Parquet file has, and what is wrong when one is missing."""
    missing = [name for name in fields if name not in names and name != "input"]
    if not missing:
        return [name for name in fields if name in names], None
    reason = f"no column {' and no column '.join(missing)}; it has: {', '.join(names[:8])}"
    return [], Problem("CF513", 0, reason, fatal=True)


def _count_rows(path: str) -> int | Problem:
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        return _broken_parquet(error, 0)


def _broken_parquet(error: Exception, line: int) -> Problem:
    return Problem("CF513", line, str(error).splitlines()[0], fatal=True)
