"""Load tests as a page that stands alone, and as a table in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from crossfoot.phrases import counted
from crossfoot.reports.chart import COLOURS, Axis, Point, Series, chart
from crossfoot.reports.page import Html, Page, figures, heading, paragraph, table, verdict
from crossfoot.serving.load_result import PERCENTILES, LoadResult, Sample, Stage, at_percentile

_HEADS = ("users", "requests", "failed", "requests/s", "tokens/s", "first token", "between tokens", "answer")
_MILLISECONDS = "the median / the 95th percentile, in milliseconds, of the requests that were answered"
_MILLI = 1000
_SETTINGS: dict[str, Callable[[LoadResult], object]] = {
    "begun": lambda one: one.begun.replace("T", " ").replace("+00:00", " UTC"),
    "server": lambda one: one.server,
    "address": lambda one: one.url,
    "model": lambda one: one.model,
    "users at once": lambda one: ", ".join(str(stage.users) for stage in one.stages),
    "seconds until all have begun": lambda one: one.plan.get("ramp_up_seconds", ""),
    "requests of each user": lambda one: one.plan.get("loops", ""),
    "different questions": lambda one: one.plan.get("prompts", ""),
    "most tokens of an answer": lambda one: one.plan.get("max_tokens", ""),
}


def load_page(results: Sequence[LoadResult]) -> str:
    """HTML with everything in it; nothing is fetched when it is opened."""
    page = Page(f"Load test: {results[0].name}" if len(results) == 1 else f"{len(results)} load tests")
    page.add(*map(_verdict, results))
    settings = [row for name in _SETTINGS if any((row := _setting(name, results))[1:])]
    names = ("", *(one.name for one in results))
    if differing := [row for row in settings if len(set(row[1:])) > 1]:
        page.add(heading("What differs"), table(names, differing))
    note = f"first token, between tokens, answer: {_MILLISECONDS}"
    page.add(
        heading("What it bears"),
        table(("test", *_HEADS), list(_rows(results)), note),
        heading("Latency"),
        figures(*_latency(results)) or paragraph("No request was answered."),
    )
    if any(len(one.stages) > 1 for one in results) and (over_users := figures(*_over_users(results))):
        page.add(heading("More users at once"), over_users)
    machine = figures(*_machine(results))
    unseen = paragraph("The server's process was not seen from where the test ran.")
    page.add(heading("The server's machine"), machine or unseen)
    return page.add(heading("How it was asked"), table(names, settings)).render()


def load_table(results: Sequence[LoadResult]) -> str:
    """For a terminal."""
    rows = [("", *_HEADS), *_rows(results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )
    return "\n".join([*lines, "milliseconds: the median / the 95th percentile of the requests answered"])


def _rows(results: Sequence[LoadResult]) -> Iterator[tuple[str, ...]]:
    for result in results:
        for stage in result.stages:
            yield (
                result.name,
                f"{stage.users:,}",
                f"{stage.requests:,}",
                f"{stage.failed:,}",
                f"{stage.requests_per_second:,.2f}",
                f"{stage.tokens_per_second:,.1f}",
                _two(stage.first_token_seconds),
                _two(stage.between_tokens_seconds),
                _two(stage.answer_seconds),
            )


def _two(values: Sequence[float]) -> str:
    half, high = at_percentile(values, 50), at_percentile(values, 95)
    if half is None or high is None:
        return "-"
    digits = 1 if high * _MILLI < 100 else 0
    return f"{half * _MILLI:,.{digits}f} / {high * _MILLI:,.{digits}f}"


def _setting(name: str, results: Sequence[LoadResult]) -> tuple[str, ...]:
    return (name, *(str(_SETTINGS[name](one)) for one in results))


def _verdict(result: LoadResult) -> Html:
    if result.passed:
        answered = f"all of {counted(result.requests, 'request')} were answered"
        return verdict("good", f"{result.name}: passed, {answered}.")
    failed = f"{result.failed:,} of {counted(result.requests, 'request')} failed"
    return verdict("bad", f"{result.name}: FAILED, {failed}.", *result.reasons)


def _latency(results: Sequence[LoadResult]) -> Iterator[Html]:
    """Of one test every stage; of several the last one of each, or there would be more lines than colours."""
    if len(results) == 1:
        stages = [(counted(stage.users, "user"), stage) for stage in results[0].stages]
    else:
        last = [(result.name, result.stages[-1]) for result in results if result.stages]
        stages = [(f"{name}, {counted(stage.users, 'user')}", stage) for name, stage in last]

    def by_percentile(title: str, values: Callable[[Stage], Sequence[float]]) -> Html:
        lines = [
            Series(
                label,
                [Point(at, value * _MILLI) for at, value in zip(PERCENTILES, values(stage), strict=False)],
                is_dashed=number >= COLOURS,
            )
            for number, (label, stage) in enumerate(stages)
        ]
        percent = Axis("percent of the requests that had it by then", at=(0, 25, 50, 75, 100))
        return chart(title, percent, Axis("milliseconds", has_zero=True), lines)

    yield by_percentile("Until the first token", lambda stage: stage.first_token_seconds)
    yield by_percentile("From token to token", lambda stage: stage.between_tokens_seconds)
    yield by_percentile("Whole answer", lambda stage: stage.answer_seconds)


def _over_users(results: Sequence[LoadResult]) -> Iterator[Html]:
    users = Axis("users at once", at=sorted({stage.users for result in results for stage in result.stages}))

    def lines(
        value: Callable[[Stage], float | None], what: str = "", is_dashed: bool = False
    ) -> list[Series]:
        return [
            Series(
                _label(results, result, what),
                list(_points(result, value)),
                colour=number,
                is_dashed=is_dashed,
            )
            for number, result in enumerate(results)
        ]

    def first_token(percentile: int) -> Callable[[Stage], float | None]:
        def milliseconds(stage: Stage) -> float | None:
            seconds = at_percentile(stage.first_token_seconds, percentile)
            return None if seconds is None else seconds * _MILLI

        return milliseconds

    both = [*lines(first_token(50), "median"), *lines(first_token(95), "95 %", is_dashed=True)]
    yield chart("Until the first token", users, Axis("milliseconds", has_zero=True), both)
    tokens, requests = Axis("tokens a second", has_zero=True), Axis("requests a second", has_zero=True)
    yield chart("Tokens of all users", users, tokens, lines(lambda stage: stage.tokens_per_second))
    yield chart("Requests of all users", users, requests, lines(lambda stage: stage.requests_per_second))


def _label(results: Sequence[LoadResult], result: LoadResult, what: str = "") -> str:
    """For a legend: of one test alone, its name says nothing."""
    name = result.name if len(results) > 1 else ""
    return ", ".join(filter(None, (name, what)))


def _points(result: LoadResult, value: Callable[[Stage], float | None]) -> Iterator[Point]:
    for stage in sorted(result.stages, key=lambda stage: stage.users):
        if stage.failed < stage.requests and (known := value(stage)) is not None:
            yield Point(stage.users, known)


def _machine(results: Sequence[LoadResult]) -> Iterator[Html]:
    def over_time(title: str, unit: str, value: Callable[[Sample], float | None]) -> Html:
        lines = []
        for number, result in enumerate(results):
            known = ((sample.at, value(sample)) for sample in result.samples)
            points = [Point(at, each) for at, each in known if each is not None]
            lines.append(Series(_label(results, result), points, colour=number))
        return chart(title, Axis("seconds since the test began"), Axis(unit, has_zero=True), lines)

    yield over_time("CPU of the server", "cores in use", lambda sample: sample.cpu)
    yield over_time("Memory of the server", "MB", lambda sample: sample.memory_bytes / 1e6)
    yield over_time("Fullest GPU: use", "percent", lambda sample: sample.gpu_percent)
    yield over_time(
        "Fullest GPU: memory",
        "MB",
        lambda sample: None if sample.gpu_bytes is None else sample.gpu_bytes / 1e6,
    )
