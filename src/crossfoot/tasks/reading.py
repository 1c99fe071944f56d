"""What stands behind --tasks, read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

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
        return name, path
    return os.path.basename(word).removesuffix(".gz").removesuffix(kind_of(word)), word


def _form_of(word: str, name: str) -> Form | None:
    return "ceval" if word == SHIPPED else _EXAMS.get(name if "=" in word else "")


def _file(word: str, path: str, name: str) -> Task:
    kinds = (*RECORDS, TEXT)
    if os.path.isdir(path):
        form = form_of_folder(path)
        helps = [f"name it as the exam that it holds: {form}={quoted_path(path)}"] if form else []
        raise Refused(unknown_task(word, "is a folder", *helps))
    if not os.path.isfile(path):
        raise Refused(unknown_task(word, "is neither a file nor the name of a task", *near_help(path)))
    if kind_of(path) not in kinds:
        raise Refused(unknown_task(word, "is no kind of file that is read", f"read are {listed(kinds)}"))
    try:
        return read_task_file(path, name)
    except OSError as error:
        raise Refused(unknown_task(word, reason_of(error), "name a file that can be read")) from error


def _refuse_one_name(words: Sequence[str], names: Sequence[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise Refused(list(_named_twice(words, names, twice)))


def _named_twice(words: Sequence[str], names: Sequence[str], twice: Sequence[str]) -> Iterator[Finding]:
    for name in twice:
        yield named_twice(name, [word for word, each in zip(words, names, strict=True) if each == name])
