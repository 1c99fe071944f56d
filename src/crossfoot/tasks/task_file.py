"""Tasks of one's own: records (questions with choices, prompts with references, texts), or a text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from crossfoot.data.findings import Problem
from crossfoot.data.numbering import kind_of
from crossfoot.data.packing import BROKEN, open_bytes
from crossfoot.data.record import NamedTwice, Record, undecodable
from crossfoot.data.records import broken_packing, read_records
from crossfoot.findings.finding import Place, Refused
from crossfoot.tasks.encodings import refuse_other
from crossfoot.tasks.exam_tables import doubt_about
from crossfoot.tasks.findings import no_items
from crossfoot.tasks.item_findings import (
    Mistakes,
    doubtful_choices,
    id_twice,
    no_answer,
    no_question,
    not_a_choice,
    task_form,
)
from crossfoot.tasks.items import LETTERS, Item, Kind, Task

RECORDS = (".jsonl", ".json", ".parquet")
TEXT = ".txt"
_DEV = "dev"
_KINDS: Mapping[str, Kind] = {"question": "choice", "prompt": "generate", "text": "perplexity"}
"""By the field that tells what a record is."""
_NAMED_FIELDS = 8


class _Other(Exception):
    """A record of another form. str(): what it has."""


def read_task_file(path: str, name: str) -> Task:
    """Raises Refused: CF855 to CF860, CF863, what the readers of data find; OSError."""
    if kind_of(path) != ".parquet":
        refuse_other(path)
    return _text(path, name) if kind_of(path) == TEXT else _records(path, name)


def _text(path: str, name: str) -> Task:
    """The whole file is one text: it is not cut at its lines, and nothing of it is left out."""
    try:
        with open_bytes(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise Refused(undecodable(line, error).finding(path)) from error
    except BROKEN as error:
        raise Refused(broken_packing(error, 0).finding(path)) from error
    if not text.strip():
        raise Refused(no_items(path, "it is empty"))
    return Task(name, "perplexity", (Item(name, name, os.path.basename(path), path, text),), form="text")


@dataclass
class _Reading:
    """A file while it is read. kind: of its first record. seen: ids, and where each stands."""

    path: str
    name: str
    kind: Kind | None = None
    mistakes: Mistakes = field(default_factory=Mistakes)
    items: list[Item] = field(default_factory=list)
    shots: dict[str, list[Item]] = field(default_factory=dict)
    unanswered: list[Place] = field(default_factory=list)
    seen: dict[str, Place] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        """One record more."""
        place = record.problem("", "").place(self.path)
        try:
            item = self._item(record, place)
        except _Other as error:
            self.mistakes.note(task_form, place, str(error))
            return
        if item.id in self.seen:
            self.mistakes.note(id_twice, place, f"id {item.id} is that of {self.seen[item.id]} too")
        self.seen.setdefault(item.id, place)
        if not item.question.strip():
            self.mistakes.note(no_question, place, "it is empty")
        lacks_answer = _is_missing(record.value, "answer") and _is_missing(record.value, "reference")
        if record.value.get("split") == _DEV:
            self.shots.setdefault(item.subject, []).append(item)
            if lacks_answer:
                self.mistakes.note(no_answer, place, "a worked example needs one")
        else:
            self.items.append(item)
            if lacks_answer:
                self.unanswered.append(place)

    def _item(self, record: Record, place: Place) -> Item:
        value = record.value
        if not isinstance(value, dict):
            raise _Other("it is no object")
        if isinstance(value, NamedTwice):
            raise _Other(f'it has "{value.name}" twice')
        asks = next((name for name in _KINDS if name in value), None)
        if asks is None or (_KINDS[asks] == "choice") != ("choices" in value):
            raise _Other(f"it has {', '.join(list(value)[:_NAMED_FIELDS]) or 'nothing'}")
        kind = _KINDS[asks]
        self.kind = self.kind or kind
        if kind != self.kind:
            raise _Other(f'it has "{asks}", and the first record is of another form')
        if value.get("split", _DEV) != _DEV or ("split" in value and kind != "choice"):
            raise _Other('"split" may be "dev", of records with choices')
        subject = _text_of(value, "subject") if "subject" in value else self.name
        id_ = record.number if value.get("id") is None else value["id"]
        if not isinstance(id_, str | int):
            raise _Other('"id" is neither text nor a whole number')
        item = Item(self.name, subject, str(id_), str(place), _text_of(value, asks))
        if kind == "generate":
            has_none = _is_missing(value, "reference")
            return replace(item, reference=None if has_none else _text_of(value, "reference"))
        return self._choice(item, value, place) if kind == "choice" else item

    def _choice(self, item: Item, value: Mapping[str, Any], place: Place) -> Item:
        choices = value["choices"]
        if not isinstance(choices, list):
            raise _Other('"choices" is no list of texts')
        for choice in choices:
            _checked(choice, "one of the choices")
        if not 2 <= len(choices) <= len(LETTERS):
            raise _Other(f'"choices" has {len(choices)}; it may have 2 to {len(LETTERS)}')
        if (why := doubt_about(tuple(choices))) is not None:
            self.mistakes.note(doubtful_choices, place, why)
        gold = None
        if not _is_missing(value, "answer"):
            gold, why = _gold(value["answer"], choices)
            if why:
                self.mistakes.note(not_a_choice, place, why)
        return replace(item, choices=tuple(choices), gold=gold)


def _records(path: str, name: str) -> Task:
    reading = _Reading(path, name)
    for record in read_records(path):
        if isinstance(record, Problem):
            raise Refused(record.finding(path))
        reading.take(record)
    if len(reading.unanswered) < len(reading.items) and reading.kind != "perplexity":
        for place in reading.unanswered:
            missing = '"answer"' if reading.kind == "choice" else '"reference"'
            reading.mistakes.note(no_answer, place, f"it has no {missing}")
    warnings = reading.mistakes.findings()
    if not reading.items:
        raise Refused(no_items(path, "it has worked examples alone" if reading.shots else "it is empty"))
    shots = {subject: tuple(items) for subject, items in reading.shots.items()}
    shots_from = dict.fromkeys((item.subject for item in reading.items), path)
    return Task(
        name,
        reading.kind or "choice",
        tuple(reading.items),
        shots,
        shots_from=shots_from,
        warnings=warnings,
    )


def _is_missing(value: Mapping[str, Any], name: str) -> bool:
    return value.get(name) is None or value[name] == ""


def _text_of(value: Mapping[str, Any], name: str) -> str:
    return _checked(value[name], f'"{name}"')


def _checked(text: Any, name: str) -> str:
    """A text of whole characters."""
    if not isinstance(text, str):
        raise _Other(f"{name} is no text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Other(f"{name} holds half a character, \\u{ord(text[error.start]):04x}") from error
    return text


def _gold(answer: Any, choices: list[str]) -> tuple[int | None, str]:
    """(the index of the right choice, "") or (None, why it is not known)."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        is_index = 0 <= answer < len(choices)
        return (
            (answer, "")
            if is_index
            else (None, f"answer is {answer}, and the last index is {len(choices) - 1}")
        )
    if not isinstance(answer, str):
        return None, f"answer is {answer!r}"
    by_text = choices.index(answer) if answer in choices else None
    by_letter = LETTERS.find(answer) if len(answer) == 1 else -1
    letter = by_letter if 0 <= by_letter < len(choices) else None
    if by_text is not None and letter is not None and by_text != letter:
        return None, f"answer is {answer}, the letter of one choice and the text of another"
    found = letter if by_text is None else by_text
    last = LETTERS[len(choices) - 1]
    return (found, "") if found is not None else (None, f"answer is {answer!r}; the letters are A to {last}")
