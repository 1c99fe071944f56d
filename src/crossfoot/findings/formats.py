"""Findings for machines and for narrow places: one line each, JSON, GitHub's annotations."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from crossfoot.findings.finding import Edit, Finding, Place
from crossfoot.findings.render import render
from crossfoot.output import json_text, say_painted, visible_line

_GITHUB = {"error": "error", "warning": "warning", "note": "notice", "accepted": "notice"}


def show(findings: Sequence[Finding], style: str = "text") -> None:
    """To stdout, in colours on a terminal."""
    say_painted(formatted(findings, style, in_colour()))


def in_colour() -> bool:
    """Whether stdout is a terminal that nobody has asked to stay plain."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def formatted(findings: Sequence[Finding], style: str, colour: bool = False) -> str:
    """All findings, as text, concise, json or github. No newline at the end; empty when there is nothing
    to say.
    """
    if style == "text":
        return render(findings, colour)
    if style == "json":
        return json_text([as_json(finding) for finding in findings])
    line = _concise if style == "concise" else _annotation
    return "\n".join(line(finding) for finding in findings)


def as_json(finding: Finding) -> dict[str, Any]:
    """One finding as plain values. line and column begin at 1 and are None where there is none; the offsets
    of a fix are characters of the file. accepted: None, or the reason and where it is written.
    """
    why = finding.accepted
    return {
        "code": finding.code,
        "severity": finding.severity,
        "title": finding.title,
        **_place(finding.place),
        "label": finding.label,
        "others": [{**_place(place), "label": label} for place, label in finding.others],
        "notes": list(finding.notes),
        "helps": list(finding.helps),
        "fix": [_edit(edit) for edit in finding.fix] or None,
        "accepted": None if why is None else {"reason": why.reason, **_place(why.place)},
    }


def _place(place: Place | None) -> dict[str, Any]:
    if place is None:
        return {"file": None, "line": None, "column": None, "end_column": None, "part": None}
    column = place.column if place.line and place.column else None
    return {
        "file": place.file,
        "line": place.line or None,
        "column": column,
        "end_column": column + place.width if column else None,
        "part": place.part or None,
    }


def _edit(edit: Edit) -> dict[str, Any]:
    return {"file": edit.file, "start": edit.start, "end": edit.end, "text": edit.text}


def _concise(finding: Finding) -> str:
    """`zero2.json:2:23: error[CF101] title; help: write 512`."""
    where = f"{visible_line(str(finding.place))}: " if finding.place else ""
    last = f"; help: {visible_line(finding.helps[0])}" if finding.helps else ""
    if finding.accepted is not None:
        last = f"; reason: {visible_line(finding.accepted.reason)}"
    return f"{where}{finding.counts_as}[{finding.code}] {visible_line(finding.title)}{last}"


def _annotation(finding: Finding) -> str:
    """GitHub's workflow command (docs.github.com, "Workflow commands for GitHub Actions")."""
    properties: dict[str, str | int] = {}
    place = finding.place
    if place is not None and place.line:
        properties = {"file": visible_line(place.file), "line": place.line}
        if place.column:
            properties |= {"col": place.column, "endColumn": place.column + place.width}
    elif place is not None and "." in place.file:
        properties = {"file": visible_line(place.file)}
    properties["title"] = finding.code
    part = f" ({place.part})" if place is not None and place.part else ""
    words = [visible_line(finding.title) + part, *(f"note: {visible_line(text)}" for text in finding.notes)]
    words += [f"help: {visible_line(text)}" for text in finding.helps]
    if finding.accepted is not None:
        words = [words[0], f"accepted: {visible_line(finding.accepted.reason)}"]
    told = ",".join(f"{key}={_escaped(str(value), ':,')}" for key, value in properties.items())
    return f"::{_GITHUB[finding.counts_as]} {told}::{_escaped(chr(10).join(words))}"


def _escaped(text: str, more: str = "") -> str:
    for character in ("%", "\r", "\n", *more):
        text = text.replace(character, f"%{ord(character):02X}")
    return text
