"""Numbers of an evaluation as people read them, in tables for a terminal, for Markdown and for a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from crossfoot.arithmetic.intervals import Interval
from crossfoot.output import visible_line
from crossfoot.phrases import clock, counted, size
from crossfoot.scores.item_log import shown
from crossfoot.scores.summary import Summary, TaskSummary
from crossfoot.scores.work_summary import CANNOT_TELL, WorkSummary

_MOST_CELLS = 36
_MOST_CHANGES = 40
_NUMBER = re.compile(r"[-+]?[0-9.]|$")
"""How a cell begins of a column that stands at the right."""
MEAN = "mean of the subjects"
INTERVALS = "from, to: the 95 % interval of the accuracy (Wilson)"
_PERFORMANCE = "performance = throughput x batch / memory"


@dataclass(frozen=True)
class Table:
    """heads, and rows as long as they are. notes: below it."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def percent(share: float | None) -> str:
    """`58.3 %`."""
    return "" if share is None else f"{100 * share:.1f} %"


def points(gap: Interval) -> str:
    """`+5.9 (-3.1 to +14.8)`, in percentage points."""
    value, low, high = (f"{100 * each + 0.0:+.1f}" for each in (gap.value, gap.low, gap.high))
    return f"{value} ({low} to {high})"


def some_text(text: str) -> str:
    """On one line, cut where it is long."""
    line = visible_line(text.replace("\n", " ").strip())
    return line if cell_len(line) <= _MOST_CELLS else set_cell_size(line, _MOST_CELLS - 1).rstrip() + "…"


def aligned(rows: Sequence[Sequence[str]], left: int = 1, indent: int = 0) -> Iterator[str]:
    """Lines for a terminal; the first columns, `left` of them, at their left, the others at their right."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = []
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - cell_len(cell))
            cells.append(cell + blank if at < left else blank + cell)
        yield (" " * indent + "  ".join(cells)).rstrip()


def markdown(table: Table) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield _markdown_row(table.heads)
    sides = ("---:" if all(map(_NUMBER.match, column)) else "---" for column in zip(*table.rows, strict=True))
    yield f"|{'|'.join(sides)}|"
    yield from map(_markdown_row, table.rows)
    for note in table.notes:
        yield ""
        yield note


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(visible_line(cell).replace("|", "\\|") for cell in cells) + " |"


def task_table(task: TaskSummary) -> Table:
    """Its subjects, its groups, and all; columns that say nothing are left out."""
    if task.kind == "perplexity":
        return _perplexities(task)
    parts = [*task.subjects, *task.groups]
    parts += [task.whole] if len(parts) != 1 else []
    accuracies = [part.accuracy for part in parts]
    is_text = task.kind == "text"
    columns = {
        "subject": [part.name for part in parts],
        "items": [f"{part.items:,}" for part in parts],
        "exact" if is_text else "right": [f"{part.correct:,}" if part.judged else "" for part in parts],
        "accuracy": ["" if one is None else percent(one.value) for one in accuracies],
        "from": ["" if one is None else percent(one.low) for one in accuracies],
        "to": ["" if one is None else percent(one.high) for one in accuracies],
        "per token": [percent(part.accuracy_per_token) for part in parts],
        "per character": [percent(part.accuracy_per_character) for part in parts],
        "log-likelihood": [_number(part.mean_log_likelihood) for part in parts],
        "chrF": [_number(part.chrf) for part in parts],
    }
    if len(task.subjects) > 1 and task.macro_accuracy is not None:
        for name, cells in columns.items():
            cells.append({"subject": MEAN, "accuracy": percent(task.macro_accuracy)}.get(name, ""))
    notes = [INTERVALS if task.whole.judged else "the right answers are hidden"]
    if task.whole.guessing is not None:
        notes.append(f"who guesses has {percent(task.whole.guessing)} right")
    if task.whole.accuracy_per_token is not None:
        notes.append("per token, per character: were the likeliest choice taken by that")
    return _table(columns, notes)


def _perplexities(task: TaskSummary) -> Table:
    parts = [*task.subjects, *([task.whole] if len(task.subjects) > 1 else [])]
    each = [(part, part.perplexity) for part in parts if part.perplexity is not None]
    columns = {
        "texts": [part.name for part, _ in each],
        "items": [f"{part.items:,}" for part, _ in each],
        "per token": [_number(one.per_token) for _, one in each],
        "per character": [_number(one.per_character) for _, one in each],
        "per word": [_number(one.per_word) for _, one in each],
        "per byte": [_number(one.per_byte) for _, one in each],
        "bits per byte": [_number(one.bits_per_byte) for _, one in each],
    }
    return _table(
        columns, ("perplexity: lower is better; per byte it compares models whatever their tokenizers are",)
    )


def _table(columns: dict[str, list[str]], notes: Sequence[str]) -> Table:
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    return Table(tuple(kept), tuple(zip(*kept.values(), strict=True)), tuple(notes))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else clock(seconds)


def headline(summary: Summary) -> str:
    """The result in one line."""
    whole = summary.whole
    if whole.accuracy is None:
        return f"{counted(whole.items, 'item')}, none of them with a known answer"
    low, high = percent(whole.accuracy.low), percent(whole.accuracy.high)
    right = f"{whole.correct:,} of {counted(whole.judged, 'item')}"
    return f"{percent(whole.accuracy.value)} right: {right} (95 % interval {low} to {high})"


def made_with(summary: Summary) -> str:
    """Of what the scores are made."""
    origin = summary.origin
    words = [
        f"scorer {origin.scorer}",
        origin.dtype,
        origin.device,
        f"torch {origin.torch}",
        f"seed {origin.seed}",
    ]
    return ", ".join([*words, *(f"{name} {shown(value)}" for name, value in origin.options.items())])


def remarks(summary: Summary) -> Iterator[str]:
    """What is to be known beside the shares."""
    found = summary.counts
    if not summary.origin.device.startswith("cpu"):
        again = counted(found.rescored, "item")
        yield f"{again} scored again at one fixed shape, since the margin was within rounding"
    for number, words in (
        (
            found.with_shots_dropped,
            f"with fewer shots than asked for: {counted(found.shots_dropped, 'shot')} did not fit",
        ),
        (found.without_letter, "whose answer held no letter: a letter was drawn"),
        (
            found.empty,
            "whose answer is empty: it ended before its first word",
        ),
        (found.not_a_number, "whose score is NaN: counted as wrong"),
        (found.level, "whose two best choices are exactly level: the first of them counts"),
        (found.hidden, "whose right answer is hidden"),
    ):
        if number:
            yield f"{counted(number, 'item')} {words}"


def result_lines(summary: Summary) -> Iterator[str]:
    """For a terminal: the table of each task, what is to be known, the result."""
    for task in summary.tasks:
        found = task_table(task)
        yield f"{task.name}:"
        yield from aligned([found.heads, *found.rows], indent=2)
        yield from (f"  {note}" for note in found.notes)
        yield ""
    yield from remarks(summary)
    yield headline(summary)
    yield f"scores_sha256 {summary.scores_sha256}"


def throughput(work: WorkSummary) -> Table:
    """Time, throughput and memory."""
    ranks = f" on {work.ranks} ranks" if work.ranks > 1 else ""
    rows = {
        f"time of computing{ranks}": _time(work.seconds),
        "items a second": _number(work.items_per_second),
        "tokens a second, padding in": _number(work.token_slots_per_second),
        "rows in a forward, on average": f"{work.mean_rows:.1f}",
        "peak memory": "" if work.peak_bytes is None else size(work.peak_bytes),
        _PERFORMANCE: _number(work.performance),
    }
    notes = (
        (f"{_PERFORMANCE}: items a second x rows in a forward / GB. {CANNOT_TELL}",)
        if work.performance
        else ()
    )
    return Table(("", "value"), tuple((name, value) for name, value in rows.items() if value), notes)


def budget_table(summary: Summary) -> Table:
    """How many tokens a forward was given, and why."""
    rows = (
        (
            _time(each.seconds),
            f"{each.rank}",
            f"{each.budget_tokens:,}",
            "" if each.free_bytes is None else size(each.free_bytes),
            each.why,
        )
        for each in summary.budgets[:_MOST_CHANGES]
    )
    more = len(summary.budgets) - _MOST_CHANGES
    notes = (f"and {counted(more, 'change')} more in the logs of items",) if more > 0 else ()
    return Table(("after", "rank", "tokens a forward", "free memory", "why"), tuple(rows), notes)


def slowest_table(work: WorkSummary) -> Table:
    """The slowest items."""
    rows = (
        (f"{one.task}/{one.id}", f"{one.milliseconds:,.0f}", f"{one.bucket:,}", one.place)
        for one in work.slowest
    )
    return Table(("item", "milliseconds", "padded length", "place"), tuple(rows))
