"""The #SBATCH directives of a batch script, read as sbatch reads them.

A directive begins in the first column; `##SBATCH` and ` #SBATCH` are comments. Directives count up to the
first command; sbatch says nothing about later ones. A `#` ends a directive. Source: `get_argument` and
`_opt_batch_script` of SLURM's src/sbatch/opt.c, tried with sbatch 22.05.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from crossfoot.written.launch.gpu_counts import gpu_count
from crossfoot.written.launch.look_alikes import as_meant, look_alike
from crossfoot.written.launch.options import SBATCH, Parsed, parse
from crossfoot.written.launch.shell_tree import OffsetText, ShellText
from crossfoot.written.launch.statement import Defect, Layer, Option
from crossfoot.written.source import Source

_MAGIC = "#SBATCH"
_BLANKS = " \t\r\v\f"
_MEANT = re.compile(
    r"[ \t]*(?P<mark>[#\uff03])(?P<gap>[ \t]*)(?P<word>sbatch)[ \t]*[-\u2010-\u2015\u2212\uff0d]",
    re.IGNORECASE,
)
_ARRAY = re.compile(r"(?P<low>\d{1,9})(-(?P<high>\d{1,9})(:(?P<step>\d{1,9}))?)?", re.ASCII)
_LINE = re.compile(r"[^\n]*\n?")
_COUNT = re.compile(r"\d{1,9}[kKmM]?", re.ASCII)
_NODES = re.compile(r"\d{1,9}[kKmM]?(-\d{1,9}[kKmM]?)?", re.ASCII)
NUMBERS = ("--nodes", "--ntasks", "--ntasks-per-node")


def has_directives(source: Source) -> bool:
    """Whether this is a batch script: a directive stands in it, outside here-documents."""
    return "SBATCH" in source.text.upper() and any(
        line.startswith(_MAGIC) or _MEANT.match(line) for _, line in _lines(source)
    )


def read_directives(
    source: Source, begin: int = 0, given: Sequence[Option] = (), is_wrapped: bool = False
) -> tuple[Layer, tuple[Defect, ...]]:
    """The directives that count, and what is wrong with them or with where they stand.

    begin: where the script begins in the file. given: options of the sbatch command, which overrule those of
    the script. is_wrapped: sbatch makes the script (--wrap).
    """
    options: list[Option] = []
    unknown: list[Option] = []
    defects = [] if is_wrapped else list(_unfit(source, begin))
    is_complete, is_late = True, False
    first = source.place(0)
    for start, line in _lines(source):
        if not line.startswith(_MAGIC) and (meant := _MEANT.match(line)):
            found, misspelt = _misspelt(source, start, line, meant)
            defects.append(misspelt)
            options.extend(found)
            continue
        if not line.startswith(_MAGIC):
            is_late = is_late or (line.strip() != "" and not line.lstrip().startswith("#"))
            continue
        words, odd = _as_meant(source, _words(line, start))
        parsed = parse(source, words, SBATCH)
        if is_late:
            defects.extend(_late(source, start, line, parsed))
            continue
        if any(word.text in ("hetjob", "packjob") for word in parsed.rest):
            is_complete = False
            defects.append(
                Defect("not_held", source.place(start, start + len(line)), "several parts of a job")
            )
            options.clear()
            break
        if not options:
            first = source.place(start, start + len(line.rstrip()))
        defects.extend(odd or _invalid(source, parsed))
        options.extend(parsed.options)
        unknown.extend(parsed.unknown)
    options.extend(given)
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


def _words(line: str, start: int, at: int = len(_MAGIC)) -> list[OffsetText]:
    """The words of a directive behind `at`: quotes and backslashes as in SLURM, `#` ends it."""
    words: list[OffsetText] = []
    text: list[str] = []
    offsets: list[int] = []
    begun, quote = -1, ""

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
        if not quote and letter in _BLANKS:
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


def _as_meant(source: Source, words: Sequence[OffsetText]) -> tuple[list[OffsetText], list[Defect]]:
    """The words with plain characters, and those that only looked so."""
    meant: list[OffsetText] = []
    defects: list[Defect] = []
    for word in words:
        found = look_alike(source, word)
        if found is not None:
            defects.append(found.defect(source))
        meant.extend([word] if found is None else as_meant(found))
    return meant, defects


def _misspelt(source: Source, start: int, line: str, meant: re.Match[str]) -> tuple[Sequence[Option], Defect]:
    """A line that is no directive: its options, where it is surely no comment, and what is wrong with it."""
    words, _ = _as_meant(source, _words(line, start, meant.end("word")))
    parsed = parse(source, words, SBATCH)
    is_wide = meant["mark"] != "#"
    reasons = (
        (is_wide, "its # is a full-width one"),
        (bool(meant["gap"]), "a blank stands behind its #"),
        (meant["word"] != "SBATCH", "SBATCH is written in capitals"),
        (True, "a blank stands in front of its #"),
    )
    why = next(reason for holds, reason in reasons if holds)
    states = next((option.name for option in parsed.options if option.name in SBATCH.facts), "")
    place = source.place(start, start + len(line.rstrip()))
    right = f"#SBATCH {line[meant.end('word') :].strip()}"
    defect = Defect("no_directive", place, right, near=states if is_wide else "", name=why)
    return parsed.options if is_wide else (), defect


def _unfit(source: Source, begin: int) -> Iterator[Defect]:
    """Why sbatch would not accept the file at all."""
    break_ = source.text.find("\r\n")
    if break_ >= 0:
        yield Defect("dos", source.place(break_), "Windows line ends (\\r\\n)")
    if not source.text.startswith("#!", begin):
        yield Defect("no_shebang", source.place(begin), "no #! in the first line")


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


def array_size(value: str) -> tuple[int, int]:
    """(jobs, how many at once) of `--array=0-3`, `1,5,7`, `0-15:4`, `0-99%4`; one job for anything else."""
    listed, _, limit = value.partition("%")
    count = 0
    for part in listed.split(","):
        match = _ARRAY.fullmatch(part.strip())
        if match is None:
            return 1, 1
        low = int(match["low"])
        count += len(range(low, int(match["high"] or low) + 1, int(match["step"] or 1) or 1))
    return count, int(limit) if limit.isdecimal() and len(limit) < 10 and int(limit) else count


def shell_variables(batch: Layer) -> dict[str, str]:
    """What the shell of this batch script finds: its numbers, where the directives say them; it is task 0."""
    found = {}
    if batch.is_complete:
        for name, option_name in _VARIABLES:
            option = batch.get(option_name)
            count = gpu_count(option.value or "") if option else None
            if count:
                found[name] = str(count)
    return found


_VARIABLES = (
    ("SLURM_NNODES", "--nodes"),
    ("SLURM_JOB_NUM_NODES", "--nodes"),
    ("SLURM_NTASKS", "--ntasks"),
    ("SLURM_NPROCS", "--ntasks"),
    ("SLURM_NTASKS_PER_NODE", "--ntasks-per-node"),
    ("SLURM_GPUS_PER_NODE", "--gpus-per-node"),
    ("SLURM_GPUS_ON_NODE", "--gpus-per-node"),
)
