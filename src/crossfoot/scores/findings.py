"""What can be wrong with the folder of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, listed

_SHOWN = 3


@rule_docs("CF865")
def other_evaluation(folder: str, changed: Sequence[str], keys: Sequence[str] = ()) -> Finding:
    """CF865: a folder holds scores that were made otherwise than they would be made now.

    An evaluation that was killed goes on where it was, and its scores are one set: of one model, scorer,
    seed, dtype and version of torch, on one kind of device, and of the prompts that are asked now. What
    differs is named. How many items are computed at once, on how many ranks, may change at any time.
    """
    items = (f"of {counted(len(keys), 'item')}: {_some(keys)}",) if keys else ()
    return Finding(
        "CF865",
        f"{folder} holds another evaluation",
        notes=(*changed, *items),
        helps=("give this one a folder of its own",),
    )


@rule_docs("CF866", "note")
def item_line_torn(file: str, line: int) -> Finding:
    """CF866: the last line of a log of items is unfinished, and left out.

    A kill or a power cut has torn it. Its item counts as not scored: the same command computes it again.
    """
    return Finding(
        "CF866",
        "the last line is unfinished, and left out",
        severity="note",
        place=Place(file, line),
        notes=("its item is computed again when the evaluation goes on",),
    )


@rule_docs("CF867", name="item-log-damaged")
def item_log_damaged(file: str, line: int, why: str) -> Finding:
    """CF867: a line of a log of items is not what `crossfoot evaluate` writes.

    Only the last line can be torn by a kill, and that one is left out. Any other damage comes from a disk, a
    copy that was not finished, or a hand. With the line taken out, its item is computed again.
    """
    return Finding(
        "CF867",
        f"the log of items cannot be read: {why}",
        place=Place(file, line),
        helps=("copy the file again, or take the line out: its item is then computed again",)
        if line > 1
        else ("copy the file again, or name another folder",),
        unreadable=True,
    )


@rule_docs("CF868", name="item-log-unwritable")
def item_log_unwritable(path: str, why: str, help_: str) -> Finding:
    """CF868: an evaluation cannot keep its scores.

    A disk that is full loses nothing: the items so far are in the log, and the same command goes on with
    them. One process writes a file of the log; a second one is refused.
    """
    return Finding("CF868", f"{path} cannot be written: {why}", helps=(help_,))


@rule_docs("CF869", name="item-scored-twice")
def scored_twice(folder: str, key: str, place: str) -> Finding:
    """CF869: a log of items has two scores for one item, and they are not the same.

    An item is scored once. That a second score differs in a single bit means that the two were not computed
    by one evaluation: files of two logs lie in one folder.
    """
    return Finding(
        "CF869",
        f"{folder} has two different scores for {key}",
        notes=(f"the item is {place}",),
        helps=("keep the files of one evaluation in a folder, and put the others elsewhere",),
    )


@rule_docs("CF870", name="no-evaluation")
def no_evaluation(folder: str, why: str, help_: str) -> Finding:
    """CF870: a folder holds no evaluation that is finished.

    `crossfoot evaluate` writes items.jsonl while it works, and scores.jsonl and evaluation.json at the end.
    """
    return Finding("CF870", f"{folder} holds no finished evaluation: {why}", helps=(help_,), unreadable=True)


@rule_docs("CF871", name="scores-changed")
def scores_changed(folder: str, file: str) -> Finding:
    """CF871: the scores of an evaluation are not those that its log gives.

    scores.jsonl is made of items.jsonl alone, and evaluation.json names its sha256: three papers that say the
    same. Where one of them does not, it was changed or mixed up with another evaluation's.
    """
    return Finding(
        "CF871",
        f"{folder}: {file} is not what items.jsonl gives",
        helps=(
            "the log is the source: the same crossfoot evaluate command makes the other files of it again",
        ),
    )


@rule_docs("CF872", name="not-comparable")
def not_comparable(what: str, keys: Sequence[str], notes: Sequence[str] = ()) -> Finding:
    """CF872: two evaluations have not asked the same.

    Item by item, both must have had the same prompt and the same right answer. Shots that do not fit into one
    model's window are the usual reason: with fewer shots for both, the prompts are the same.
    """
    return Finding(
        "CF872",
        f"these evaluations cannot be compared: {what}",
        notes=(f"{counted(len(keys), 'item')}: {_some(keys)}", *notes),
        helps=("evaluate both with the same tasks, scorer and number of shots",),
    )


@rule_docs("CF873", "warning", name="score-not-a-number")
def not_a_number(keys: Sequence[str], dtype: str) -> Finding:
    """CF873: a model has given items a score that is not a number.

    NaN cannot be compared with anything, so no choice is taken and the item counts as wrong. In float16,
    large activations overflow; bfloat16 and float32 have the range.
    """
    return Finding(
        "CF873",
        f"{counted(len(keys), 'item has', 'items have')} no score: NaN",
        severity="warning",
        notes=(_some(keys),),
        helps=(f"evaluate in another dtype than {dtype}: --dtype float32",)
        if dtype != "float32"
        else ("look at the weights: the model itself gives NaN",),
    )


def _some(keys: Sequence[str]) -> str:
    shown = list(keys[:_SHOWN])
    more = len(keys) - len(shown)
    return listed([*shown, f"{more:,} more"] if more else shown)
