"""The folders of C-Eval and CMMLU, as they are handed out: a table for each subject and split."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from crossfoot.findings.finding import Place, Refused
from crossfoot.phrases import listed
from crossfoot.shell_words import quoted_path
from crossfoot.tasks.encodings import common_encoding
from crossfoot.tasks.exam_groups import groups_of
from crossfoot.tasks.exam_tables import Columns, read_table
from crossfoot.tasks.findings import no_exam_folder, no_items, unknown_subject
from crossfoot.tasks.item_findings import Mistakes, no_answer
from crossfoot.tasks.items import Form, Item, Task
from crossfoot.written.near_paths import near_help

SPLITS = ("dev", "val", "test")
SHOTS_FROM = "dev"
_ENDING = ".csv"


@dataclass(frozen=True)
class Layout:
    """named: what stands behind the subject in a file's name, by split. split: the one that is asked unless
    another is named, because its answers are known.
    """

    columns: Columns
    split: str
    named: Mapping[str, str]


LAYOUTS: Mapping[Form, Layout] = {
    "ceval": Layout(
        Columns("question", "answer", "id"), "val", {split: f"_{split}{_ENDING}" for split in SPLITS}
    ),
    "cmmlu": Layout(Columns("Question", "Answer", ""), "test", dict.fromkeys(("dev", "test"), _ENDING)),
}
EXAM = os.path.join(os.path.dirname(__file__), "exam")
"""The set that is shipped, in C-Eval's form."""


def read_exam(
    form: Form,
    folder: str,
    *,
    name: str,
    split: str | None = None,
    subjects: Sequence[str] = (),
    with_shots: bool = True,
) -> Task:
    """All items of one split. subjects: only these; those that are not there are passed over.

    Raises Refused: CF851, CF853 to CF859, CF863, and what the readers of data find.
    """
    layout = LAYOUTS[form]
    split = split or layout.split
    files = _tables(form, folder, split)
    wanted = {subject: files[subject] for subject in files if not subjects or subject in subjects}
    shot_files = _shot_files(form, folder, wanted) if with_shots and split != SHOTS_FROM else {}
    there = {subject: path for subject, path in shot_files.items() if os.path.isfile(path)}
    encoding = common_encoding([*wanted.values(), *there.values()])
    mistakes = Mistakes()

    def items(subject: str, path: str) -> tuple[Item, ...]:
        read = read_table(path, layout.columns, encoding, (name, subject), mistakes)
        groups = groups_of(form, subject)
        return tuple(replace(item, groups=groups) for item in read)

    shots = {subject: items(subject, path) for subject, path in there.items()}
    for subject, path in there.items():
        if shots[subject] and all(shot.gold is None for shot in shots[subject]):
            mistakes.note(no_answer, Place(path), "none of its worked examples has an answer")
    asked = {subject: items(subject, path) for subject, path in wanted.items()}
    warnings = mistakes.findings()
    if empty := [no_items(wanted[subject], "it has no row") for subject in asked if not asked[subject]]:
        raise Refused(empty)
    every = tuple(item for subject in asked for item in asked[subject])
    return Task(name, "choice", every, shots, form, split, shot_files, warnings)


def subjects_of(form: Form, folder: str, split: str | None = None) -> tuple[str, ...]:
    """Of a split, by name. Raises Refused (CF851)."""
    return tuple(_tables(form, folder, split or LAYOUTS[form].split))


def refuse_unknown_subjects(names: Iterable[str], known: Sequence[str]) -> None:
    """Refused (CF852) for names that are not there."""
    if unknown := [name for name in names if name not in known]:
        near = [each for name in unknown for each in difflib.get_close_matches(name, known, n=1)]
        raise Refused(unknown_subject(unknown, near, known))


def _shot_files(form: Form, folder: str, subjects: Iterable[str]) -> dict[str, str]:
    """Where the worked examples of each subject should be."""
    ending = LAYOUTS[form].named[SHOTS_FROM]
    return {subject: os.path.join(folder, SHOTS_FROM, subject + ending) for subject in subjects}


def _tables(form: Form, folder: str, split: str) -> dict[str, str]:
    """The files of a split by subject, in the order of their names. Raises Refused (CF851)."""
    named = LAYOUTS[form].named
    if split not in named:
        known = " or ".join(named)
        raise Refused(no_exam_folder(folder, f"has no split {split}: {form} has {known}", f"name {known}"))
    if not os.path.isdir(folder):
        why = "is a file, not a folder" if os.path.exists(folder) else "is not there"
        helps = (*near_help(folder, os.path.isdir), f"name the folder that holds {split}: {form}=FOLDER")
        raise Refused(no_exam_folder(folder, why, helps[0]))
    _refuse_another(form, folder)
    inner, ending = os.path.join(folder, split), named[split]
    names = [name for name in _tables_in(inner) if name.endswith(ending)]
    if not names:
        there = [each for each in named if _tables_in(os.path.join(folder, each))]
        why = f"has no {split}/SUBJECT{ending}; it has tables in {listed(there)}"
        raise Refused(no_exam_folder(folder, why, f"name a split that is there: {listed(there, 'or')}"))
    return {name.removesuffix(ending): os.path.join(inner, name) for name in names}


def _refuse_another(form: Form, folder: str) -> None:
    """Refused for a folder that is not of this exam, with what is meant if that is near."""
    is_form = form_of_folder(folder)
    if is_form == form:
        return
    around = os.path.normpath(os.path.join(folder, ".."))
    inner = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    deeper = next((each for each in inner if form_of_folder(each)), None)
    if is_form is not None:
        why, help_ = f"is a folder of {is_form}", f"name it so: {is_form}={quoted_path(folder)}"
    elif _tables_in(folder) and (of_around := form_of_folder(around)) is not None:
        why, help_ = "is one split alone", f"name the folder around it: {of_around}={quoted_path(around)}"
    elif deeper is not None:
        why = f"holds no tables in dev, val or test, but {deeper} does"
        help_ = f"name that: {form_of_folder(deeper)}={quoted_path(deeper)}"
    else:
        why = "holds no tables in dev, val or test" if inner else "is empty"
        help_ = "name the folder as the exam is handed out: folders dev, val and test with .csv in them"
    raise Refused(no_exam_folder(folder, why, help_))


def form_of_folder(folder: str) -> Form | None:
    """Of which exam a folder is, by the names of its tables."""
    cevals = LAYOUTS["ceval"].named
    names = [(split, name) for split in SPLITS for name in _tables_in(os.path.join(folder, split))]
    if any(name.endswith(cevals[split]) for split, name in names):
        return "ceval"
    return "cmmlu" if names else None


def _tables_in(folder: str) -> list[str]:
    """Names of tables, sorted; what programs leave beside them begins with a dot (`._a.csv`)."""
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if name.endswith(_ENDING) and not name.startswith("."))
