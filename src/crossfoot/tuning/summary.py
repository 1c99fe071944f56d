"""A search in words: for a terminal, and for its page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crossfoot.arithmetic.intervals import CONFIDENCE
from crossfoot.arithmetic.means import Estimate
from crossfoot.phrases import counted, listed
from crossfoot.tuning.deciding import Decision
from crossfoot.tuning.space import words_of
from crossfoot.tuning.trials import Trial
from crossfoot.tuning.tuning_file import Goal

_MOST_ROWS = 10
_MOST_NUMBERS = 8


def number_words(value: float) -> str:
    """With three digits that say something."""
    if not math.isfinite(value):
        return "?"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value + 0.0:,.{digits}f}"


def score_words(score: Estimate) -> str:
    """`0.45 (0.21 to 0.69)`; without an interval where nothing varied, or nothing could."""
    if not math.isfinite(score.low) or score.low == score.high:
        return number_words(score.mean)
    return f"{number_words(score.mean)} ({number_words(score.low)} to {number_words(score.high)})"


def ranked(decision: Decision, trials: Sequence[Trial], is_maximized: bool) -> list[Trial]:
    """The chosen one, then by the mean that was decided by; those that failed last."""
    searched = [trial for trial in trials if not trial.is_final]
    sign = -1 if is_maximized else 1

    def order(trial: Trial) -> tuple[bool, bool, float, int]:
        score = decision.scores.get(trial.number)
        is_chosen = trial.number == decision.chosen.number
        return not is_chosen, score is None, sign * score.mean if score else 0.0, trial.number

    return sorted(searched, key=order)


def verdict_lines(decision: Decision) -> list[str]:
    """What came out, in sentences."""
    chosen, highest = decision.chosen, decision.highest
    lines = [f"best: {words_of(chosen.values)} (trial {chosen.number})"]
    others = sorted(trial.number for trial in decision.alike if trial.number != chosen.number)
    if chosen.number != highest.number:
        lines.append(
            f"trial {highest.number} has the best mean, {score_words(decision.scores[highest.number])}, "
            f"but the difference may be chance, and trial {chosen.number} is simpler"
        )
    if others:
        numbers = list(map(str, others[:_MOST_NUMBERS]))
        more = [f"{len(others) - len(numbers)} more"] if len(others) > len(numbers) else []
        trials = "trial" if len(others) == 1 else "trials"
        lines.append(f"not told apart from trial {highest.number}: {trials} {listed([*numbers, *more])}")
    elif chosen.number == highest.number:
        lines.append("every other trial is worse by more than chance explains")
    return lines


def summary(goal: Goal, decision: Decision, trials: Sequence[Trial], prompts: int) -> str:
    """For a terminal."""
    rows: list[tuple[str, ...]] = [("trial", goal.measure, "tokens/s", "values")]
    order = ranked(decision, trials, goal.is_maximized)
    for trial in order[:_MOST_ROWS]:
        score = decision.scores.get(trial.number)
        shown = (score_words(score), number_words(trial.tokens_per_second)) if score else ("failed", "-")
        rows.append((str(trial.number), *shown, words_of(trial.values)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{row[0].rjust(widths[0])}  {row[1].ljust(widths[1])}  {row[2].rjust(widths[2])}  {row[3]}"
        for row in rows
    ]
    if len(order) > _MOST_ROWS:
        lines.append(f"and {counted(len(order) - _MOST_ROWS, 'trial')} more in trials.jsonl")
    return "\n".join([*lines, intervals_words(goal, prompts), "", *verdict_lines(decision)])


def intervals_words(goal: Goal, prompts: int) -> str:
    """What the intervals are."""
    over = (
        "repeats" if goal.is_timed or prompts == 1 else f"{prompts:,} prompts, each the mean of its repeats"
    )
    better = "more" if goal.is_maximized else "less"
    return f"{better} is better; in brackets: {100 * CONFIDENCE:g} % interval over {over} (Student's t)"
