"""`check --fix`: the safe edits of findings, carried out on the files, and shown as a diff."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from crossfoot import durable
from crossfoot.findings.finding import Edit, Finding
from crossfoot.written.source import Source, UnreadableText, read_source

MOST_ROUNDS = 10
"""Edits that touch each other wait for the next round; more rounds than these no file needs."""


def fix_all(find: Callable[[], Sequence[Finding]]) -> tuple[tuple[Finding, ...], str]:
    """Look, repair, and look again until nothing is left to repair: what is still found, and the diff.

    A round after which a file can no longer be read is taken back. Raises OSError when a file cannot be
    written.
    """
    originals: dict[str, str] = {}
    found = tuple(find())
    for _ in range(MOST_ROUNDS):
        changes = {path: edits for path, edits in _by_file(found).items() if edits}
        if not changes:
            break
        before: dict[str, Source] = {}
        for path, edits in changes.items():
            with suppress(UnreadableText):
                before[path] = read_source(path)
                _write(path, applied(before[path].text, edits))
        again = tuple(find())
        if sum(finding.unreadable for finding in again) > sum(finding.unreadable for finding in found):
            for path, source in before.items():
                _write(path, source.text)
            break
        for path, source in before.items():
            originals.setdefault(path, source.text)
        if [finding.fix for finding in again] == [finding.fix for finding in found]:
            break
        found = again
    return found, "".join(_diff(path, text) for path, text in originals.items())


def applied(text: str, edits: Sequence[Edit]) -> str:
    """`text` with the edits in it; they must not overlap."""
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _by_file(findings: Sequence[Finding]) -> dict[str, list[Edit]]:
    """Edits by file, finding by finding: one that touches an earlier finding's waits, whole."""
    chosen: dict[str, list[Edit]] = {}
    for finding in findings:
        taken = [edit for edit in finding.fix for other in chosen.get(edit.file, []) if _touch(edit, other)]
        if not taken:
            for edit in finding.fix:
                chosen.setdefault(edit.file, []).append(edit)
    return chosen


def _touch(one: Edit, other: Edit) -> bool:
    return one.start <= other.end and other.start <= one.end


def _write(path: str, text: str) -> None:
    """The whole file or nothing of it; its mode stays, and a link stays a link."""
    target = os.path.realpath(path)
    durable.replace(target, text, mode=os.stat(target).st_mode)


def _diff(path: str, before: str) -> str:
    after = read_source(path).text
    lines = difflib.unified_diff(_lines(before), _lines(after), f"{path} (before)", path)
    return "".join(_ended(lines))


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _ended(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
