"""The #SBATCH directives of a batch script, read as sbatch reads them.

A directive begins in the first column; `##SBATCH` and ` #SBATCH` are comments. Directives count up to the
first command; sbatch says nothing about later ones. A `#` ends a directive. Source: `get_argument` and
`_opt_batch_script` of SLURM's src/sbatch/opt.c, tried with sbatch 22.05.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from crossfoot.written.launch.options import SBATCH, Parsed, parse
from crossfoot.written.launch.shell_tree import OffsetText, ShellText
from crossfoot.written.launch.statement import Defect, Layer, Option
from crossfoot.written.source import Source

_MAGIC = "#SBATCH"
_LINE = re.compile(r"[^\n]*\n?")
_COUNT = re.compile(r"\d{1,9}[kKmM]?", re.ASCII)
_NODES = re.compile(r"\d{1,9}[kKmM]?(-\d{1,9}[kKmM]?)?", re.ASCII)
NUMBERS = ("--nodes", "--ntasks", "--ntasks-per-node")


def has_directives(source: Source) -> bool:
    """Whether this is a batch script: a directive stands in it, outside here-documents."""
    return _MAGIC in source.text and any(line.startswith(_MAGIC) for _, line in _lines(source))


def read_directives(source: Source) -> tuple[Layer, tuple[Defect, ...]]:
    """The directives that count, and what is wrong with them or with where they stand."""
    options: list[Option] = []
    unknown: list[Option] = []
    defects = list(_unfit(source))
    is_complete, is_late = True, False
    first = source.place(0)
    for start, line in _lines(source):
        if not line.startswith(_MAGIC):
            is_late = is_late or (line.strip() != "" and not line.lstrip().startswith("#"))
            continue
        parsed = parse(source, _words(line, start), SBATCH)
        if is_late:
            defects.extend(_late(source, start, line, parsed))
            continue
        if any(word.text in ("hetjob", "packjob") for word in parsed.rest):
            is_complete = False
            break
        if not options:
            first = source.place(start, start + len(line.rstrip()))
        defects.extend(_invalid(source, parsed))
        options.extend(parsed.options)
        unknown.extend(parsed.unknown)
    return Layer("sbatch", first, tuple(options), tuple(unknown), is_complete), tuple(defects)


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    """(offset, line) of every line that is not inside a here-document."""
    inside = iter([*ShellText(source.text, range(len(source.text))).documents(), (len(source.text),) * 2])
    begin, end = next(inside)
    for match in _LINE.finditer(source.text):
        while match.start() >= end and end < len(source.text):
            begin, end = next(inside)
        if match[0] and not begin <= match.start() < end:
            yield match.start(), match[0].rstrip("\r\n")


def _words(line: str, start: int) -> list[OffsetText]:
    """The words of a directive: quotes and backslashes as in SLURM, `#` ends it."""
    words: list[OffsetText] = []
    text: list[str] = []
    offsets: list[int] = []
    begun, quote = -1, ""
    at = len(_MAGIC)

    def close() -> None:
        nonlocal begun
        if begun >= 0:
            words.append(
                OffsetText("".join(text), tuple(offsets), start=start + begun, end=start + max(at, begun + 1))
            )
        begun = -1
        text.clear()
        offsets.clear()

    while at < len(line):
        letter = line[at]
        if not quote and letter == "#":
            break
        if not quote and letter.isspace():
            close()
        elif letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote, begun = letter, at if begun < 0 else begun
        else:
            if letter == "\\" and at + 1 < len(line):
                at += 1
            begun = at if begun < 0 else begun
            text.append(line[at])
            offsets.append(start + at)
        at += 1
    close()
    return words


def _unfit(source: Source) -> Iterator[Defect]:
    """Why sbatch would not accept the file at all."""
    break_ = source.text.find("\r\n")
    if break_ >= 0:
        yield Defect("dos", source.place(break_), "Windows line ends (\\r\\n)")
    if not source.text.startswith("#!"):
        yield Defect("no_shebang", source.place(0), "no #! in the first line")


def _late(source: Source, start: int, line: str, parsed: Parsed) -> Iterator[Defect]:
    end = start + len(line.rstrip())
    name = next((option.name for option in parsed.options if option.name in SBATCH.facts), "")
    yield Defect("late", source.place(start, end), line.removeprefix(_MAGIC).strip(), near=name)


def _invalid(source: Source, parsed: Parsed) -> Iterator[Defect]:
    """Words that sbatch refuses: no option, or no number."""
    for word in parsed.rest[:1]:
        yield Defect("invalid", source.place(word.start, word.end), word.text)
    for option in parsed.options:
        if option.name in NUMBERS and option.value is not None:
            pattern = _NODES if option.name == "--nodes" else _COUNT
            if not pattern.fullmatch(option.value):
                yield Defect("value", option.place, option.words, near=option.name)
