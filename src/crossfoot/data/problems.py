"""The bad records of a data set, collected: the first ones named, the rest counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossfoot.data.findings import NAMED_RECORDS, SKIP_HELP, Problem, more_bad_records
from crossfoot.findings.finding import Finding, Place, Refused


class Problems:
    """The bad records met so far. Fatal ones refuse the data in any case, the others when `stops`
    (data.bad_samples: stop).
    """

    def __init__(self, files: Sequence[str], *, stops: bool) -> None:
        self._files = files
        self._stops = stops
        self._named: list[Finding] = []
        self._more = 0
        self._has_skippable = False

    @property
    def refuses(self) -> bool:
        """Whether the data is refused already."""
        return bool(self._named)

    @property
    def is_full(self) -> bool:
        """Whether no more records will be named."""
        return len(self._named) >= NAMED_RECORDS

    def note(self, file_id: int, problem: Problem) -> bool:
        """Take a problem in; True when it is only to be left out (data.bad_samples: skip)."""
        if not problem.fatal and not self._stops:
            return True
        self._has_skippable |= not problem.fatal
        if self.is_full:
            self._more += 1
        else:
            self._named.append(problem.finding(self._files[file_id]))
        return False

    def findings(self, *, cut_short: bool) -> tuple[Finding, ...]:
        """All that was noted. cut_short: later records were not all examined."""
        findings = list(self._named)
        if self._more:
            at_least = "at least " if cut_short else ""
            # Behind the last one that is named: in file order the rest comes after it.
            where = findings[-1].place or Place(self._files[0])
            findings.append(more_bad_records(where, f"{at_least}{self._more} more, not named here"))
        if findings and self._has_skippable:
            last = findings[-1]
            findings[-1] = _with_help(last, SKIP_HELP if last.helps else SKIP_HELP.removeprefix("or "))
        return tuple(findings)

    def refuse(self, *, cut_short: bool) -> None:
        """Raise Refused with all that was noted, if anything was."""
        if findings := self.findings(cut_short=cut_short):
            raise Refused(findings)


def _with_help(finding: Finding, text: str) -> Finding:
    return replace(finding, helps=(*finding.helps, text))
