"""The bad records of a data set, collected: one finding for each kind, with a count and the first places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from crossfoot.data.findings import FINDINGS_BY_CODE, OVER_LONG, SEVERAL, SKIP_HELP, Problem
from crossfoot.data.sampling import located
from crossfoot.findings.finding import Finding, Refused

ENOUGH_RECORDS = 20
"""With so many bad records the data is refused without the rest being tokenised."""
SHOWN_PLACES = 3
NEARLY_ALL = 0.9
"""Leaving this part of the records out is no repair."""


@dataclass
class _Kind:
    """What is wrong in one way: the first ones, each with its file and where it starts, and how many."""

    first: list[tuple[int, Problem, int | None]] = field(default_factory=list)
    count: int = 0


class Problems:
    """The bad records met so far. Fatal ones refuse the data in any case, the others when `stops`
    (data.bad_samples: stop).
    """

    def __init__(self, files: Sequence[str], *, stops: bool) -> None:
        self._files = files
        self._stops = stops
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._count = 0
        self._skippable = 0

    @property
    def refuses(self) -> bool:
        """Whether the data is refused already."""
        return bool(self._kinds)

    @property
    def is_enough(self) -> bool:
        """Whether later records need not be tokenised any more."""
        return self._count >= ENOUGH_RECORDS

    def note(self, file_id: int, problem: Problem, start: int | None = None) -> bool:
        """Take a problem in; True when it is only to be left out (data.bad_samples: skip, data.over_long:
        drop). start: the first byte of a record of which no number is known yet.
        """
        if problem.code == OVER_LONG or (not problem.fatal and not self._stops):
            return True
        of_the_file = "" if problem.number or start is not None else self._files[file_id]
        kind = self._kinds.setdefault((problem.code, of_the_file), _Kind())
        kind.count += 1
        self._count += 1
        self._skippable += not problem.fatal
        if len(kind.first) < SHOWN_PLACES:
            kind.first.append((file_id, problem, start))
        return False

    def findings(self, *, records: int, cut_short: bool) -> tuple[Finding, ...]:
        """All that was noted. records: how many were looked at. cut_short: later ones were not examined."""
        findings = [self._finding(code, kind, cut_short) for (code, _), kind in self._kinds.items()]
        if self._skippable and self._skippable < NEARLY_ALL * records:
            last = max(n for n, kind in enumerate(self._kinds.values()) if not kind.first[0][1].fatal)
            found = findings[last]
            text = SKIP_HELP if found.helps else SKIP_HELP.removeprefix("or ")
            findings[last] = replace(found, helps=(*found.helps, text))
        return tuple(findings)

    def _finding(self, code: str, kind: _Kind, cut_short: bool) -> Finding:
        shown = []
        for file_id, problem, start in kind.first:
            file = self._files[file_id]
            one = located(problem, file, start)
            shown.append((one.place(file), one.reason))
        (place, reason), *others = shown
        found = FINDINGS_BY_CODE[code](place, reason)
        if kind.count == 1:
            return found
        more = kind.count - len(shown)
        return replace(
            found,
            title=f"{'at least ' if cut_short else ''}{kind.count:,} {SEVERAL[code]}",
            others=tuple(others),
            notes=((f"{more:,} more are not shown here", *found.notes) if more else found.notes),
        )

    def refuse(self, *, records: int, cut_short: bool) -> None:
        """Raise Refused with all that was noted, if anything was."""
        if findings := self.findings(records=records, cut_short=cut_short):
            raise Refused(findings)
