"""A first look at a data file, before it is read: whether it is there, and holds records in the form that the
task reads. All verbs take it. At most some 200 records of a file are looked at, whatever its size.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from crossfoot.data import converting
from crossfoot.data.conversation import Columns
from crossfoot.data.file_findings import other_file, other_form
from crossfoot.data.file_kind import begins_as_text, other_bytes, packed
from crossfoot.data.findings import Problem, file_ending, file_missing, no_samples
from crossfoot.data.json_shape import other_text
from crossfoot.data.numbering import kind_of
from crossfoot.data.packing import BROKEN, is_packed, open_bytes
from crossfoot.data.record import Record
from crossfoot.data.record_form import Form, form_of
from crossfoot.data.records import KINDS, Task, broken_packing, read_records
from crossfoot.data.samples import Shape, texts_of
from crossfoot.data.sampling import SOME_RECORDS, WHOLE_BYTES, some_records
from crossfoot.data.templates import Template
from crossfoot.findings.finding import Finding
from crossfoot.shell_words import plain_or_quoted, quoted
from crossfoot.written.git_lfs import is_pointer, lfs_pointer

HEAD_BYTES = 1 << 18
NEARLY_ALL = 0.9
_ENDINGS = {task: ", ".join(kinds) for task, kinds in KINDS.items()}
FEW = 20
"""So many good records are asked for before the look ends early."""


def file_finding(path: str, task: Task, columns: Columns | None = None) -> Finding | None:
    """Why a file cannot be used for this task at all, else None. Its place is for the caller to add."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return file_missing(None, f"{path} is a folder")
        if not stat.S_ISREG(status.st_mode):  # before it is opened: opening a pipe waits for a writer
            return file_missing(None, f"{path} is {_kind_of_file(status.st_mode)}, not an ordinary file")
        with open(path, "rb") as stream:
            stream.read(1)
    except OSError as error:
        return file_missing(None, f"{path}: {error.strerror}")
    if is_pointer(path):
        return lfs_pointer(None, path)
    named = tuple(sorted((columns or {}).items()))
    return _look(path, task, named, status.st_size, (status.st_ino, status.st_mtime_ns))


def _kind_of_file(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "a socket"


@lru_cache(maxsize=1024)
def _look(
    path: str, task: Task, columns: tuple[tuple[str, str], ...], size: int, _state: tuple[int, int]
) -> Finding | None:
    """Of a file as it is now: verbs ask several times."""
    try:
        with open_bytes(path) as stream:
            head = stream.read(HEAD_BYTES)
            is_whole = not stream.read(1)
    except BROKEN as error:
        return replace(broken_packing(error, 0).finding(path), place=None)
    if not head:
        return no_samples(None, f"{path} is empty (0 bytes)")
    kind = kind_of(path)
    if is_packed(path) and kind == ".parquet":
        return other_file(path, packed(path))
    if begins_as_text(head):
        other = other_text(path, _text_of(head), is_whole=is_whole, task=task)
    else:
        other = other_bytes(path, head)
    if other is not None:
        return other_file(path, other)
    if kind not in KINDS[task]:
        text = "plain text, which has no instructions; data.task: pretrain reads it"
        is_text = kind == ".txt"
        return file_ending(None, f"{path} is {text}" if is_text else f"{path}: {task} reads {_ENDINGS[task]}")
    return None if kind == ".txt" else _form_finding(path, _readable(task, columns), size)


def _readable(task: Task, columns: tuple[tuple[str, str], ...]) -> Shape:
    """What tells whether a record can be read: any template does."""
    return Shape(task, HEAD_BYTES, Template("llama2") if task == "sft" else None, dict(columns))


def _text_of(head: bytes) -> str:
    """A character that is cut off at the end is left out; what is no UTF-8 inside is told with its line."""
    bare = head.removeprefix(codecs.BOM_UTF8)
    return codecs.getincrementaldecoder("utf-8")("replace").decode(bare)


@dataclass
class _Seen:
    """Records looked at; forms: of those that are not read, how many have each, by its name."""

    records: int = 0
    good: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    forms: dict[str, Form] = field(default_factory=dict)
    examples: dict[str, Record] = field(default_factory=dict)

    def take(self, record: Record, shape: Shape) -> None:
        self.records += 1
        if not isinstance(texts_of(record, 0, shape), Problem):
            self.good += 1
        elif not shape.columns and (form := form_of(record.value, shape.task)) is not None:
            self.counts[form.name] += 1
            known = self.forms.setdefault(form.name, form)
            self.examples.setdefault(form.name, record)
            if known != form:  # one line does not do for all of them
                self.forms[form.name] = replace(form, record="", columns={})


def _form_finding(path: str, shape: Shape, size: int) -> Finding | None:
    """CF561 when nearly all records have one other form."""
    seen, task = _Seen(), shape.task
    for record in _drawn(path, size):
        seen.take(record, shape)
        if seen.good > FEW and seen.good > (1 - NEARLY_ALL) * max(seen.records, SOME_RECORDS):
            return None
    ((name, count),) = seen.counts.most_common(1) or (("", 0),)
    if not count or count < NEARLY_ALL * seen.records:
        return None
    form = seen.forms[name]
    helps = [converting.converted(path, form.record)] if form.record and count == seen.records else []
    if form.columns and count == seen.records:
        helps.append(f"name the fields that are meant: {columns_word(form.columns)}")
    if form.task is not None and form.task != task:
        helps.append(f"set data.task to {form.task}, which reads them as they are")
    helps += [form.advice] if form.advice else []
    share = (count, seen.records, size <= WHOLE_BYTES)
    return other_form(path, task, form, seen.examples[name], share, tuple(helps))


def columns_word(columns: Columns) -> str:
    """A word for the command line. The names are any text that a data file holds."""
    pairs = (f"{ours}: {plain_or_quoted(theirs)}" for ours, theirs in columns.items())
    return quoted(f"data.columns={{{', '.join(pairs)}}}")


def _drawn(path: str, size: int) -> Iterator[Record]:
    found: Iterable[object]
    if size <= WHOLE_BYTES and kind_of(path) != ".parquet":
        found = read_records(path)
    else:
        found = (one.found for one in some_records(path, SOME_RECORDS))
    return (one for one in found if isinstance(one, Record))
