"""Several runs on one page: the same pictures with a line for each, what differs in their settings, and their
receipts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from crossfoot.reports.page import Both, Html, Page, Text, figures, heading, paragraph, table, verdict
from crossfoot.run_pages.page import last_loss, tokens_per_second
from crossfoot.run_pages.pictures import Pictures
from crossfoot.run_pages.plan_rows import differing_rows
from crossfoot.run_pages.seen_run import SeenRun
from crossfoot.run_pages.tables import memory_words, receipts_table
from crossfoot.run_pages.verdict_words import state_words, verdict_words
from crossfoot.run_pages.words import NOTHING, span_words
from crossfoot.runs.validations import best_of


def side_by_side_page(runs: Sequence[SeenRun]) -> str:
    """HTML. runs: two or more, in the order in which they are shown."""
    labelled = dict(zip(labels(runs), runs, strict=True))
    pictures = Pictures(labelled)
    page = Page(Both(f"{len(runs):,} runs side by side", f"{len(runs):,} 个训练运行的对比"))
    page.add(
        verdict(*_verdict(labelled)),
        _overview(labelled),
        heading(Both("Settings that differ", "不同的设置")),
        *_differences(labelled),
        heading(Both("Loss and rate", "损失与学习率")),
        figures(
            pictures.losses(),
            pictures.validation_losses(),
            pictures.rates(),
            pictures.norms(),
            pictures.accuracies(),
        ),
        heading(Both("The batch, as it was trained", "实际训练的批")),
        figures(pictures.batches(), pictures.tokens(), pictures.shares()),
        heading(Both("Ranks, speed and memory", "rank、速度与内存")),
        figures(pictures.throughput(), pictures.memory(), pictures.rank_seconds(), pictures.imbalance()),
        heading(Both("Receipts", "回执")),
        receipts_table(list(labelled), runs),
    )
    return page.render()


def labels(runs: Sequence[SeenRun]) -> list[str]:
    """Their names; where two have the same, their folders."""
    times = Counter(seen.name for seen in runs)
    return [seen.name if times[seen.name] == 1 else seen.run_dir for seen in runs]


def _verdict(labelled: Mapping[str, SeenRun]) -> Html:
    """Whether all of them foot; which ones do not, and why."""
    each = {label: verdict_words(seen) for label, seen in labelled.items()}
    others = [
        Both(f"{label}: {words.en}", f"{label}：{words.zh}")
        for label, (kind, words) in each.items()
        if kind != "good"
    ]
    number, footing = len(each), len(each) - len(others)
    if not others:
        return verdict("good", Both(f"All {number:,} foot.", f"{number:,} 个运行全部对得上。"))
    words = Both(f"{footing:,} of {number:,} runs foot.", f"{number:,} 个运行中有 {footing:,} 个对得上。")
    is_bad = any(kind == "bad" for kind, _ in each.values())
    return verdict("bad" if is_bad else "plain", words, *others)


def _overview(labelled: Mapping[str, SeenRun]) -> Html:
    """A row for each."""
    heads = (
        Both("run", "运行"),
        Both("verdict", "结论"),
        Both("samples per step", "全局批大小"),
        Both("peak rate", "峰值学习率"),
        Both("steps", "步数"),
        Both("samples", "样本数"),
        Both("last training loss", "最后的训练损失"),
        Both("lowest validation loss", "最低验证损失"),
        Both("tokens a second", "每秒有效 token 数"),
        Both("time in steps", "训练步用时"),
        Both("peak memory", "峰值内存"),
    )
    return table(heads, [_row(label, seen) for label, seen in labelled.items()])


def _row(label: str, seen: SeenRun) -> tuple[Text, ...]:
    batch, peak = seen.planned("plan", "global_batch_size"), seen.planned("plan", "learning_rate", "peak")
    best = best_of(seen.run.validations)
    return (
        label,
        state_words(seen),
        NOTHING if batch is None else f"{batch:,}",
        NOTHING if peak is None else f"{peak:.6g}",
        f"{seen.receipt.done_steps:,} / {seen.receipt.asked_steps:,}",
        f"{seen.samples[-1] if seen.samples else 0:,}",
        last_loss(seen),
        NOTHING if best is None else f"{best.loss:.4f}",
        tokens_per_second(seen),
        span_words(sum(one.seconds for one in seen.run.lines)),
        memory_words(seen.memory),
    )


def _differences(labelled: Mapping[str, SeenRun]) -> Iterator[Html]:
    rows = differing_rows(list(labelled.values()))
    if rows:
        yield table((Both("setting", "设置"), *labelled), rows)
    else:
        yield paragraph(Both("None: they differ in name only.", "没有：除名称外完全相同。"))
