"""A search as a page that stands alone: the best, the trade-off, what each parameter does, the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossfoot.data.prompts import Prompt
from crossfoot.phrases import counted
from crossfoot.reports.chart import Axis, Bar, Point, Series, bars, chart
from crossfoot.reports.page import Html, Page, figures, heading, paragraph, table, verdict
from crossfoot.tuning.deciding import Decision
from crossfoot.tuning.space import Choice, shown, words_of
from crossfoot.tuning.summary import intervals_words, number_words, ranked, score_words, verdict_lines
from crossfoot.tuning.trials import Trial
from crossfoot.tuning.tuning_file import TuningFile

_MOST_ANSWERS, _MOST_LETTERS = 100, 90
_BEST, _GREEDY, _SAMPLING = 2, 0, 1
"""Colours."""


@dataclass(frozen=True)
class _Search:
    """All that the page is about. trials: those that were measured, by number."""

    file: TuningFile
    decision: Decision
    trials: Sequence[Trial]

    @property
    def measure(self) -> str:
        return self.file.config.goal.measure

    def point(self, x: float, trial: Trial) -> Point:
        score = self.decision.scores[trial.number]
        return Point(x, score.mean, score.low, score.high)

    def dots(self, x: Callable[[Trial], float | None]) -> list[Series]:
        """Greedy, sampled, and the best one, each with its interval."""
        chosen = self.decision.chosen.number
        kinds: dict[tuple[str, int], list[Point]] = {("greedy", _GREEDY): [], ("sampling", _SAMPLING): []}
        best = (f"best: trial {chosen}", _BEST)
        for trial in self.trials:
            kind = (
                best
                if trial.number == chosen
                else ("sampling", _SAMPLING)
                if trial.samples
                else ("greedy", _GREEDY)
            )
            if (at := x(trial)) is not None:
                kinds.setdefault(kind, []).append(self.point(at, trial))
        return [Series(label, points, "dots", colour) for (label, colour), points in kinds.items() if points]

    @property
    def up(self) -> Axis:
        return Axis(self.measure, has_zero=self.measure in ("exact_match", "length", "tokens_per_second"))


def tuning_page(
    file: TuningFile,
    decision: Decision,
    trials: Sequence[Trial],
    prompts: Sequence[Prompt],
    effective: Mapping[str, Any],
) -> str:
    """HTML with everything in it; nothing is fetched when it is opened. effective: what is generated with."""
    goal, searched = file.config.goal, [trial for trial in trials if not trial.is_final]
    search = _Search(file, decision, [trial for trial in searched if not trial.failed])
    best, *reasons = verdict_lines(decision)
    page = Page(f"Tuned: {file.config.model}")
    score = f"{goal.measure} {score_words(decision.scores[decision.chosen.number])}"
    page.add(
        verdict("good", f"{best[:1].upper()}{best[1:]}: {score}", *reasons),
        paragraph(
            f"{counted(len(searched), 'trial')} on {counted(len(prompts), 'prompt')} of "
            f"{file.config.prompts}; "
            f"{intervals_words(goal, len(prompts))}. Written: {words_of(effective)}.",
            is_small=True,
        ),
        heading("The trade-off"),
        figures(*_trade_off(search)),
        heading("What each parameter does"),
        figures(*_parameters(search)),
        heading("Every trial"),
        table(*_table(search, searched)),
    )
    if len(searched) != len(search.trials):
        failed = [trial for trial in searched if trial.failed]
        page.add(
            *(paragraph(f"trial {trial.number} failed: {trial.failed}", is_small=True) for trial in failed)
        )
    return page.add(heading("Answers"), *_answers(search, prompts)).render()


def _trade_off(search: _Search) -> Iterator[Html]:
    if search.measure != "tokens_per_second":
        speed = Axis("new tokens a second, all prompts together", has_zero=True)
        note = "Measured while it searched: other work on the machine shows here too."
        yield chart("Over speed", speed, search.up, search.dots(lambda trial: trial.tokens_per_second), note)
    if search.measure != "length":
        length = Axis("tokens of an answer, the mean", has_zero=True)
        yield chart("Over length", length, search.up, search.dots(lambda trial: trial.tokens_per_answer))
    order = Axis("trial", is_whole=True)
    yield chart(
        "In the order in which they were tried", order, search.up, search.dots(lambda trial: trial.number)
    )


def _parameters(search: _Search) -> Iterator[Html]:
    for name, values in search.file.space.items():
        if isinstance(values, Choice):
            yield _choices(search, name, values)
            continue

        def value(trial: Trial, name: str = name) -> float | None:
            return trial.values.get(name)

        yield chart(name, Axis(name, is_log=values.is_log), search.up, search.dots(value))


def _choices(search: _Search, name: str, values: Choice) -> Html:
    """The best trial with each value."""
    sign = 1 if search.file.config.goal.is_maximized else -1
    each = []
    for option in values.options:
        having = [trial for trial in search.trials if trial.values.get(name) == option]
        if not having:
            continue
        best = max(having, key=lambda trial: sign * search.decision.scores[trial.number].mean)
        score = search.decision.scores[best.number]
        text = f"{number_words(score.mean)}, trial {best.number}"
        each.append(Bar(f"{name} {shown(option)}", score.mean, text, score.low, score.high))
    return bars(name, each, f"{search.measure} of the best trial with it") if len(each) > 1 else Html("")


def _table(search: _Search, searched: Sequence[Trial]) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    names = [
        name for name, one in search.file.space.items() if not isinstance(one, Choice) or one.options[1:]
    ]
    rows = []
    for trial in ranked(search.decision, searched, search.file.config.goal.is_maximized):
        score = search.decision.scores.get(trial.number)
        measured = ("failed", "-", "-")
        if score is not None:
            numbers = (trial.tokens_per_second, trial.tokens_per_answer)
            measured = (score_words(score), number_words(numbers[0]), number_words(numbers[1]))
        values = (shown(trial.values[name]) if name in trial.values else "-" for name in names)
        rows.append((str(trial.number), *measured, *values))
    note = "-: without effect there. The best first, then by the mean."
    return ("trial", search.measure, "tokens/s", "tokens an answer", *names), rows, note


def _answers(search: _Search, prompts: Sequence[Prompt]) -> Iterator[Html]:
    """Of the best trial, and beside it of the best one that answers in the other way."""
    chosen, goal = search.decision.chosen, search.file.config.goal
    order = ranked(search.decision, search.trials, goal.is_maximized)
    other = next((trial for trial in order if trial.samples != chosen.samples), None)
    shown_trials = [chosen, *([other] if other else [])]
    heads = ["prompt", "reference"]
    for trial in shown_trials:
        kind = "sampling" if trial.samples else "greedy"
        heads += [f"trial {trial.number}, {kind}", *([] if goal.is_timed else [goal.measure])]
    rows = []
    for index, prompt in enumerate(prompts[:_MOST_ANSWERS]):
        row = [_cut(prompt.text), _cut(prompt.reference or "-")]
        for trial in shown_trials:
            row.append(_cut(trial.answers[0][index]))
            row += [] if goal.is_timed else [number_words(trial.scores[0][index])]
        rows.append(row)
    more = len(prompts) - len(rows)
    note = "Of the first repeat." + (f" {counted(more, 'more prompt')} in trials.jsonl." if more > 0 else "")
    yield table(heads, rows, note)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MOST_LETTERS else f"{flat[:_MOST_LETTERS]}…"
