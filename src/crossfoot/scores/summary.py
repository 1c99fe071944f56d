"""evaluation.json: what the items of a log come to, for each subject, group and task, and for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from crossfoot.arithmetic.intervals import Interval, wilson
from crossfoot.documents import plain
from crossfoot.scores.item_log import BudgetChange, LogRead, Origin
from crossfoot.scores.item_score import Score
from crossfoot.scores.work_summary import WorkSummary, work_summary
from crossfoot.tasks.exam_groups import group_order

SUMMARY_FORMAT = 1
Kind = Literal["choice", "text", "perplexity"]


@dataclass(frozen=True)
class Perplexity:
    """Of texts, all of them taken as one: e to the mean loss of a token, a character, a word (between white
    space, so it says nothing of Chinese), a byte. None where there is none of them.
    """

    per_token: float | None
    per_character: float | None
    per_word: float | None
    per_byte: float | None
    bits_per_byte: float | None


@dataclass(frozen=True)
class Part:
    """Some items. judged: whose right answer is known. correct: of these; a text is, if it is exactly the
    reference. accuracy: their share, with its Wilson interval; guessing: the share that pure chance gives.
    accuracy_per_token, accuracy_per_character: were the likeliest choice taken by that. mean_log_likelihood:
    of the right choices, or of texts. chrf: mean, from 0 to 100. Whatever has no meaning is None.
    """

    name: str
    items: int
    judged: int
    correct: int
    accuracy: Interval | None
    guessing: float | None
    accuracy_per_token: float | None
    accuracy_per_character: float | None
    mean_log_likelihood: float | None
    chrf: float | None
    perplexity: Perplexity | None


@dataclass(frozen=True)
class TaskSummary:
    """whole: all items alike (micro average). macro_accuracy: the mean of its subjects' accuracies, each
    subject counting the same.
    """

    name: str
    kind: Kind
    whole: Part
    macro_accuracy: float | None
    groups: tuple[Part, ...]
    subjects: tuple[Part, ...]


@dataclass(frozen=True)
class Counts:
    """Items: whose prompt has lost shots, and shots that were lost; scored again; whose text held no letter;
    whose text is empty; whose score is NaN; whose two best choices are exactly level; whose right answer is
    hidden.
    """

    with_shots_dropped: int
    shots_dropped: int
    rescored: int
    without_letter: int
    empty: int
    not_a_number: int
    level: int
    hidden: int


@dataclass(frozen=True)
class Summary:
    """scores_sha256: of scores.jsonl. whole: all items. macro_accuracy: the mean of the tasks' accuracies."""

    format: int
    origin: Origin
    scores_sha256: str
    whole: Part
    macro_accuracy: float | None
    counts: Counts
    tasks: tuple[TaskSummary, ...]
    work: WorkSummary
    budgets: tuple[BudgetChange, ...]


def summary_of(log: LogRead, scores_sha256: str) -> Summary:
    """log: with at least one item."""
    if log.origin is None:
        raise ValueError("an empty log has no summary")
    scores = [item.score for item in log.items]
    tasks = tuple(_task(name, part) for name, part in _parts(scores, lambda one: one.task))
    return Summary(
        SUMMARY_FORMAT,
        log.origin,
        scores_sha256,
        _part("all", scores),
        _macro(task.whole for task in tasks),
        _counts(scores),
        tasks,
        work_summary(log.items),
        log.budgets,
    )


def summary_document(summary: Summary) -> dict[str, Any]:
    """evaluation.json: without what has no meaning."""
    document: dict[str, Any] = _told(plain(summary))
    return document


def submission(task: str, scores: Iterable[Score]) -> dict[str, dict[str, str]]:
    """The answers whose right ones are hidden, in the form that C-Eval takes: subject -> id -> letter."""
    letters: dict[str, dict[str, str]] = {}
    for score in scores:
        if score.task == task and score.has_choices and score.gold is None:
            id_ = score.id.removeprefix(f"{score.subject}/")
            letters.setdefault(score.subject, {})[id_] = "" if score.answer is None else score.shown_answer
    return letters


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _told(part) for key, part in value.items() if part is not None}
    return [_told(part) for part in value] if isinstance(value, list) else value


def _task(name: str, scores: Sequence[Score]) -> TaskSummary:
    subjects = tuple(_part(subject, part) for subject, part in _parts(scores, lambda one: one.subject))
    groups = tuple(_part(group, part) for group, part in _groups(scores))
    return TaskSummary(name, _kind(scores[0]), _part(name, scores), _macro(subjects), groups, subjects)


def _parts(scores: Sequence[Score], of: Callable[[Score], str]) -> list[tuple[str, list[Score]]]:
    """By name; names in the order of the items."""
    parts: dict[str, list[Score]] = {}
    for score in scores:
        parts.setdefault(of(score), []).append(score)
    return list(parts.items())


def _groups(scores: Sequence[Score]) -> list[tuple[str, list[Score]]]:
    """By name; a score may be in several."""
    names = {name for one in scores for name in one.groups}
    known = [name for name in group_order() if name in names]
    ordered = (*known, *sorted(names - {*known}))
    return [(name, [one for one in scores if name in one.groups]) for name in ordered]


def _kind(score: Score) -> Kind:
    if score.kind == "rolling":
        return "perplexity"
    return "choice" if score.has_choices else "text"


def _part(name: str, scores: Sequence[Score]) -> Part:
    judged = [one for one in scores if one.is_correct is not None]
    correct = sum(bool(one.is_correct) for one in judged)
    return Part(
        name,
        len(scores),
        len(judged),
        correct,
        wilson(correct, len(judged)) if judged else None,
        _mean(1 / len(one.scores) for one in judged if one.has_choices and one.scores),
        _accuracy((one.answer_per_token, one.gold) for one in scores),
        _accuracy((one.answer_per_character, one.gold) for one in scores),
        _mean(map(_log_likelihood, scores)) if len({one.kind == "rolling" for one in scores}) == 1 else None,
        _mean(one.chrf for one in scores),
        _perplexity(scores),
    )


def _accuracy(answers: Iterable[tuple[int | None, int | None]]) -> float | None:
    return _mean(float(answer == gold) for answer, gold in answers if answer is not None and gold is not None)


def _macro(parts: Iterable[Part]) -> float | None:
    return _mean(part.accuracy.value for part in parts if part.accuracy is not None)


def _log_likelihood(score: Score) -> float | None:
    """None where nothing tells it."""
    if score.kind == "rolling":
        return score.scores[0]
    return score.scores[score.gold] if score.kind == "loglikelihood" and score.gold is not None else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are; the sum is exact before it is rounded, so the order does not count."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _perplexity(scores: Sequence[Score]) -> Perplexity | None:
    if any(one.kind != "rolling" for one in scores):
        return None
    loss = -math.fsum(one.scores[0] for one in scores)
    counts = (
        sum(one.tokens[0] for one in scores),
        sum(sum(one.characters) for one in scores),
        sum(one.words for one in scores),
        sum(one.bytes for one in scores),
    )
    token, character, word, byte = (loss / count if count else None for count in counts)
    bits = None if byte is None else byte / math.log(2)
    return Perplexity(_exp(token), _exp(character), _exp(word), _exp(byte), bits)


def _exp(value: float | None) -> float | None:
    try:
        return None if value is None else math.exp(value)
    except OverflowError:
        return math.inf


def _counts(scores: Sequence[Score]) -> Counts:
    return Counts(
        sum(one.shots_dropped > 0 for one in scores),
        sum(one.shots_dropped for one in scores),
        sum(one.is_rescored for one in scores),
        sum(one.letter_found is False for one in scores),
        sum(one.text == "" for one in scores),
        sum(not one.is_number for one in scores),
        sum(one.margin == 0 for one in scores),
        sum(one.is_correct is None and one.kind != "rolling" for one in scores),
    )
