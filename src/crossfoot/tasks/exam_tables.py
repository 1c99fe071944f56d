"""One table of an exam: a question, four choices and the letter of the right one in each row."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass

from crossfoot.data.findings import Problem
from crossfoot.data.record import Record
from crossfoot.data.tables import header_of, table_records
from crossfoot.findings.finding import Place, Refused
from crossfoot.tasks.item_findings import (
    Mistakes,
    doubtful_choices,
    exam_columns,
    id_twice,
    no_answer,
    no_question,
    not_a_choice,
)
from crossfoot.tasks.items import LETTERS, Item

CHOICES = LETTERS[:4]


@dataclass(frozen=True)
class Columns:
    """Names of the columns beside A to D. id may be missing in a table: rows are then numbered from 0."""

    question: str
    answer: str
    id: str


def read_table(
    path: str, columns: Columns, encoding: str, belongs: tuple[str, str], mistakes: Mistakes
) -> tuple[Item, ...]:
    """Its items. belongs: the task and the subject. What is wrong with them goes to mistakes. Raises Refused
    for a table that is not readable: CF504, CF527.
    """
    if (why := _lacks(path, columns, encoding)) is not None:
        mistakes.note(exam_columns, Place(path, 1), why)
        return ()
    rows = list(_rows(path, encoding))
    is_hidden = not any(columns.answer in row.value for row in rows)
    seen: dict[str, Place] = {}
    return tuple(_item(row, path, columns, belongs, mistakes, seen, is_hidden=is_hidden) for row in rows)


def _rows(path: str, encoding: str) -> list[Record]:
    rows = []
    for one in table_records(path, encoding):
        if isinstance(one, Problem):
            raise Refused(one.finding(path))
        rows.append(one)
    return rows


def _lacks(path: str, columns: Columns, encoding: str) -> str | None:
    """What its header has not; None where it has all."""
    try:
        names = header_of(path, encoding)
    except (UnicodeDecodeError, csv.Error):
        return None  # the reader of its rows says it better
    needed = (columns.question, *CHOICES)
    missing = [name for name in needed if name not in names]
    otherwise = {name.strip().lower(): name for name in names}
    if columns.answer not in names and columns.answer.lower() in otherwise:
        missing.append(columns.answer)
    if not missing:
        return None
    has = [otherwise[name.lower()] for name in missing if name.lower() in otherwise]
    return f"no {', '.join(missing)}; it has {', '.join(has or names) or 'nothing'}"


def _item(
    row: Record,
    path: str,
    columns: Columns,
    belongs: tuple[str, str],
    mistakes: Mistakes,
    seen: dict[str, Place],
    *,
    is_hidden: bool,
) -> Item:
    place = row.problem("", "").place(path)
    cells: Mapping[str, str] = row.value
    id_ = cells.get(columns.id, str(row.number - 1))
    if id_ in seen:
        mistakes.note(id_twice, place, f"id {id_} is that of {seen[id_]} too")
    seen.setdefault(id_, place)
    question = cells.get(columns.question, "")
    if not question.strip():
        mistakes.note(no_question, place, f"{columns.question} is empty")
    choices = tuple(cells.get(letter, "") for letter in CHOICES)
    if (why := doubt_about(choices)) is not None:
        mistakes.note(doubtful_choices, place, why)
    gold = None
    if not is_hidden:
        answer = cells.get(columns.answer, "")
        gold = CHOICES.find(answer) if len(answer) == 1 else -1
        if not answer:
            mistakes.note(no_answer, place, f"{columns.answer} is empty")
        elif gold < 0:
            mistakes.note(
                not_a_choice, place, f"{columns.answer} is {answer!r}, and not one of A, B, C and D"
            )
    task, subject = belongs
    return Item(task, subject, f"{subject}/{id_}", str(place), question, choices, gold)


def doubt_about(choices: tuple[str, ...]) -> str | None:
    """`B and D are equal`, `C is empty`; None of choices that are in order."""
    for number, choice in enumerate(choices):
        if not choice.strip():
            return f"{LETTERS[number]} is empty"
        if choice in choices[:number]:
            return f"{LETTERS[choices.index(choice)]} and {LETTERS[number]} are equal"
    return None
