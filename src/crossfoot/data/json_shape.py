"""A file of text, by its beginning: whether it is the list or the lines of records that its name says, or one
object, a table, a page.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossfoot.data import converting
from crossfoot.data.conversation import DOCUMENT, FORMS
from crossfoot.data.file_kind import Other
from crossfoot.data.numbering import kind_of
from crossfoot.data.record import DECODER
from crossfoot.data.record_form import OTHER_FIELDS, form_of
from crossfoot.data.records import Task
from crossfoot.data.tables import TABLES

_SEEN_LINES = 50
_CONVERSATIONS = ("messages", "conversations", "conversation", "history", "turns", "dialog")
_REFERENCES = ("file_name", "hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name", "om_hub_url")
_TEXTS = frozenset(("text", "instruction"))
_BLANK = " \t\r\n"
_SEPARATED = {"\t": "a table (TSV, tabs between)", ",": "a table (CSV)", ";": "a table (CSV, with ; between)"}
_YAML = re.compile(r"(---|\s*- |\s*[\w\"-]+:(\s|$))")
_CUT = object()
"""Stands for a value of which the end was not read."""


@dataclass(frozen=True)
class _Outline:
    """An object as far as it was read. pairs: a list that is cut off has its first element. rest: behind."""

    pairs: Mapping[str, Any]
    is_closed: bool
    rest: str = ""


def other_text(path: str, text: str, *, is_whole: bool, task: Task) -> Other | None:
    """What a file is whose text begins with `text` (all of it: is_whole); None where its records are read."""
    bare = text.strip(_BLANK)
    lines = [line for line in bare.split("\n")[:_SEEN_LINES] if line.strip(_BLANK)]
    if not is_whole and len(lines) > 1 and len(lines) < _SEEN_LINES:
        lines.pop()  # which is cut off
    if kind_of(path) in TABLES:
        return _page(path, bare) if bare else None
    if kind_of(path) == ".txt" and task == "pretrain":
        is_page = is_whole and bare.endswith("</html>")
        return (_page(path, bare) if is_page else None) or _lines_in_text(path, lines)
    if not bare:
        return None
    values = [_parsed(line) for line in lines]
    if bare[0] == "[":
        return _list_of_lines(path, bare, values)
    is_one_line = len(lines) == 1 and is_whole
    if values[0] is not _CUT and not is_one_line:
        return _misnamed(path, ".jsonl")
    if bare[0] == "{":
        return _object(path, bare, is_whole=is_whole, task=task) or _misnamed(path, ".jsonl")
    if any(isinstance(value, dict | list) for value in values) or values[0] is not _CUT:
        return _misnamed(path, ".jsonl")
    return _no_json(path, bare, lines, task)


def _parsed(line: str) -> Any:
    try:
        return DECODER.decode(line.strip(_BLANK))
    except (ValueError, RecursionError):
        return _CUT


def _misnamed(path: str, ending: str) -> Other | None:
    """Records under a name that is read as something else, or not at all."""
    kind = kind_of(path)
    if kind == ending or (kind == ".json" and ending == ".jsonl"):
        return None
    what = "a JSON list" if ending == ".json" else "JSON, one record a line"
    return Other("CF558", what, (converting.renamed(path, ending),))


def _lines_in_text(path: str, lines: list[str]) -> Other | None:
    """Records of JSON in a .txt: their syntax would be trained."""
    values = [_parsed(line) for line in lines]
    are_records = [isinstance(value, dict) and not _TEXTS.isdisjoint(value) for value in values]
    return _misnamed(path, ".jsonl") if len(values) > 1 and all(are_records) else None


def _list_of_lines(path: str, bare: str, values: list[Any]) -> Other | None:
    if kind_of(path) == ".json":
        if len(values) > 1 and all(isinstance(value, list) for value in values):
            return Other("CF560", "lists, one a line", (converting.renamed(path, ".jsonl"),))
        return None
    is_lines = len(values) > 1 and values[0] is not _CUT
    return _misnamed(path, ".jsonl" if is_lines else ".json")


def _object(path: str, bare: str, *, is_whole: bool, task: Task) -> Other | None:
    """One object where a list of records is wanted, or several without a list; None where it is neither."""
    outline = _outline(bare, is_whole=is_whole)
    if outline is None:
        is_python = re.match(r"\{\s*'", bare) is not None
        how = (converting.from_python(path),)
        return Other("CF558", "Python, not JSON (texts stand in '...')", how) if is_python else None
    rest, pairs = outline.rest, outline.pairs
    if rest.startswith("{"):
        return Other("CF560", "objects one after the other, without a list", (converting.one_a_line(path),))
    if rest.startswith(",") and rest[1:].lstrip(_BLANK).startswith("{"):
        return Other(
            "CF560", "objects with commas between them, and no [ ] around", (converting.bracketed(path),)
        )
    if rest or not (pairs or outline.is_closed):
        return None
    if "\n" not in bare:  # one line, of which the end may lie far behind: a large record is one as well
        is_spread = outline.is_closed and _spread_out(list(pairs.values()), pairs) is not None
        is_around = any(_holds_records(name, value) for name, value in pairs.items())
        if not is_spread and (_is_record(pairs, task) or not (is_around or outline.is_closed)):
            return None
    return _one_object(path, outline, task)


def _is_record(pairs: Mapping[str, Any], task: Task) -> bool:
    form = form_of(dict(pairs), task)
    fields = {name for one in ((DOCUMENT,) if task == "pretrain" else FORMS) for name in one.needs}
    return bool(set(pairs) & fields) or (form is not None and form.name != OTHER_FIELDS)


def _one_object(path: str, outline: _Outline, task: Task) -> Other:
    """What the only object of a file is, and how its records are had."""
    pairs = outline.pairs
    values = list(pairs.values())
    named = [value for one in values if isinstance(one, dict) for value in map(one.get, _REFERENCES) if value]
    if named and all(isinstance(one, dict) for one in values):
        files = ", ".join(map(str, named[:3]))
        what = "a list of data sets (LLaMA-Factory's dataset_info.json), and no data"
        return Other("CF560", what, (f"name the files that it lists, for example {files}",))
    if lists := [name for name, value in pairs.items() if _holds_records(name, value)]:
        names = ", ".join(map(_quoted, lists[:4]))
        form = form_of(pairs[lists[0]][0], task)
        notes = (f"its records have another form too: {form.name}",) if form is not None else ()
        helps = (converting.taken_out(path, f"d[{_quoted(lists[0])}]"),)
        return Other("CF560", f"one object around the list of records (in {names})", helps, notes)
    if (records := _spread_out(values, pairs)) and outline.is_closed:
        what, where = records
        return Other("CF560", what, (converting.taken_out(path, where),))
    if _is_record(pairs, task):
        help_ = converting.taken_out(path, "[d]")
        return Other("CF560", "one record, not a list", ("put it in [ ], or name another file", help_))
    helps = ("name the file that holds the records: they stand in a list, [ ], or one a line",)
    return Other("CF560", "one object", helps, (f"it has: {', '.join(list(pairs)[:6]) or 'nothing'}",))


def _spread_out(values: Sequence[Any], pairs: Mapping[str, Any]) -> tuple[str, str] | None:
    """An object of which the records are numbered, or in columns: what it is, and Python that finds them in
    it.
    """
    if len(values) < 2:
        return None
    row = "dict(zip(d, row, strict=True))"
    if all(isinstance(value, list) for value in values):
        return "one object of columns", f"({row} for row in zip(*d.values(), strict=True))"
    if not all(isinstance(value, dict) and value for value in values):
        return None
    if all(name.isdigit() for name in pairs):
        return "one object around numbered records", "d.values()"
    if all(name.isdigit() for value in values for name in value):
        cells = "*(one.values() for one in d.values())"
        return "one object of columns", f"({row} for row in zip({cells}, strict=True))"
    return None


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _holds_records(name: str, value: Any) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return name not in _CONVERSATIONS or not {"role", "from"} & value[0].keys()


def _outline(text: str, *, is_whole: bool) -> _Outline | None:
    """The object that a text begins with; None where it is no JSON, not even as far as it goes. Of a value
    that is cut off, a list has its first element.
    """
    try:
        value, end = DECODER.raw_decode(text)
        return _Outline(value, is_closed=True, rest=text[end:].lstrip(_BLANK))
    except (ValueError, RecursionError):
        if is_whole:
            return None
    pairs: dict[str, Any] = {}
    at = 1
    try:
        while True:
            at = _past_blanks(text, at)
            if text[at] != '"':
                return None
            name, at = DECODER.raw_decode(text, at)
            at = _past_blanks(text, at)
            if text[at] != ":":
                return None
            at = _past_blanks(text, at + 1)
            pairs[name] = _beginning(text, at)
            value, at = DECODER.raw_decode(text, at)
            pairs[name] = value
            at = _past_blanks(text, at)
            if text[at] != ",":
                return None
            at += 1
    except (ValueError, IndexError, RecursionError):
        return _Outline(pairs, is_closed=False)


def _past_blanks(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at


def _beginning(text: str, at: int) -> Any:
    """A list with the first element of the one that begins here; else only that there is something."""
    if text[at] != "[":
        return {} if text[at] == "{" else _CUT
    try:
        return [DECODER.raw_decode(text, _past_blanks(text, at + 1))[0]]
    except (ValueError, IndexError, RecursionError):
        return []


def _no_json(path: str, bare: str, lines: list[str], task: Task) -> Other | None:
    """Text without a line of JSON."""
    if (page := _page(path, bare)) is not None:
        return page
    if (table := _table(path, lines)) is not None:
        return table
    if sum(map(bool, map(_YAML.match, lines))) > 0.6 * len(lines):
        return Other("CF558", "YAML", ("write the records as JSON, one a line",))
    if kind_of(path) not in (".json", ".jsonl", ".parquet"):
        return None  # its name says so
    if task == "pretrain":
        notes = ("of a .txt every line is a document",)
        return Other("CF558", "plain text", (converting.renamed(path, ".txt"),), notes)
    return Other("CF558", "plain text, not JSON", ("write the records as JSON: instruction, input, output",))


def _page(path: str, bare: str) -> Other | None:
    if re.match(r"<(!doctype\s+html|html|head|body)\b", bare.lstrip(_BLANK), re.IGNORECASE):
        helps = (
            "download the data itself: a page about it was saved (on a hub, take the link raw or resolve)",
        )
        return Other("CF558", "an HTML page", helps)
    if bare.startswith("<?xml"):
        return Other("CF558", "XML", ("write the records as JSON, one a line",))
    return None


def _table(path: str, lines: list[str]) -> Other | None:
    for delimiter, name in _SEPARATED.items():
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        header = rows[0]
        is_header = 1 < len(header) == len(set(header)) and all(0 < len(cell) < 40 for cell in header)
        fitting = sum(len(row) == len(header) for row in rows)
        if is_header and len(rows) > 1 and fitting > 0.8 * len(rows):
            notes = (f"its columns: {', '.join(header[:8])}",)
            ending = ".tsv" if delimiter == "\t" else ".csv"
            return Other("CF558", name, (converting.renamed(path, ending),), notes)
    return None
