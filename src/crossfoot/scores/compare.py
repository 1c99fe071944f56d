"""`crossfoot evaluate --compare A B`: which items two evaluations have answered otherwise, and whether that
is more than chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from crossfoot.arithmetic.intervals import CONFIDENCE, Pairs
from crossfoot.findings.finding import Refused
from crossfoot.output import say
from crossfoot.phrases import counted
from crossfoot.scores.findings import not_comparable
from crossfoot.scores.item_score import Key, Scored, letter
from crossfoot.scores.result_folder import Evaluation, read_evaluation
from crossfoot.scores.summary import Part
from crossfoot.scores.tables import aligned, percent, points, some_text

_SIDES = ("right in the second alone", "right in the first alone", "answered otherwise, without gain or loss")
METHOD = (
    "second - first: percentage points, with the 95 % interval (Newcombe 1998, paired shares, method 10)",
    "p: McNemar's exact test: how often items that only one has right would fall so unevenly by chance",
)


@dataclass(frozen=True)
class Pair:
    """One item of both."""

    first: Scored
    second: Scored

    @property
    def is_judged(self) -> bool:
        """Whether it is known of both if they are right."""
        return self.first.score.is_correct is not None and self.second.score.is_correct is not None

    @property
    def side(self) -> int:
        """Of _SIDES; -1 where both answered the same, or are both right."""
        one, other = self.first.score, self.second.score
        if self.is_judged and one.is_correct != other.is_correct:
            return int(bool(one.is_correct))
        return -1 if one.answer == other.answer or one.is_correct else 2


def compare(first: str, second: str) -> int:
    """Say it; returns the exit code. Raises Refused (CF865 to CF872)."""
    for line in comparison(read_evaluation(first), read_evaluation(second)):
        say(line)
    return 0


def comparison(a: Evaluation, b: Evaluation) -> Iterator[str]:
    """In lines: each item that changed, then all in one table. Raises Refused (CF872)."""
    pairs = _pairs(a, b)
    if a.summary.scores_sha256 == b.summary.scores_sha256:
        yield f"identical: scores_sha256 {a.summary.scores_sha256} ({counted(len(pairs), 'item')})"
        return
    yield from _changed_items(pairs)
    yield f"first   {a.log.folder}: {_made(a)}"
    yield f"second  {b.log.folder}: {_made(b)}"
    yield from (
        f"        {words}"
        for words in a.summary.origin.differences(b.summary.origin, "in the first", "in the second")
    )
    yield ""
    yield from _shares(pairs)
    yield from _other_measures(a, b)
    yield ""
    yield _verdict(pairs)


def _pairs(a: Evaluation, b: Evaluation) -> list[Pair]:
    """Item by item, the same was asked."""
    one, other = ({item.score.key: item for item in each.log.items} for each in (a, b))
    for here, there, name in ((one, other, "first"), (other, one, "second")):
        if alone := [key for key in here if key not in there]:
            tasks = Counter(key.task for key in alone)
            notes = [f"task {task}: {counted(number, 'item')}" for task, number in tasks.items()]
            what = f"only the {name} has some of the items"
            raise Refused(not_comparable(what, _names(alone), notes if len(tasks) > 1 else ()))
    pairs = [Pair(item, other[key]) for key, item in one.items()]
    if asked := [pair for pair in pairs if pair.first.score.prompt_sha256 != pair.second.score.prompt_sha256]:
        raise Refused(not_comparable("their prompts differ", _keys(asked), list(_why(asked))))
    if judged := [pair for pair in pairs if pair.first.score.gold != pair.second.score.gold]:
        raise Refused(not_comparable("their right answers differ", _keys(judged)))
    return pairs


def _why(pairs: Sequence[Pair]) -> Iterator[str]:
    sides = (
        ("first", [pair.first.score for pair in pairs]),
        ("second", [pair.second.score for pair in pairs]),
    )
    for name, scores in sides:
        if dropped := sum(one.shots_dropped > 0 for one in scores):
            yield f"the {name} has dropped shots from {dropped:,} of them"
        shots = sorted({one.shots + one.shots_dropped for one in scores})
        yield f"the {name} was asked for {' or '.join(map(str, shots))} shots"


def _keys(pairs: Sequence[Pair]) -> list[str]:
    return _names([pair.first.score.key for pair in pairs])


def _names(keys: Sequence[Key]) -> list[str]:
    return list(map(str, keys))


def _changed_items(pairs: Sequence[Pair]) -> Iterator[str]:
    if any(pair.side >= 0 for pair in pairs):
        yield "item, where it stands, the answer of the first -> of the second (each with its margin)"
        yield ""
    for side, words in enumerate(_SIDES):
        changed = [pair for pair in pairs if pair.side == side]
        if changed:
            yield f"{words}: {counted(len(changed), 'item')}"
            for own in _by(changed, lambda pair: pair.first.score.task).values():
                yield from aligned([_row(pair) for pair in own], left=4, indent=2)
            yield ""


def _row(pair: Pair) -> tuple[str, ...]:
    score = pair.first.score
    right = "" if score.gold is None else f"right: {letter(score.gold)}"
    return (
        str(score.key),
        pair.first.work.short_place,
        f"{_answer(pair.first)} -> {_answer(pair.second)}",
        right,
    )


def _answer(item: Scored) -> str:
    score = item.score
    text = score.shown_answer if score.has_choices else some_text(score.shown_answer)
    return text if score.margin is None else f"{text} ({score.margin:.3g})"


def _made(one: Evaluation) -> str:
    origin = one.summary.origin
    return f"{origin.model or 'model'} ({origin.scorer}, {origin.dtype}, {origin.device})"


def _shares(pairs: Sequence[Pair]) -> Iterator[str]:
    judged = [pair for pair in pairs if pair.is_judged]
    if not judged:
        return
    rows: list[tuple[str, ...]] = [("", "first", "second", "second - first", "p")]
    tasks = _by(judged, lambda pair: pair.first.score.task)
    for task, own in tasks.items():
        subjects = _by(own, lambda pair: pair.first.score.subject)
        if len(subjects) > 1:
            rows.extend(_share(f"  {subject}", each) for subject, each in subjects.items())
        rows.append(_share(task, own))
    if len(tasks) > 1:
        rows.append(_share("all", judged))
    yield from aligned(rows)
    yield from METHOD


def _by(pairs: Sequence[Pair], of: Callable[[Pair], str]) -> dict[str, list[Pair]]:
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        parts.setdefault(of(pair), []).append(pair)
    return parts


def counts_of(pairs: Sequence[Pair]) -> Pairs:
    """Of pairs whose right answers are known."""
    found = Counter((bool(one.first.score.is_correct), bool(one.second.score.is_correct)) for one in pairs)
    return Pairs(found[True, True], found[True, False], found[False, True], found[False, False])


def _share(name: str, pairs: Sequence[Pair]) -> tuple[str, ...]:
    counts = counts_of(pairs)
    first, second = counts.both + counts.only_first, counts.both + counts.only_second
    return (
        name,
        f"{percent(first / len(pairs))} ({first:,}/{len(pairs):,})",
        f"{percent(second / len(pairs))} ({second:,}/{len(pairs):,})",
        points(counts.difference()),
        _p(counts.p_value()),
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _other_measures(a: Evaluation, b: Evaluation) -> Iterator[str]:
    """What no share tells: chrF, and the perplexity of texts."""
    for one, other in zip(a.summary.tasks, b.summary.tasks, strict=True):
        for words, value in (("chrF", _chrf), ("perplexity per byte", _per_byte)):
            first, second = value(one.whole), value(other.whole)
            if first is not None and second is not None:
                yield f"{one.name}: {words} {first:.4g} in the first, {second:.4g} in the second"


def _chrf(part: Part) -> float | None:
    return part.chrf


def _per_byte(part: Part) -> float | None:
    return None if part.perplexity is None else part.perplexity.per_byte


def _verdict(pairs: Sequence[Pair]) -> str:
    changed = sum(pair.first.score.answer != pair.second.score.answer for pair in pairs)
    if not changed:
        moved = sum(repr(pair.first.score.scores) != repr(pair.second.score.scores) for pair in pairs)
        return f"the same answers to all {counted(len(pairs), 'item')}; the scores of {moved:,} differ"
    judged = [pair for pair in pairs if pair.is_judged]
    head = f"{changed:,} of {counted(len(pairs), 'item')} answered otherwise"
    if not judged:
        return head
    counts = counts_of(judged)
    if counts.p_value() >= 1 - CONFIDENCE:
        return f"{head}; chance alone would explain the difference in accuracy"
    better = "second" if counts.only_second > counts.only_first else "first"
    return f"{head}; the {better} is better, by more than chance explains"
