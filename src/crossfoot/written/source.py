"""A text file that a person wrote, with its positions: what stands at which line and column."""

from __future__ import annotations

import codecs
import os
import shlex
import stat
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from crossfoot.findings.finding import LINE_BREAK, Place
from crossfoot.phrases import said_by
from crossfoot.written.git_lfs import fetching, is_pointer
from crossfoot.written.near_paths import near_help

LARGEST_BYTES = 1 << 20
"""A hand-written file is a few kB; a larger one is a wrong path, and reading it in pure Python would take
minutes.
"""

_OTHER_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class UnreadableText(Exception):
    """A file that is no readable text: title (the fact), place, helps. The loader gives it a code."""

    def __init__(self, title: str, place: Place, *helps: str) -> None:
        self.title = title
        self.place = place
        self.helps = helps
        super().__init__(title)


class BrokenText(Exception):
    """Text that is not of the language it should be in: title (the fact), place, notes, helps."""

    def __init__(
        self, title: str, place: Place, notes: tuple[str, ...] = (), helps: tuple[str, ...] = ()
    ) -> None:
        self.title = title
        self.place = place
        self.notes = notes
        self.helps = helps
        super().__init__(title)


@dataclass(frozen=True)
class Source:
    """The text of `path`; offsets into it are in characters."""

    path: str
    text: str

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in LINE_BREAK.finditer(self.text))]

    def place(self, start: int, end: int | None = None) -> Place:
        """The place of text[start:end], cut at the end of its line; one character wide without `end`."""
        line = bisect_right(self._line_starts, start)
        first = self._line_starts[line - 1]
        break_ = LINE_BREAK.search(self.text, start)
        line_end = break_.start() if break_ else len(self.text)
        width = max(1, min(start + 1 if end is None else end, line_end) - start)
        return Place(self.path, line, start - first + 1, width)

    def line(self, number: int) -> str:
        """A line, counted from 1, without its end."""
        starts = [*self._line_starts, len(self.text)]
        return self.text[starts[number - 1] : starts[number]].rstrip("\r\n")

    def offset(self, place: Place) -> int:
        """Where a place of this text begins, in characters."""
        return self._line_starts[place.line - 1] + place.column - 1


def same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one place from here, as a.yaml, ./a.yaml and the whole path do."""
    return os.path.abspath(one) == os.path.abspath(other)


def read_source(path: str) -> Source:
    """The UTF-8 text of a regular file. Raises UnreadableText: absent, a folder, a pipe, too large, a BOM, no
    UTF-8.
    """
    raw = _read_bytes(path)
    for mark, name in _OTHER_BOMS:
        if raw.startswith(mark):
            raise UnreadableText(
                f"{path} is {name} text, and must be UTF-8", Place(path), _converting(path, name)
            )
    if raw.startswith(codecs.BOM_UTF8):
        help_ = f"remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' {shlex.quote(path)}"
        raise UnreadableText(f"{path} begins with a byte order mark", Place(path, 1, 1), help_)
    try:
        return Source(path, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        before = Source(path, raw[: error.start].decode("utf-8"))
        byte = raw[error.start]
        title = f"{path} is not UTF-8 text: byte 0x{byte:02x} at offset {error.start}"
        raise UnreadableText(title, before.place(len(before.text)), _encoded(path, raw)) from error


def _converting(path: str, encoding: str) -> str:
    return f"make UTF-8 of it: iconv -f {encoding} -t UTF-8 {shlex.quote(path)} > NEW_FILE"


def _encoded(path: str, raw: bytes) -> str:
    """What to do with bytes that are not UTF-8."""
    if b"\0" in raw:
        return "give a text file, saved as UTF-8"
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return "save it as UTF-8"
    return f"if it is Chinese text in GBK, {_converting(path, 'GB18030')}"


def _read_bytes(path: str) -> bytes:
    where = Place(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableText(f"{path} is a folder, and a file is needed", where, *_inside(path))
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableText(
                f"{path} is not an ordinary file", where, "give a file that can be read twice"
            )
        if status.st_size > LARGEST_BYTES:
            title = f"{path} has {status.st_size:,} bytes, and at most {LARGEST_BYTES:,} are read"
            raise UnreadableText(title, where, "give the file that a person wrote, not data")
        if is_pointer(path):
            raise UnreadableText(f"{path} is a git-lfs pointer, not the file itself", where, fetching(path))
        with open(path, "rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise UnreadableText(f"{path} does not exist", where, *_near(path)) from error
    except PermissionError as error:
        raise UnreadableText(
            f"{path} may not be read by this user", where, "ask its owner for the right to read it"
        ) from error
    except (OSError, ValueError) as error:
        reason = said_by(error)
        raise UnreadableText(
            f"{path} cannot be read: {reason.lower()}", where, "look at the path and the disk"
        ) from error


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder or "."))
    except OSError:
        return []


def _near(path: str) -> tuple[str, ...]:
    """A file that an absent one was probably meant to be, or why there is none."""
    folder = os.path.dirname(path)
    if near := near_help(path):
        return near
    if os.path.isdir(folder or "."):
        return (f"look for it: paths are relative to {os.getcwd()}",)
    return (f"the folder {folder} does not exist either; paths are relative to {os.getcwd()}",)


def _inside(folder: str) -> tuple[str, ...]:
    """Files of a folder that was given in place of a file."""
    endings = (".yaml", ".yml", ".json")
    files = [os.path.join(folder, name) for name in _names(folder) if name.endswith(endings)]
    more = ", ..." if len(files) > 3 else ""
    return (f"give one of its files: {', '.join(files[:3])}{more}" if files else "give a file in it",)
