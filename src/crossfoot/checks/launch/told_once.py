"""One mistake many times in a file: told once, with a count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import wraps

from crossfoot.checks.registry import Facts
from crossfoot.findings.finding import Finding, Severity
from crossfoot.phrases import counted

MOST_APART = 3
_MOST_LISTED = 6

Check = Callable[[Facts], Iterator[Finding]]


def told_once(check: Check) -> Check:
    """Decorator of a rule: what it finds more than three times in a file becomes one finding."""

    @wraps(check)
    def gathered(facts: Facts) -> Iterator[Finding]:
        return gather(check(facts))

    return gathered


def gather(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Those of one file and severity together, where they are many."""
    groups: dict[tuple[str, Severity], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.place.file if finding.place else "", finding.severity), []).append(finding)
    for group in groups.values():
        if len(group) <= MOST_APART:
            yield from group
            continue
        first, more = group[0], group[1:]
        helps = dict.fromkeys(help_ for each in group for help_ in each.helps)
        others = [(each.place, "and here") for each in more[:_MOST_LISTED] if each.place]
        yield replace(
            first,
            others=(*first.others, *others),
            notes=(*first.notes, f"the same of {counted(len(more), 'more place')} in this file"),
            helps=tuple(helps)[:_MOST_LISTED],
        )
