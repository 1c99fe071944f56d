"""Several runs on one page: the same pictures with a line for each, what differs in their settings, and their
receipts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from crossfoot.reports.page import Both, Html, Page, Text, figures, heading, paragraph, table, verdict
from crossfoot.run_pages.page import done_of_asked, last_loss, tokens_per_second
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
        _verdict(labelled),
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
            *pictures.scores(),
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
    """Their names; where two have the same, the folders of all."""
    names = [seen.name for seen in runs]
    return names if len(set(names)) == len(names) else [seen.run_dir for seen in runs]


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
        Both("batch", "全局批大小"),
        Both("peak rate", "峰值学习率"),
        Both("steps", "步数"),
        Both("samples", "样本数"),
        Both("training loss", "训练损失"),
        Both("validation loss", "验证损失"),
        Both("tokens/s", "token/秒"),
        Both("time", "用时"),
        Both("memory", "内存"),
    )
    note = Both(
        "Training loss: of the last step; validation loss: the lowest. Tokens: real ones, of all ranks; "
        "time: in steps; memory: the most that a rank held.",
        "训练损失取最后一步，验证损失取最低值；token 为全部 rank 的有效 token；"
        "用时为训练步用时；内存取单个 rank 的峰值。",
    )
    return table(heads, [_row(label, seen) for label, seen in labelled.items()], note)


def _row(label: str, seen: SeenRun) -> tuple[Text, ...]:
    batch, peak = seen.planned("plan", "global_batch_size"), seen.planned("plan", "learning_rate", "peak")
    best = best_of(seen.run.validations)
    return (
        label,
        state_words(seen),
        NOTHING if batch is None else f"{batch:,}",
        NOTHING if peak is None else f"{peak:.6g}",
        done_of_asked(seen),
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
