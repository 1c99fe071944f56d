"""Changes of a file that keep everything else in it: comments, order, blanks."""

from __future__ import annotations

import re

from crossfoot.findings.finding import Edit, Place
from crossfoot.written.json_tree import JsonTree, Keys
from crossfoot.written.source import Source

_COMMA = re.compile(r"[ \t\n\r]*,")
_REST_OF_LINE = re.compile(r"[ \t]*(?:\r\n|\n|\r)")


def replacing(source: Source, place: Place, text: str) -> Edit:
    """What stands at `place`, on one line, becomes `text`."""
    start = source.offset(place)
    return Edit(source.path, start, start + place.width, text)


def replacing_value(source: Source, tree: JsonTree, keys: Keys, text: str) -> Edit:
    """A JSON value, on one line or many, becomes `text`."""
    return Edit(source.path, source.offset(tree.values[keys]), tree.ends[keys], text)


def removing_entry(source: Source, tree: JsonTree, keys: Keys) -> Edit:
    """An entry of a JSON object goes, with one comma, and with its lines when nothing else stands on them."""
    text = source.text
    start, end = source.offset(tree.keys[keys]), tree.ends[keys]
    comma = _COMMA.match(text, end)
    if comma is None:
        return Edit(source.path, tree.commas.get(keys, start), end, "")
    end = comma.end()
    indent = len(text[:start]) - len(text[:start].rstrip(" \t"))
    is_first_on_line = start == indent or text[start - indent - 1] in "\r\n"
    line_end = _REST_OF_LINE.match(text, end)
    if is_first_on_line and line_end:
        return Edit(source.path, start - indent, line_end.end(), "")
    blank = re.compile(r"[ \t]*").match(text, end)
    return Edit(source.path, start, blank.end() if blank else end, "")
