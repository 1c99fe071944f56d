"""Load tests as a page that stands alone, and as a table in a terminal."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence

from crossfoot.phrases import counted
from crossfoot.serving.chart import COLOURS, Line, chart
from crossfoot.serving.load_result import PERCENTILES, LoadResult, Sample, Stage, at_percentile

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;margin:0 auto;max-width:1320px;padding:16px}
h1{font-size:1.4em;margin:.2em 0}h2{font-size:1.1em;margin:1.6em 0 .4em}
.verdict{padding:10px 14px;border-radius:6px;font-weight:600;overflow-wrap:anywhere}
.good{background:#e4f4ea;color:#14532d}.bad{background:#fbe4e6;color:#7f1d1d}
.wide{overflow-x:auto}table{border-collapse:collapse;white-space:nowrap;font-size:.9em}
td,th{padding:4px 12px;text-align:right;border-bottom:1px solid #e3e3e3}
td:first-child,th:first-child{text-align:left;padding-left:0}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,380px),1fr));gap:20px}
figure{margin:0}figcaption{font-weight:600}
svg{width:100%;height:auto;font:13px system-ui,sans-serif;fill:#444}
ul{list-style:none;margin:2px 0;padding:0;display:flex;flex-wrap:wrap;gap:2px 16px;font-size:.85em}
.key{width:24px;height:8px}p{overflow-wrap:anywhere;margin:.4em 0}.small{color:#666;font-size:.9em}
"""
_HEADS = ("users", "requests", "failed", "requests/s", "tokens/s", "first token", "between tokens", "answer")
_MILLI = 1000


def load_page(results: Sequence[LoadResult]) -> str:
    """HTML with everything in it; nothing is fetched when it is opened."""
    title = "Load test" if len(results) == 1 else f"{len(results)} load tests"
    names = " · ".join(html.escape(one.name) for one in results)
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}: {names}</title>',
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>',
        f"<body><h1>{title}: {names}</h1>",
        *map(_verdict, results),
        _html_table(results),
        "<p class='small'>first token, between tokens, answer: the median and the 95th percentile, in "
        "milliseconds, of the requests that were answered.</p>",
        "<h2>Latency</h2>",
        f"<div class='charts'>{''.join(_latency(results))}</div>",
        "<h2>The server's machine</h2>",
        f"<div class='charts'>{''.join(_machine(results))}</div>"
        if any(one.samples for one in results)
        else "<p>The server's process was not seen from where the test ran.</p>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


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


def _verdict(result: LoadResult) -> str:
    plan = result.plan
    asked = f"{counted(result.requests, 'request')}, {plan.get('loops')} by each user"
    if result.passed:
        kind, words = "good", f"Passed: all of {asked}, were answered."
    else:
        kind, words = "bad", f"FAILED: {result.failed:,} of {asked}, failed."
    why = "".join(
        f"<p>{counted(number, 'time')}: {html.escape(reason)}</p>"
        for reason, number in result.why.most_common(5)
    )
    about = (
        f"{result.url}, model {result.model}; ramp-up {plan.get('ramp_up_seconds')} s, at most "
        f"{plan.get('max_tokens')} tokens an answer"
    )
    server = f"<p class='small'>server: {html.escape(result.server)}</p>" if result.server else ""
    name = html.escape(result.name)
    return (
        f"<p class='verdict {kind}'>{name}: {words}</p>{why}<p class='small'>{html.escape(about)}</p>{server}"
    )


def _html_table(results: Sequence[LoadResult]) -> str:
    head = "".join(f"<th>{word}</th>" for word in ("test", *_HEADS))
    rows = (f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(results))
    return f"<div class='wide'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _latency(results: Sequence[LoadResult]) -> Iterator[str]:
    stages = [(result, stage) for result in results for stage in result.stages]

    def by_percentile(title: str, values: Callable[[Stage], Sequence[float]]) -> str:
        lines = (
            Line(
                f"{result.name}, {counted(stage.users, 'user')}",
                [(at, value * _MILLI) for at, value in zip(PERCENTILES, values(stage), strict=False)],
                COLOURS[number % len(COLOURS)],
            )
            for number, (result, stage) in enumerate(stages)
        )
        return chart(f"{title}, milliseconds", "percent of the requests that had it by then", list(lines))

    yield by_percentile("Until the first token", lambda stage: stage.first_token_seconds)
    yield by_percentile("From token to token", lambda stage: stage.between_tokens_seconds)
    yield by_percentile("Whole answer", lambda stage: stage.answer_seconds)
    if any(len(result.stages) > 1 for result in results):
        yield chart(
            "Until the first token, milliseconds, over users",
            "users at once",
            [
                *_over_users(results, "median", lambda stage: at_percentile(stage.first_token_seconds, 50)),
                *_over_users(
                    results, "95 %", lambda stage: at_percentile(stage.first_token_seconds, 95), dashed=True
                ),
            ],
        )
        for what, value in (
            ("Tokens a second", lambda stage: stage.tokens_per_second / _MILLI),
            ("Requests a second", lambda stage: stage.requests_per_second / _MILLI),
        ):
            yield chart(f"{what}, of all users", "users at once", list(_over_users(results, "", value)))


def _over_users(
    results: Sequence[LoadResult], what: str, value: Callable[[Stage], float | None], dashed: bool = False
) -> Iterator[Line]:
    for number, result in enumerate(results):
        known = sorted(
            (stage.users, value(stage)) for stage in result.stages if stage.failed < stage.requests
        )
        points = [(users, each * _MILLI) for users, each in known if each is not None]
        label = f"{result.name}, {what}" if what else result.name
        yield Line(label, points, COLOURS[number % len(COLOURS)], dashed)


def _machine(results: Sequence[LoadResult]) -> Iterator[str]:
    def over_time(title: str, value: Callable[[Sample], float | None]) -> str:
        lines = []
        for number, result in enumerate(results):
            known = ((sample.at, value(sample)) for sample in result.samples)
            points = [(at, each) for at, each in known if each is not None]
            lines.append(Line(result.name, points, COLOURS[number % len(COLOURS)]))
        return chart(title, "seconds since the test began", lines)

    yield over_time("CPU of the server, cores in use", lambda sample: sample.cpu)
    yield over_time("Memory of the server, MB", lambda sample: sample.memory_bytes / 1e6)
    yield over_time("Fullest GPU, percent of use", lambda sample: sample.gpu_percent)
    yield over_time(
        "Fullest GPU, memory in MB",
        lambda sample: None if sample.gpu_bytes is None else sample.gpu_bytes / 1e6,
    )
