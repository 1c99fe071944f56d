"""What can be wrong with a task as a whole: one mistake, one code, one docstring (the manual page)."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.data.converting import recoded_in_place
from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, listed
from crossfoot.tasks.item_findings import SHOWN, Found, shown


@rule_docs("CF850", name="task-unknown")
def unknown_task(word: str, why: str, *helps: str) -> Finding:
    """CF850: what stands behind --tasks names no task.

    `exam` is the small set that comes with crossfoot. `ceval=FOLDER` and `cmmlu=FOLDER` are the folders of
    those exams, with dev, val and test in them. A file is a task of your own: .jsonl, .json or .parquet with
    questions and choices, or with prompts and references, or .txt, whose perplexity is measured; `NAME=FILE`
    gives it another name than the file's.
    """
    known = "name one of: exam, ceval=FOLDER, cmmlu=FOLDER, FILE.jsonl, FILE.txt"
    return Finding("CF850", f"no task: {word} {why}", helps=helps or (known,), unreadable=True)


@rule_docs("CF851")
def no_exam_folder(folder: str, why: str, *helps: str) -> Finding:
    """CF851: a folder is not that of the exam that was named.

    Of C-Eval it holds dev, val and test with files SUBJECT_dev.csv, SUBJECT_val.csv and SUBJECT_test.csv; of
    CMMLU dev and test with SUBJECT.csv in each. The folder around it and the folders in it are looked at, and
    named if one of them is meant.
    """
    return Finding("CF851", f"{folder} {why}", helps=helps, unreadable=True)


@rule_docs("CF852", name="subject-unknown")
def unknown_subject(names: Sequence[str], near: Sequence[str], known: Sequence[str]) -> Finding:
    """CF852: --subjects names what no task has.

    A subject of an exam is called as its file, without `_val.csv`.
    """
    has = f"{listed(known[:8])}{f' and {len(known) - 8:,} more' if len(known) > 8 else ''}"
    nearest = (f"the nearest there {'is' if len(near) == 1 else 'are'} {listed(near)}",) if near else ()
    return Finding(
        "CF852",
        f"no task has the subject{'' if len(names) == 1 else 's'} {listed(names, 'or')}",
        notes=(f"there are: {has}",) if known else ("exams have subjects: exam, ceval=FOLDER, cmmlu=FOLDER",),
        helps=nearest or ("name subjects that are there, or leave --subjects out",),
        unreadable=True,
    )


@rule_docs("CF853", name="mixed-encodings")
def mixed_encodings(most: str, others: Sequence[tuple[str, str]]) -> Finding:
    """CF853: the tables of one exam are written in several encodings.

    A folder that is GB18030 (GBK) as a whole is read as such. One of which a few files differ was changed
    after it was made, most often by a program that saves tables as it likes: look at what else it changed
    (numbers, ids, line ends) before you convert them.
    """
    found = [(Place(file), f"{encoding} text") for file, encoding in others]
    helps = tuple(
        recoded_in_place(file, encoding) for file, encoding in others[:SHOWN] if encoding != "UTF-8"
    )
    return Finding(
        "CF853",
        f"the tables of an exam are {most}, but for {len(others):,} of them",
        **shown(found),
        helps=helps or ("write all of them in one encoding, UTF-8 is best",),
        unreadable=True,
    )


@rule_docs("CF861")
def too_few_shots(shots: int, fewest: int, subjects: int, found: Found) -> Finding:
    """CF861: more worked examples are asked for than a subject has.

    They come from the dev split: SUBJECT_dev.csv of C-Eval, dev/SUBJECT.csv of CMMLU, the records with
    `"split": "dev"` of a task file. A subject with fewer than the others would make its score one of another
    kind.
    """
    return Finding(
        "CF861",
        f"fewer than {counted(shots, 'worked example')} in {len(found):,} of {counted(subjects, 'subject')}",
        **shown(found),
        helps=("put the examples there", f"or ask for as many as all have: --shots {fewest}"),
    )


@rule_docs("CF862", name="task-named-twice")
def named_twice(name: str, words: Sequence[str]) -> Finding:
    """CF862: two tasks of an evaluation have one name.

    Scores are written down by it. An exam is called ceval or cmmlu, a file as it is called without its
    ending.
    """
    return Finding(
        "CF862",
        f"two tasks are called {name}: {listed(words)}",
        helps=("evaluate them one after the other", "or give a file a name of its own: NAME=FILE"),
    )


@rule_docs("CF863", name="task-without-items")
def no_items(path: str, why: str) -> Finding:
    """CF863: a file of a task has nothing to ask.

    It is empty, or holds a header and no row, or worked examples alone.
    """
    return Finding(
        "CF863",
        "a task has nothing to ask",
        place=Place(path),
        label=why,
        helps=("name a file with items",),
        unreadable=True,
    )


@rule_docs("CF864", name="task-not-exported")
def not_exported(task: str, why: str, help_: str) -> Finding:
    """CF864: a task cannot be written for lm-evaluation-harness so that it asks the same.

    It asks for choices by log-likelihood (clean, clean-choices), for texts and for perplexity; it has nothing
    that asks as alpaca2 does. It needs the right answers, which a hidden split does not have.
    """
    return Finding("CF864", f"the task {task} is not exported: {why}", helps=(help_,))
