"""The folder of an evaluation: its papers, made of the log, and read again when two are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossfoot import durable
from crossfoot.documents import Malformed, read_file, read_object
from crossfoot.findings.finding import Finding, Refused
from crossfoot.output import json_text
from crossfoot.phrases import counted, reason_of
from crossfoot.scores.findings import no_evaluation, not_a_number, scores_changed
from crossfoot.scores.item_log import LogRead, read_log
from crossfoot.scores.page import evaluation_log, evaluation_page
from crossfoot.scores.score_file import SCORES, score_text, scores_sha256
from crossfoot.scores.summary import Summary, submission, summary_document, summary_of

EVALUATION, LOG_PAGE, PAGE = "evaluation.json", "evaluation_log.md", "page.html"
_MOST_BYTES = 1 << 32


@dataclass(frozen=True)
class Evaluation:
    """A finished one. told: what is worth knowing about it."""

    log: LogRead
    summary: Summary
    told: tuple[Finding, ...]


def finish(folder: str | Path) -> Evaluation:
    """All items are in the log: write what is made of it. Raises Refused, OSError."""
    folder = Path(folder)
    found = _evaluation(folder)
    files = {
        SCORES: score_text(item.score for item in found.log.items),
        EVALUATION: json_text(summary_document(found.summary)) + "\n",
        LOG_PAGE: evaluation_log(found.summary),
        PAGE: evaluation_page(found.summary, found.log.written),
        **dict(_submissions(found)),
    }
    for name, text in files.items():
        durable.replace(folder / name, text)
    return found


def read_evaluation(folder: str | Path) -> Evaluation:
    """A finished one, its papers held against its log. Raises Refused."""
    folder = Path(folder)
    if not folder.is_dir():
        why = "there is no such folder" if not folder.exists() else "it is no folder"
        raise Refused(no_evaluation(str(folder), why, "name the folder that crossfoot evaluate has printed"))
    found = _evaluation(folder)
    if not (folder / EVALUATION).exists():
        done = counted(len(found.log.items), "item")
        why = f"it has no {EVALUATION} yet, and {done} in its log"
        help_ = "start the same crossfoot evaluate command again: it goes on with them"
        raise Refused(no_evaluation(str(folder), why, help_))
    for file, sha256 in _said(folder).items():
        if sha256 != found.summary.scores_sha256:
            raise Refused(scores_changed(str(folder), file))
    return found


def _evaluation(folder: Path) -> Evaluation:
    log = read_log(folder)
    if not log.items:
        help_ = "name the folder that crossfoot evaluate has printed"
        raise Refused(no_evaluation(str(folder), "it has no log with items (items.jsonl)", help_))
    sha256 = scores_sha256(score_text(item.score for item in log.items))
    summary = summary_of(log, sha256)
    odd = [str(item.score.key) for item in log.items if not item.score.is_number]
    told = [not_a_number(odd, summary.origin.dtype)] if odd else []
    return Evaluation(log, summary, (*log.told, *told))


def _said(folder: Path) -> dict[str, str]:
    """By file, which scores it says there are."""
    try:
        scores = read_file(folder / SCORES, _MOST_BYTES)
        named = read_object(folder / EVALUATION).get("scores_sha256")
    except (OSError, Malformed) as error:
        help_ = "start the same crossfoot evaluate command again: it writes its results anew"
        raise Refused(no_evaluation(str(folder), reason_of(error), help_)) from error
    return {SCORES: scores_sha256(scores), EVALUATION: str(named)}


def _submissions(found: Evaluation) -> Iterator[tuple[str, str]]:
    """A file for each task with hidden answers; of the only one without its name."""
    scores = [item.score for item in found.log.items]
    answers = {task.name: submission(task.name, scores) for task in found.summary.tasks}
    hidden = {task: each for task, each in answers.items() if each}
    for task, each in hidden.items():
        name = "submission.json" if len(hidden) == 1 else f"submission-{task}.json"
        yield name.replace("/", "_"), json_text(each) + "\n"
