"""What is asked: a text, or the records of a file in the forms that training reads. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from crossfoot.data.conversation import (
    FORMS,
    Columns,
    NotTrainable,
    Turn,
    form_of_fields,
    text_in,
    turn_names,
    turns_of,
)
from crossfoot.data.findings import Problem
from crossfoot.data.numbering import kind_of
from crossfoot.data.prompt_findings import no_prompts, not_a_prompt
from crossfoot.data.record import Record
from crossfoot.data.records import KINDS, read_records
from crossfoot.data.samples import read_value
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.phrases import reason_of
from crossfoot.written.near_paths import near_help

_ENDINGS = tuple(ending + packed for ending in KINDS["pretrain"] for packed in ("", ".gz"))
_ANSWER = "-"
"""Stands for the answer that a record has not, or that is left out, while its form is looked at."""


@dataclass(frozen=True)
class Prompt:
    """turns: the user's is the last. reference: the answer that the record has; None: it has none. place:
    where it is written.
    """

    turns: tuple[Turn, ...]
    reference: str | None = None
    place: Place | None = field(default=None, compare=False)

    @property
    def text(self) -> str:
        """What the user asks last."""
        return self.turns[-1].text

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a server takes a conversation."""
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]


def is_file(given: str) -> bool:
    """Whether --prompts names a file. Raises Refused (CF804) for the name of one that is not there."""
    if os.path.isfile(given):
        return True
    if given.endswith(_ENDINGS) and len(given.split()) == 1:
        raise Refused(_not_there(given))
    return False


def read_prompts(file: str, columns: Columns) -> list[Prompt]:
    """Of a file, in order. columns: data.columns of the run. Raises Refused: CF803, CF804, what the readers
    of data find.
    """
    if not os.path.isfile(file):
        raise Refused(_not_there(file))
    if kind_of(file) not in KINDS["pretrain"]:
        kinds = ", ".join(KINDS["pretrain"])
        raise Refused(no_prompts(file, "is no kind of file that is read", f"read are {kinds}"))
    prompts: list[Prompt] = []
    wrong: list[Problem] = []
    try:
        for record in read_records(file):
            if isinstance(record, Problem):
                raise Refused(record.finding(file))
            try:
                place = record.problem("", "").place(file)
                prompts.append(replace(_prompt(record, columns), place=place))
            except NotTrainable as error:
                wrong.append(record.problem(error.code, error.reason))
    except OSError as error:
        raise Refused(no_prompts(file, reason_of(error), "name a file that can be read")) from error
    if wrong:
        raise Refused(not_a_prompt(file, wrong))
    if not prompts:
        raise Refused(no_prompts(file, "holds no prompt", "write a prompt into it"))
    return prompts


def _not_there(file: str) -> Finding:
    why = "is a folder" if os.path.isdir(file) else "is no file"
    helps = (*near_help(file), "correct the path; it is relative to the folder you are in")
    return no_prompts(file, why, helps[0])


def _prompt(record: Record, columns: Columns) -> Prompt:
    value = read_value(record, columns)
    if "text" in value and not any(form.needs[0] in value for form in FORMS):
        return Prompt((Turn("user", text_in(value, "text", "CF510")),))
    answered, reference = _answered(value, columns)
    *turns, _ = turns_of(answered, columns)
    return Prompt(tuple(turns), reference)


def _answered(value: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], str | None]:
    """(the record with a stand-in as its last answer, the answer that it had)."""
    answer = next((form.needs[1] for form in FORMS if len(form.needs) == 2 and form.needs[0] in value), None)
    listed = next((name for name in ("messages", "conversations") if name in value), None)
    if answer is None and listed is not None and isinstance(value[listed], list):
        return _answered_list(value, listed, columns)
    if answer is None and listed is None:
        has = ", ".join(list(value)[:8]) or "nothing"
        raise NotTrainable("CF508", f'no "prompt", "instruction" or "messages"; it has: {has}')
    if answer is None or form_of_fields({**value, answer: ""}) is None:
        return dict(value), None
    told = value.get(answer)
    if isinstance(told, list):
        return dict(value), None if not told else str(told[-1].get("content", ""))
    return {**value, answer: _ANSWER}, told if isinstance(told, str) and told.strip() else None


def _answered_list(
    value: Mapping[str, Any], name: str, columns: Columns
) -> tuple[dict[str, Any], str | None]:
    try:
        turns = turns_of({**value, name: value[name]}, columns)
        reference: str | None = turns[-1].text
        asked = value[name][:-1]
    except NotTrainable:  # it ends with a question, or is none at all: that is said of it below
        reference, asked = None, value[name]
    who, said = (names[0] for names in turn_names(columns))
    return {**value, name: [*asked, {who: "assistant", said: _ANSWER}]}, reference
