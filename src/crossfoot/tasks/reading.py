"""What stands behind --tasks, read."""

from __future__ import annotations

import os
from collections.abc import Sequence

from crossfoot.data.numbering import kind_of
from crossfoot.findings.finding import Finding, Refused
from crossfoot.phrases import listed, reason_of
from crossfoot.shell_words import quoted_path
from crossfoot.tasks.exam_folders import EXAM, form_of_folder, read_exam, refuse_unknown_subjects, subjects_of
from crossfoot.tasks.findings import named_twice, unknown_task
from crossfoot.tasks.items import Form, Task
from crossfoot.tasks.task_file import RECORDS, TEXT, read_task_file
from crossfoot.written.near_paths import near_help

SHIPPED = "exam"
_READABLE = "name files that can be read"
_EXAMS: dict[str, Form] = {"ceval": "ceval", "cmmlu": "cmmlu"}


def read_tasks(
    words: Sequence[str],
    *,
    split: str | None = None,
    subjects: Sequence[str] = (),
    with_shots: bool = True,
) -> tuple[Task, ...]:
    """Each word names a task: `exam`, `ceval=FOLDER`, `cmmlu=FOLDER`, `FILE`, `NAME=FILE`.

    split, subjects: of exams; default: the split whose answers are known, and every subject. with_shots:
    whether worked examples will be asked for: without, their files need not be there.

    Raises Refused with all that is wrong in any of them: CF850 to CF863, and what the readers of data find.
    """
    named = [_named(word) for word in words]
    _refuse_one_name(words, [name for name, _ in named])
    tasks: list[Task] = []
    wrong: list[Finding] = []
    known: list[str] = []
    for word, (name, path) in zip(words, named, strict=True):
        try:
            if (form := _form_of(word, name)) is not None:
                known += subjects_of(form, path, split)
                tasks.append(
                    read_exam(form, path, name=name, split=split, subjects=subjects, with_shots=with_shots)
                )
            else:
                tasks.append(_file(word, path, name))
        except Refused as error:
            wrong += error.findings
        except OSError as error:
            named_file = f"{error.filename}: " if error.filename else ""
            wrong.append(unknown_task(word, f"cannot be read: {named_file}{reason_of(error)}", _READABLE))
    if wrong:
        raise Refused(wrong)
    refuse_unknown_subjects(subjects, known)
    return tuple(task for task in tasks if task.items)


def _named(word: str) -> tuple[str, str]:
    """(name, path) of a task."""
    if word == SHIPPED:
        return SHIPPED, EXAM
    name, equals, path = word.partition("=")
    if equals and name and not os.path.exists(word):
        return name, os.path.expanduser(path)  # a shell expands it only where a word begins with it
    return os.path.basename(word).removesuffix(".gz").removesuffix(kind_of(word)), word


def _form_of(word: str, name: str) -> Form | None:
    return "ceval" if word == SHIPPED else _EXAMS.get(name if "=" in word else "")


def _file(word: str, path: str, name: str) -> Task:
    kinds = (*RECORDS, TEXT)
    apart = (f"write several tasks apart: {word.replace(',', ' ')}",) if "," in word else ()
    if os.path.isdir(path):
        form = form_of_folder(path)
        holds = (f"name it as the exam that it holds: {form}={quoted_path(path)}",) if form else ()
        raise Refused(unknown_task(word, "is a folder", *apart, *holds))
    if not os.path.isfile(path):
        why = "is neither a file nor the name of a task"
        raise Refused(unknown_task(word, why, *apart, *near_help(path)))
    if kind_of(path) not in kinds:
        raise Refused(unknown_task(word, "is no kind of file that is read", f"read are {listed(kinds)}"))
    return read_task_file(path, name)


def _refuse_one_name(words: Sequence[str], names: Sequence[str]) -> None:
    """Refused (CF862) where two words come to one name."""
    by_name: dict[str, list[str]] = {}
    for word, name in zip(words, names, strict=True):
        by_name.setdefault(name, []).append(word)
    if twice := [named_twice(name, those) for name, those in by_name.items() if len(those) > 1]:
        raise Refused(twice)
