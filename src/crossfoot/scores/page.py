"""An evaluation as a page that stands alone, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from crossfoot.reports.chart import Axis, Bar, Point, Series, bars, chart
from crossfoot.reports.page import Html, Page, figures, heading, paragraph, table, verdict
from crossfoot.scores.item_score import Scored
from crossfoot.scores.summary import Summary, TaskSummary
from crossfoot.scores.tables import (
    Table,
    budget_table,
    headline,
    made_with,
    markdown,
    percent,
    remarks,
    slowest_table,
    task_table,
    throughput,
)
from crossfoot.scores.work_summary import memory_by_rank

_GREEN, _GREY = 2, 5
_SECONDS = Axis("seconds of computing", has_zero=True)


def evaluation_page(summary: Summary, written: Sequence[Scored]) -> str:
    """HTML. written: the items in the order in which they were scored."""
    page = Page(f"Evaluation: {summary.origin.model or 'a model'}")
    page.add(
        verdict("plain", headline(summary), *remarks(summary)),
        paragraph(made_with(summary)),
        paragraph(f"scores_sha256 {summary.scores_sha256}", is_small=True),
    )
    for task in summary.tasks:
        page.add(heading(task.name), _bars(task), _html(task_table(task)))
    page.add(
        heading("How it was computed"),
        _html(throughput(summary.work)),
        figures(_budgets(summary), _memory(written)),
    )
    if summary.budgets:
        page.add(heading("Why the budget changed"), _html(budget_table(summary)))
    page.add(heading("Slowest items"), _html(slowest_table(summary.work)))
    return page.render()


def evaluation_log(summary: Summary) -> str:
    """Markdown."""
    return "\n".join(_log_lines(summary)) + "\n"


def _log_lines(summary: Summary) -> Iterator[str]:
    yield f"# Evaluation: {summary.origin.model or 'a model'}"
    yield ""
    yield f"**{headline(summary)}**"
    yield ""
    yield from (f"- {words}" for words in remarks(summary))
    yield f"- {made_with(summary)}"
    yield f"- scores_sha256 `{summary.scores_sha256}`"
    for task in summary.tasks:
        yield from _section(task.name, task_table(task))
    yield from _section("How it was computed", throughput(summary.work))
    if summary.budgets:
        yield from _section("Why the budget changed", budget_table(summary))
    yield from _section("Slowest items", slowest_table(summary.work))


def _section(title: str, found: Table) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield from markdown(found)


def _html(found: Table) -> Html:
    notes = (paragraph(note, is_small=True) for note in found.notes)
    return Html("\n".join([table(found.heads, found.rows), *notes]))


def _bars(task: TaskSummary) -> Html:
    """The accuracies with their intervals: of all, of groups, of subjects."""
    parts = [*([task.whole] if len(task.subjects) > 1 else []), *task.groups, *task.subjects]
    drawn = [
        Bar(
            part.name,
            100 * part.accuracy.value,
            percent(part.accuracy.value),
            100 * part.accuracy.low,
            100 * part.accuracy.high,
            _GREY if part is task.whole else _GREEN * (part in task.groups),
        )
        for part in parts
        if part.accuracy is not None
    ]
    return figures(bars("Accuracy from 0 to 100 %, with 95 % intervals", drawn, is_wide=True, end=100))


def _budgets(summary: Summary) -> Html:
    """A step for each change."""
    end = summary.work.seconds
    lines = []
    for rank, changes in groupby(summary.budgets, key=lambda each: each.rank):
        points: list[Point] = []
        for change in changes:
            points += [Point(change.seconds, points[-1].y)] if points else []
            points.append(Point(change.seconds, change.budget_tokens))
        points.append(Point(max(end, points[-1].x), points[-1].y))
        lines.append(Series(f"rank {rank}" if summary.work.ranks > 1 else "", points))
    return chart("Budget", _SECONDS, Axis("tokens a forward", is_whole=True, has_zero=True), lines)


def _memory(written: Sequence[Scored]) -> Html:
    ranks = memory_by_rank(written)
    lines = [
        Series(
            f"rank {rank}" if len(ranks) > 1 else "", [Point(at.seconds, at.peak_bytes / 1e9) for at in each]
        )
        for rank, each in ranks.items()
        if any(at.peak_bytes for at in each)
    ]
    return chart("Memory in use, at most", _SECONDS, Axis("GB", has_zero=True), lines)
