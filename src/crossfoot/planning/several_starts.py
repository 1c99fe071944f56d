"""Several launch files at once: each is held against the run that its own words make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crossfoot.findings.finding import Finding
from crossfoot.phrases import listed
from crossfoot.planning.prepare import starts
from crossfoot.written.launch.read import read_launch_file
from crossfoot.written.launch.statement import LaunchFile, with_named
from crossfoot.written.source import same_file


def files_with_the_same_words(config: str, paths: Sequence[str]) -> list[list[str]]:
    """The launch files in groups that start this run with the same `path=value` words. A file that starts
    nothing (a hostfile) goes with those that name it, and with all when none does. One group at least.
    """
    files = {path: read_launch_file(path)[0] for path in paths}
    starting = {path: file for path, file in files.items() if file is not None and starts(file, config)}
    groups: dict[tuple[str, ...], list[str]] = {}
    for path, file in starting.items():
        groups.setdefault(tuple(word for word, _ in file.overrides), []).append(path)
    if len(groups) < 2:
        return [list(paths)]
    naming = {path: _that_name(path, starting) for path in paths if path not in starting}
    return [
        [path for path in paths if path in group or set(naming.get(path, ())) & set(group)]
        for group in groups.values()
    ]


def _that_name(path: str, starting: dict[str, LaunchFile]) -> list[str]:
    """Of the files that start the run those that name this one; all when none does."""
    naming = [
        one for one, file in starting.items() if any(same_file(path, it.path) for it in with_named([file]))
    ]
    return naming or list(starting)


def merged(examined: Sequence[tuple[Sequence[str], Sequence[Finding]]]) -> Iterator[Finding]:
    """The findings of all groups, each once. What is wrong in a file of several groups is wrong in all of
    them, or is right in one. What only some groups find elsewhere says with which file's words.
    """
    groups = [
        (files, {_key(finding, finding_in(files, finding)): finding for finding in findings})
        for files, findings in examined
    ]
    for key, finding in {
        key: finding for _, found in reversed(groups) for key, finding in found.items()
    }.items():
        mine = [files for files, found in groups if key in found]
        holding = [files for files, _ in groups if finding_in(files, finding)]
        if len(mine) in (len(groups), len(holding)):
            yield finding
        elif not holding:
            words = f"so with the words of {listed([files[0] for files in mine])}"
            yield replace(finding, notes=(*finding.notes, words))


def finding_in(files: Sequence[str], finding: Finding) -> bool:
    """Whether it is about one of these files."""
    return finding.place is not None and finding.place.file in files


def _key(finding: Finding, is_in_file: bool) -> tuple[object, ...]:
    """What makes it the same for two groups; about a launch file whatever numbers it is held against."""
    return finding.code, finding.place, "" if is_in_file else finding.title
