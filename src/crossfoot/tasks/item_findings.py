"""What can be wrong with the items of a task: one mistake, one code, one docstring (the manual page), one
finding with a count and the first places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted

SHOWN = 3
Found: TypeAlias = Sequence[tuple[Place, str]]
"""Where, and what is there; not empty."""
Said: TypeAlias = Callable[[Found], Finding]


@dataclass
class Mistakes:
    """What was found so far, by what says it."""

    _found: dict[Said, list[tuple[Place, str]]] = field(default_factory=dict)

    def note(self, said: Said, place: Place, reason: str) -> None:
        """One more."""
        self._found.setdefault(said, []).append((place, reason))

    def findings(self) -> tuple[Finding, ...]:
        """One of each kind; Raises Refused where one of them is an error."""
        findings = tuple(said(found) for said, found in self._found.items())
        if any(finding.severity == "error" for finding in findings):
            raise Refused(findings)
        return findings


def shown(found: Found) -> dict[str, Any]:
    """The first of them, as a Finding takes them."""
    (place, label), *others = found[:SHOWN]
    more = len(found) - SHOWN
    notes = (f"{more:,} more are not shown here",) if more > 0 else ()
    return {"place": place, "label": label, "others": tuple(others), "notes": notes}


@rule_docs("CF854")
def exam_columns(found: Found) -> Finding:
    """CF854: a table of an exam lacks columns, or spells them otherwise.

    C-Eval's tables have `id,question,A,B,C,D,answer,explanation`, CMMLU's `,Question,A,B,C,D,Answer` (the
    first name is empty). The names are taken letter by letter; further columns are passed over. The answers
    may be missing where they are hidden, as in C-Eval's test split.
    """
    return Finding(
        "CF854",
        f"{counted(len(found), 'table')} of an exam {'has' if len(found) == 1 else 'have'} other columns",
        **shown(found),
        helps=("write the names of the first row as the exam has them", "or name the exam that it is"),
        unreadable=True,
    )


@rule_docs("CF855", name="item-without-question")
def no_question(found: Found) -> Finding:
    """CF855: an item of a task asks nothing: its question is missing, blank or not text.

    Leaving it out would make the score one of another set.
    """
    return Finding(
        "CF855",
        "an item has no question" if len(found) == 1 else f"{len(found):,} items have no question",
        **shown(found),
        helps=("write the question, or remove the row",),
    )


@rule_docs("CF856", name="item-without-answer")
def no_answer(found: Found) -> Finding:
    """CF856: an item has no answer, and others of the same file have one.

    A file in which no item has an answer is taken for one whose answers are hidden (C-Eval's test split): it
    is asked, and the answers are written to be handed in. Worked examples need theirs.
    """
    return Finding(
        "CF856",
        "an item has no answer" if len(found) == 1 else f"{len(found):,} items have no answer",
        **shown(found),
        helps=("write the answer, or remove the row",),
    )


@rule_docs("CF857", name="answer-not-a-choice")
def not_a_choice(found: Found) -> Finding:
    """CF857: the answer of an item is none of its choices.

    In an exam it is one of the letters A, B, C and D, a capital letter and alone. In a task file it is such a
    letter, the index of a choice (from 0), or the text of one; a text that is a choice and also the letter of
    another one is no answer, because it may mean both.
    """
    return Finding(
        "CF857",
        "an answer is no choice" if len(found) == 1 else f"{len(found):,} answers are no choices",
        **shown(found),
        helps=("write the letter of the right choice",),
    )


@rule_docs("CF858", "warning", name="doubtful-choices")
def doubtful_choices(found: Found) -> Finding:
    """CF858: two choices of an item are equal, or one is empty.

    Such items are in exams that many use, and are asked as they stand: leaving them out would make the score
    one of another set. A model cannot tell two equal choices apart but by their letters; if one of them is
    the right one, so is the other.
    """
    return Finding(
        "CF858",
        "an item has choices that are equal or empty"
        if len(found) == 1
        else f"{len(found):,} items have choices that are equal or empty",
        severity="warning",
        **shown(found),
        helps=("correct the choices, if the set is yours",),
    )


@rule_docs("CF859", name="id-used-twice")
def id_twice(found: Found) -> Finding:
    """CF859: two items of a task have one id.

    Answers are written down by it, and are handed in by it.
    """
    return Finding(
        "CF859",
        "an id is used twice" if len(found) == 1 else f"{len(found):,} ids are used again",
        **shown(found),
        helps=("give each item an id of its own, or leave the ids out",),
    )


@rule_docs("CF860")
def task_form(found: Found) -> Finding:
    """CF860: records of a task file have another form than those that are read.

    A choice: `{"question": "...", "choices": ["...", "..."], "answer": "B"}` with 2 to 26 choices, and the
    answer as letter, as index from 0, or as text. A text to generate: `{"prompt": "...", "reference":
    "..."}`. A text to measure the perplexity of: `{"text": "..."}`. `subject` and `id` may stand beside, and
    `"split": "dev"` in a choice that is a worked example. All records of a file are of one form.
    """
    return Finding(
        "CF860",
        "a record is no item of a task"
        if len(found) == 1
        else f"{len(found):,} records are no items of a task",
        **shown(found),
        helps=(
            'write {"question": ..., "choices": [...], "answer": ...}, {"prompt": ..., "reference": ...}'
            ' or {"text": ...}',
        ),
        unreadable=True,
    )
