"""What crossfoot says to a person about a mistake: a finding, its place, and the exception that carries it.

A user's mistake is a `Finding`, raised (many at once) inside `Refused`; a broken promise of ours is any other
exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

LINE_BREAK = re.compile("\r\n|\n|\r")
"""What ends a line, here and in the renderer that shows it (not U+2028 or U+0085, which editors do not
count).
"""

Severity = Literal["error", "warning", "note"]
Weight = Literal["error", "warning", "note", "accepted"]


@dataclass(frozen=True)
class Place:
    """Where something is written: 1-based `line` and `column` in `file`; `width` characters wide.

    `line` 0 means the file as a whole. `file` is shown as it was given by the user (relative stays relative).
    part: what a person finds it by where a line does not tell: `record 17`, `row 4`.
    """

    file: str
    line: int = 0
    column: int = 0
    width: int = 1
    part: str = ""

    def __str__(self) -> str:
        parts = [self.file]
        if self.line:
            parts.append(str(self.line))
            if self.column:
                parts.append(str(self.column))
        return ":".join(parts) + (f", {self.part}" if self.part else "")


@dataclass(frozen=True)
class Edit:
    """A change of one file: its characters from offset `start` up to `end` become `text`."""

    file: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Acceptance:
    """A finding is right as it is, somebody says. reason: why; place: where that is written."""

    reason: str
    place: Place


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    code: `CF` + family digit + two digits. title: the fact, lower case, no full stop. place: where the caret
    goes. label: the words beside the caret. others: further places, each with its label. notes: everything
    that is no change to make; helps: changes to make. unreadable: the input could not be read at all (exit
    code 2 instead of 1). fix: the edits that carry out the first help, when that is safe: they repair what a
    file says and never change what the run config asks for. accepted: by `checks.accept`.
    """

    code: str
    title: str
    severity: Severity = "error"
    place: Place | None = None
    label: str = ""
    others: tuple[tuple[Place, str], ...] = ()
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    unreadable: bool = False
    fix: tuple[Edit, ...] = ()
    accepted: Acceptance | None = None

    @property
    def counts_as(self) -> Weight:
        """Its severity, or that it is accepted and counts against nothing."""
        return self.severity if self.accepted is None else "accepted"


class Refused(Exception):
    """The run is refused for these findings; the command line renders them and exits with `exit_code`."""

    def __init__(self, findings: Iterable[Finding] | Finding) -> None:
        self.findings: tuple[Finding, ...] = (findings,) if isinstance(findings, Finding) else tuple(findings)
        super().__init__(self.findings)  # so that it can be pickled

    def __str__(self) -> str:
        return "; ".join(f"{f.code}: {f.title}" for f in self.findings)

    @property
    def exit_code(self) -> int:
        """2 when something could not be read, 0 when there is nothing to mend (notes, accepted), else 1."""
        if any(f.unreadable for f in self.findings):
            return 2
        return int(any(f.counts_as in ("error", "warning") for f in self.findings))
