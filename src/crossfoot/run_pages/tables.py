"""The tables of a run's page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from crossfoot.arithmetic.noise_scale import NoiseScale
from crossfoot.ledger.entry import CAUSE_KINDS
from crossfoot.phrases import size
from crossfoot.receipts.columns import Row
from crossfoot.reports.page import Both, Html, Text, paragraph, table
from crossfoot.reports.text import joined
from crossfoot.run_pages.seen_run import SeenRun
from crossfoot.run_pages.words import (
    KINDS,
    NOTHING,
    amount_words,
    end_words,
    engine_words,
    row_words,
    weight_words,
    where_words,
)
from crossfoot.runs.attempts import Attempt
from crossfoot.runs.ending import PeakMemory
from crossfoot.runs.noise_scale import RunNoise
from crossfoot.scores.tables import percent

_MOST_HOSTS, _MOST_DIGITS = 4, 12
_MODEL = Both("model", "模型")


def receipt_table(seen: SeenRun) -> Html:
    """Its rows: planned, real, and the difference."""
    heads = (
        Both("receipt", "回执"),
        Both("planned", "计划"),
        Both("real", "实际"),
        Both("difference", "差异"),
    )
    rows = [
        (row_words(row.name), f"{row.planned:,}", f"{row.real:,}", _signed(row.difference))
        for row in seen.receipt.rows
    ]
    return table(heads, rows)


def receipts_table(labels: Sequence[str], runs: Sequence[SeenRun]) -> Html:
    """Of several runs: what was real, and how far off the plan where it is."""
    each = [{row.name: row for row in seen.receipt.rows} for seen in runs]
    names = dict.fromkeys(name for rows in each for name in rows)
    body = [(row_words(name), *(_real(rows.get(name)) for rows in each)) for name in names]
    note = Both(
        "What was measured; in brackets the difference from the plan, where there is one.",
        "表中为实测值；与计划不符时，括号内为差异。",
    )
    return table((Both("receipt", "回执"), *labels), body, note)


def cause_tables(seen: SeenRun) -> Iterator[Html]:
    """Why it does not foot, what was accepted before it started, what was changed on purpose."""
    receipt = seen.receipt
    if receipt.summary:
        heads = (
            Both("code", "代码"),
            Both("what", "原因"),
            Both("how much", "数量"),
            Both("where", "位置"),
            Both("weights", "对权重的影响"),
        )
        rows = [
            (
                one.code,
                Both(CAUSE_KINDS[one.kind][1], KINDS[one.kind]),
                amount_words(one.amount),
                where_words(one.where) if one.where else NOTHING,
                weight_words(one.weights),
            )
            for one in receipt.summary
        ]
        note = Both("What a code means: crossfoot explain CODE.", "代码的含义：crossfoot explain 代码。")
        yield table(heads, rows, note)
    if receipt.accepted:
        accepted = Both("accepted on purpose", "有意接受的问题")
        yield table(
            (Both("code", "代码"), accepted, Both("reason", "理由"), Both("attempts", "启动次序")),
            [(one.code, one.title, one.reason, _numbers(one.attempts)) for one in receipt.accepted],
        )
    if receipt.allowed:
        changed = Both("changed on purpose", "有意修改的设置")
        yield table(
            (changed, Both("before", "原值"), Both("now", "新值"), Both("attempt", "启动次序")),
            [(one.key, _said(one.before), _said(one.now), str(one.attempt)) for one in receipt.allowed],
        )
    if not (receipt.summary or receipt.accepted or receipt.allowed):
        words = Both(
            "None: nothing differs from the plan, nothing was accepted or changed on purpose.",
            "无：与计划没有差异，也没有有意接受或修改的内容。",
        )
        yield paragraph(words)


def attempt_table(seen: SeenRun) -> Html:
    """When and where each attempt ran, what it did, and how it ended."""
    heads = (
        Both("attempt", "启动"),
        Both("started", "开始时间"),
        Both("where", "位置"),
        Both("engine", "引擎"),
        Both("began", "起点"),
        Both("steps", "步数"),
        Both("lost", "丢失"),
        Both("ended", "结束"),
        Both("peak memory", "峰值内存"),
    )
    by_number = {row.attempt: row for row in seen.receipt.history}
    views = {view.number: view for view in seen.state.attempts}
    rows = []
    for one in seen.run.attempts:
        attempt, view = one.attempt, views.get(one.attempt.attempt)
        row = by_number[attempt.attempt]
        how = one.ending.reason if one.ending else (view.how if view else "killed")
        end = end_words(how)
        rows.append(
            (
                str(attempt.attempt),
                attempt.started[:19].replace("T", " "),
                _where(attempt),
                engine_words(attempt),
                attempt.from_checkpoint or Both("the beginning", "从头开始"),
                f"{row.steps:,}",
                f"{row.lost:,}",
                joined([end, view.why], ": ", "：") if view and view.why else end,
                memory_words(one.ending.memory if one.ending else None),
            )
        )
    note = Both(
        "Times are UTC. Memory: of the rank that held most; an attempt that was killed has not measured it.",
        "时间为 UTC。内存取占用最多的 rank；被强制终止的启动没有测量值。",
    )
    return table(heads, rows, note) if rows else Html("")


def evaluation_table(seen: SeenRun) -> Html:
    """What its last own evaluation came to, and finished ones in its folder; empty without any."""
    heads = (
        Both("evaluation", "评测"),
        Both("task", "任务"),
        Both("items", "题数"),
        Both("accuracy", "准确率"),
    )
    last = seen.run.evaluations[-1:]
    rows: list[tuple[Text, ...]] = [
        (os.path.basename(one.folder), task.name, f"{task.items:,}", percent(task.accuracy) or NOTHING)
        for one in last
        for task in one.tasks
    ]
    for name, found in seen.evaluations.items():
        for summary in found.summary.tasks:
            accuracy = summary.whole.accuracy and percent(summary.whole.accuracy.value)
            rows.append((name, summary.name, f"{summary.whole.items:,}", accuracy or NOTHING))
    note = Both(
        "More in evaluations/ of the run folder: page.html of each.",
        "详情见运行目录下 evaluations/ 中各评测的 page.html。",
    )
    return table(heads, rows, note) if rows else Html("")


def noise_table(noise: RunNoise) -> Html:
    """Of all parameters, and of each kind of them, as far as the engine shows it."""
    heads = (
        Both("parameters", "参数"),
        Both("noise scale, samples", "噪声尺度（样本）"),
        Both("interval, 95 %", "95 % 区间"),
        Both("trained tokens", "训练 token"),
        Both("steps", "步数"),
    )
    named: list[tuple[Text, NoiseScale]] = [(Both("all", "全部"), noise.total), *noise.groups.items()]
    rows = [(name, *_noise_cells(scale), f"{scale.steps:,}") for name, scale in named]
    note = Both(
        "Up to about this many samples a step, twice the batch nearly halves the steps (McCandlish et al. "
        "2018). n/a: not sure enough to be a number.",
        "批大小在此值以下时，批增大一倍，所需步数接近减半（McCandlish 等，2018）。"
        "n/a：不确定性过大，无法给出数值。",
    )
    return table(heads, rows, note)


def _noise_cells(scale: NoiseScale) -> tuple[str, str, str]:
    samples, tokens = scale.samples, scale.tokens
    if samples is None or tokens is None:
        return "n/a", scale.why_not or NOTHING, NOTHING
    interval = f"{_three(samples.low)} – {_three(samples.high)}"
    return _three(samples.value), interval, _three(tokens.value)


def environment_table(seen: SeenRun) -> Html:
    """Programs, machines and precision, over all attempts in their order."""
    attempts = [one.attempt for one in seen.run.attempts]
    rows: list[tuple[Text, str]] = [("crossfoot", _over(one.crossfoot for one in attempts))]
    names = dict.fromkeys(name for one in attempts for name in one.versions)
    rows += [(name, _over(one.versions.get(name, "") for one in attempts)) for name in names]
    devices = (one.ending.memory.device for one in seen.run.attempts if one.ending and one.ending.memory)
    rows += [
        ("GPU", _over(devices)),
        (Both("hosts", "主机"), _over(", ".join(_hosts(one)) for one in attempts)),
        (Both("SLURM job", "SLURM 作业"), _over(one.job_id or "" for one in attempts)),
        (Both("engine", "引擎"), _over(engine_words(one) for one in attempts)),
        (Both("computed in", "计算精度"), str(seen.planned("config", "model", "dtype") or "")),
        (Both("float32 products", "float32 矩阵乘法"), _over(one.matmul or "" for one in attempts)),
        (_MODEL, str(seen.planned("config", "model", "path") or "")),
        *((key, commit[:_MOST_DIGITS]) for key, commit in (seen.planned("commits") or {}).items()),
        (Both("plan (lock)", "计划锁"), seen.receipt.sha[:_MOST_DIGITS]),
        (Both("command", "启动命令"), _over(" ".join(one.command) for one in attempts)),
    ]
    return table((Both("what", "项目"), Both("value", "值")), [row for row in rows if row[1]])


def memory_words(memory: PeakMemory | None) -> Text:
    """`4.1 GB`, and of what."""
    if memory is None:
        return NOTHING
    of = Both("on the GPU", "显存") if memory.of == "GPU" else Both("resident", "常驻内存")
    return joined([size(memory.peak_bytes), of], " ", " ")


def _where(attempt: Attempt) -> Text:
    ranks = Both(
        f"{attempt.world_size:,} rank{'s' * (attempt.world_size > 1)}", f"{attempt.world_size:,} 个 rank"
    )
    return joined([*_hosts(attempt), ranks], ", ", "，")


def _hosts(attempt: Attempt) -> list[str]:
    more = len(attempt.hosts) - _MOST_HOSTS
    return [*attempt.hosts[:_MOST_HOSTS], *([f"+{more:,}"] if more > 0 else [])]


def _over(values: Any) -> str:
    """Of all attempts: each once, in the order in which they came."""
    return " → ".join(dict.fromkeys(filter(None, values)))


def _real(row: Row | None) -> str:
    if row is None:
        return NOTHING
    return f"{row.real:,} ({row.difference:+,})" if row.difference else f"{row.real:,}"


def _signed(difference: int) -> str:
    return f"{difference:+,}" if difference else "0"


def _three(number: float) -> str:
    """Three digits, of what is not surer."""
    return f"{float(f'{number:.3g}'):,.6g}"


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _said(value: Any) -> str:
    return NOTHING if value is None else json.dumps(value, ensure_ascii=False)
