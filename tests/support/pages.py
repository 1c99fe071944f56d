"""Pages of docs/ that a test follows: their files are written, their commands run, their output compared.

A page is Markdown with fenced blocks. ```yaml my.yaml``` (any language and a file name) is a file to write.
```console``` holds commands and what they print: `$ ` is typed on the machine where a user sits, `node1$ ` on
that node; commands of one block that are typed on different machines are typed at the same time. A line that
ends with a backslash goes on. Every line below a command must be among what it prints, in this order; `...`
stands for anything. ```sh``` is not run: what installs. A comment <!-- test: ... --> before a block says what
the page tells in words, and a test must do by itself (see `DIRECTIONS`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOME = "head"
DIRECTIONS = re.compile(
    r"exits (?P<exits>\d+)"
    r"|step (?P<step>\d+) of (?P<run>\S+)"  # before the block: wait until the run has come so far
    r"|(?P<verb>cut|mend) (?P<node>node\d+)( at step (?P<at_step>\d+) of (?P<at_run>\S+))?"
)
"""`exits 1`: the block's commands end with that. `step 5 of RUN_DIR`: wait for it. `cut node2 [at step 5 of
RUN_DIR]`, `mend node2`: a cable, before the block, or while its commands run."""
_FENCE = re.compile(r"^```(?P<language>\w+)(?: (?P<name>\S+))?$")
_COMMENT = re.compile(r"^<!-- test: (?P<words>.+) -->$")
_PROMPT = re.compile(r"^(?P<machine>node\d+)?\$ (?P<words>.+)$")


class WrongPage(AssertionError):
    """A page cannot be followed, or what it shows is not what comes. The message names its line."""


@dataclass(frozen=True)
class File:
    """A file to write."""

    line: int
    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """What is typed, and the lines that must come."""

    line: int
    machine: str
    words: str
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Console:
    """Commands of one block. together: typed at the same time. directions: of DIRECTIONS."""

    line: int
    commands: tuple[Command, ...]
    directions: tuple[re.Match[str], ...] = ()

    @property
    def together(self) -> bool:
        """Whether they are typed at the same time."""
        return len({command.machine for command in self.commands}) > 1

    @property
    def exits(self) -> int:
        """Exit code of every command."""
        return next((int(one["exits"]) for one in self.directions if one["exits"]), 0)


def read_page(text: str) -> tuple[File | Console, ...]:
    """What is to be done, in order. Raises WrongPage."""
    steps: list[File | Console] = []
    directions: list[re.Match[str]] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at]
        at += 1
        if comment := _COMMENT.match(line):
            for part in comment["words"].split("; "):
                found = DIRECTIONS.fullmatch(part)
                _must(found is not None, number, f"not a direction for the test: {part}")
                directions += [found] if found else []
            continue
        if not line.startswith("```"):
            continue
        fence = _FENCE.match(line)
        _must(fence is not None, number, f"a block of no known kind: {line}")
        assert fence is not None
        end = next((later for later in range(at, len(lines)) if lines[later] == "```"), None)
        _must(end is not None, number, "this block has no end")
        body, first = lines[at:end], at + 1
        at = (end or at) + 1
        if fence["language"] == "console":
            steps.append(Console(number, _commands(body, first), tuple(directions)))
            directions = []
        elif fence["name"]:
            steps.append(File(number, fence["name"], "\n".join(body) + "\n"))
        else:
            _must(fence["language"] == "sh", number, "a block that is neither a file, nor console, nor sh")
        _must(not directions, number, "directions belong to a console block")
    _must(not directions, len(lines), "directions without a block")
    return tuple(steps)


def _commands(body: Sequence[str], first: int) -> tuple[Command, ...]:
    commands: list[Command] = []
    at = 0
    while at < len(body):
        number, prompt = first + at, _PROMPT.match(body[at])
        _must(prompt is not None, number, f"a command begins with `$ ` or `node1$ `: {body[at]}")
        assert prompt is not None
        words = prompt["words"]
        at += 1
        while words.endswith("\\") and at < len(body):
            words = words[:-1].rstrip() + " " + body[at].strip()
            at += 1
        expected: list[str] = []
        while at < len(body) and not _PROMPT.match(body[at]):
            expected.append(body[at].rstrip())
            at += 1
        shown = tuple(line for line in expected if line.strip() not in ("", "..."))
        commands.append(Command(number, prompt["machine"] or HOME, words, shown))
    _must(bool(commands), first, "a console block without a command")
    machines = [command.machine for command in commands]
    is_clear = len(set(machines)) in (1, len(machines))
    _must(is_clear, first, "a block is of one machine, or has one command for each")
    return tuple(commands)


def missing_line(expected: Sequence[str], printed: str) -> str | None:
    """The first shown line that does not come, in its order; None when all do."""
    lines = iter([line.rstrip() for line in printed.splitlines()])
    for shown in expected:
        pattern = re.compile(".*".join(re.escape(part) for part in shown.split("...")))
        if not any(pattern.fullmatch(line) for line in lines):
            return shown
    return None


Typed = Callable[[Console], Mapping[Command, tuple[int, str]]]
"""Types the commands of a block, and follows its directions: command -> exit code and what was printed."""


def follow_page(page: Path, folder: Path, typed: Typed) -> None:
    """Do what a page says, in a folder. Raises WrongPage at the first thing that is not as it says."""
    for step in read_page(page.read_text(encoding="utf-8")):
        if isinstance(step, File):
            (folder / step.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / step.name).write_text(step.text, encoding="utf-8")
            continue
        came = typed(step)
        for command in step.commands:
            code, printed = came[command]
            where, story = f"{page.name}:{command.line}: {command.words}", f"it printed:\n{printed}"
            if code != step.exits:
                raise WrongPage(f"{where}\nended with {code}, not {step.exits}; {story}")
            if (missing := missing_line(command.expected, printed)) is not None:
                raise WrongPage(f"{where}\nthis line does not come, or not here:\n{missing}\n{story}")


def _must(is_so: bool, line: int, what: str) -> None:
    if not is_so:
        raise WrongPage(f"line {line}: {what}")
