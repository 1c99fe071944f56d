"""The reader of data files: record by record, each with its line, in bounded memory. Torch-free.

Whole files, a few of their records (sampling.py) and their number come from the functions here; how a kind of
file is read stands in line_files.py, json_list.py and parquet.py. JSON is read by the json module and nothing
is guessed: a date stays the text that it is. Parquet carries its types.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Literal

from crossfoot.data.findings import Problem
from crossfoot.data.json_list import is_list, records_of_list
from crossfoot.data.line_files import count_lines, records_of_lines
from crossfoot.data.parquet import count_rows, parquet_records
from crossfoot.data.record import Record
from crossfoot.written.git_lfs import is_pointer

Task = Literal["sft", "pretrain"]
FIELDS: dict[str, tuple[str, ...]] = {"sft": ("instruction", "input", "output"), "pretrain": ("text",)}
KINDS: dict[str, tuple[str, ...]] = {
    "sft": (".json", ".jsonl", ".parquet"),
    "pretrain": (".json", ".jsonl", ".parquet", ".txt"),
}


def kind_of(path: str) -> str:
    """The ending that decides how a file is read, in small letters with its dot."""
    return os.path.splitext(path)[1].lower()


def file_problem(path: str, task: Task) -> Problem | None:
    """Why a file cannot even be opened for this task, else None. Reads its first bytes."""
    kind = kind_of(path)
    if why := _no_file(path, task):
        return Problem("CF501", 0, f"{path} {why}", fatal=True)
    if kind not in KINDS[task]:
        if kind == ".txt":
            return Problem(
                "CF502",
                0,
                f"{path} is plain text, which has no instructions; data.task: pretrain reads it",
                fatal=True,
            )
        return Problem("CF502", 0, f"{path}: {task} reads {', '.join(KINDS[task])}", fatal=True)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # looked at before it is opened: opening a pipe waits for a writer
            return Problem("CF501", 0, f"{path} is {_kind_of_file(mode)}, not an ordinary file", fatal=True)
        with open(path, "rb") as stream:
            stream.read(1)
    except OSError as error:
        return Problem("CF501", 0, f"{path}: {error.strerror}", fatal=True)
    return Problem("CF565", 0, path, fatal=True) if is_pointer(path) else None


def _no_file(path: str, task: Task) -> str:
    """What somebody wrote in the place of a file; nothing for a name that may be one."""
    if os.path.isdir(path):
        return f"is a folder{_files_in(path, task)}"
    if not os.path.exists(path) and re.fullmatch(r"[\w-]+/[\w-]+", path):
        return "is no file here; a data set of the hub is not fetched: download it, and name its files"
    if not os.path.exists(path) and re.search(r"[*?]|\{.*,.*\}|\[.+\]", path):
        return "names no file: patterns are not filled in, list the files"
    return ""


def _files_in(folder: str, task: Task) -> str:
    """What of a folder may have been meant."""
    try:
        names = sorted(name for name in os.listdir(folder) if kind_of(name) in KINDS[task])
    except OSError:
        return ""
    more = ", ..." if len(names) > 3 else ""
    paths = ", ".join(os.path.join(folder, name) for name in names[:3])
    return f"; name its files: {paths}{more}" if names else ""


def _kind_of_file(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "a socket"


def read_records(path: str, task: Task) -> Iterator[Record | Problem]:
    """The records of one file, in order; what cannot be read comes as a Problem in its place."""
    kind = kind_of(path)
    if kind == ".parquet":
        return parquet_records(path, FIELDS[task])
    return records_of_list(path) if is_json_list(path) else records_of_lines(path, kind)


def count_file(path: str, task: Task) -> int | Problem:
    """Records of one file, blank lines apart, or what is wrong with it. Lines are not parsed, and of a large
    file its beginning is counted.

    A JSON list is parsed whole: braces inside texts make anything less unsafe.
    """
    if kind_of(path) == ".parquet":
        return count_rows(path)
    if not is_json_list(path):
        return count_lines(path, kind_of(path))
    records = 0
    for record in records_of_list(path):
        if isinstance(record, Problem):
            return record
        records += 1
    return records


def is_json_list(path: str) -> bool:
    """Whether a file is one JSON list: named .json, and its first character is [."""
    return kind_of(path) == ".json" and is_list(path)
