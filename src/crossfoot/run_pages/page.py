"""A run as a page that stands alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

from crossfoot.phrases import size
from crossfoot.reports.page import (
    Both,
    Html,
    Page,
    Text,
    figures,
    folded,
    heading,
    paragraph,
    table,
    tiles,
    verdict,
)
from crossfoot.run_pages.pictures import Pictures
from crossfoot.run_pages.plan_rows import plan_rows, setting_rows
from crossfoot.run_pages.seen_run import SeenRun
from crossfoot.run_pages.tables import (
    attempt_table,
    cause_tables,
    environment_table,
    evaluation_table,
    noise_table,
    receipt_table,
)
from crossfoot.run_pages.verdict_words import reasons, verdict_words
from crossfoot.run_pages.words import NOTHING, note_words, span_words
from crossfoot.runs.validations import best_of

_PLAN = (Both("plan", "计划"), Both("value", "值"), Both("origin", "来源"))


def run_page(seen: SeenRun) -> str:
    """HTML with everything in it; nothing is fetched when it is opened."""
    kind, sentence = verdict_words(seen)
    pictures = Pictures({seen.name: seen})
    page = Page(Both(f"Run {seen.name}", f"训练运行 {seen.name}"))
    page.add(
        verdict(kind, sentence, *reasons(seen)),
        tiles(list(key_numbers(seen))),
        heading(Both("Plan", "计划")),
        table(_PLAN, plan_rows(seen)),
        folded(Both("All settings", "全部设置"), table(_PLAN, setting_rows(seen))),
        heading(Both("Findings", "发现的问题")),
        *cause_tables(seen),
    )
    page.add(*_section(Both("Loss and rate", "损失与学习率"), *_learning(pictures)))
    page.add(*_section(Both("The batch, as it was trained", "实际训练的批"), *_batch(seen, pictures)))
    page.add(*_section(Both("Speed, ranks and memory", "速度、各 rank 与内存"), *_speed(seen, pictures)))
    if seen.noise is not None:
        page.add(heading(Both("Gradient noise scale", "梯度噪声尺度")), noise_table(seen.noise))
    page.add(*_section(Both("Attempts", "各次启动"), attempt_table(seen)))
    page.add(heading(Both("Receipt", "回执")), receipt_table(seen), *_notes(seen))
    page.add(*_section(Both("Evaluations", "评测"), figures(*pictures.scores()), evaluation_table(seen)))
    return page.add(heading(Both("Environment", "环境")), environment_table(seen)).render()


def key_numbers(seen: SeenRun) -> Iterator[tuple[Text, Text]]:
    """The few numbers that everybody looks for."""
    plan = seen.planned("plan") or {}
    batch = plan.get("global_batch_size")
    if batch is not None and plan.get("target_trained_tokens") is None:
        yield Both("samples per step", "全局批大小"), f"{batch:,}"
    yield Both("steps", "步数"), done_of_asked(seen)
    yield Both("samples trained", "已训练样本数"), f"{seen.samples[-1] if seen.samples else 0:,}"
    yield Both("training loss, last", "最后的训练损失"), last_loss(seen)
    if (best := best_of(seen.run.validations)) is not None:
        yield Both("validation loss, lowest", "最低验证损失"), f"{best.loss:.4f}"
    yield Both("real tokens a second", "每秒有效 token 数"), tokens_per_second(seen)
    yield Both("time in steps", "训练步用时"), span_words(sum(one.seconds for one in seen.run.lines))
    if seen.memory is not None:
        yield Both("peak memory of a rank", "单 rank 峰值内存"), size(seen.memory.peak_bytes)


def done_of_asked(seen: SeenRun) -> str:
    """`12 / 28`; of a run that has done all of them their number."""
    done, asked = seen.receipt.done_steps, seen.receipt.asked_steps
    return f"{done:,}" if done == asked else f"{done:,} / {asked:,}"


def last_loss(seen: SeenRun) -> str:
    """Of the last step."""
    return f"{seen.steps[-1].loss:.4f}" if seen.steps else NOTHING


def tokens_per_second(seen: SeenRun) -> str:
    """Real tokens over all ranks, of the steps that count."""
    seconds = sum(one.seconds for one in seen.steps)
    return f"{sum(one.real_tokens for one in seen.steps) / seconds:,.0f}" if seconds > 0 else NOTHING


def _section(title: Text, *inside: Html) -> Iterator[Html]:
    """With its heading, where there is anything in it."""
    if any(inside):
        yield from (heading(title), *inside)


def _learning(pictures: Pictures) -> Iterator[Html]:
    yield figures(pictures.losses(), pictures.rates(), pictures.norms(), pictures.accuracies())


def _batch(seen: SeenRun, pictures: Pictures) -> Iterator[Html]:
    yield from _said(_padding(seen))
    yield figures(pictures.batches(), pictures.tokens(), pictures.shares())


def _speed(seen: SeenRun, pictures: Pictures) -> Iterator[Html]:
    yield from _said(_memory(seen), _alone(seen))
    of_ranks = (
        () if _is_alone(seen) else (pictures.rank_seconds(), pictures.imbalance(), pictures.rank_totals())
    )
    yield figures(pictures.throughput(), *of_ranks)


def _said(*each: Text) -> Iterator[Html]:
    yield from (paragraph(words) for words in each if words)


def _is_alone(seen: SeenRun) -> bool:
    return all(one.per_rank.ranks <= 1 for one in seen.steps)


def _alone(seen: SeenRun) -> Text:
    """Why there are no pictures, or fewer."""
    if not seen.steps:
        return ""
    if _is_alone(seen):
        return Both("One rank computed everything.", "全部计算由一个 rank 完成。")
    unlisted = sum(one.per_rank.columns is None for one in seen.steps)
    if unlisted:
        return Both(
            f"{unlisted:,} of {len(seen.steps):,} steps were as planned on many ranks: of those the ledger "
            "keeps a digest of what each rank did, and no list.",
            f"{len(seen.steps):,} 步中有 {unlisted:,} 步与计划一致且 rank 较多："
            "账本只保存各 rank 的摘要，不逐个列出。",
        )
    return ""


def _padding(seen: SeenRun) -> Text:
    slots = sum(one.token_slots for one in seen.steps)
    if not slots:
        return ""
    names = ("real_tokens", "trained_tokens")
    real, trained = (f"{sum(getattr(one, name) for one in seen.steps) / slots:.1%}" for name in names)
    layout = seen.planned("config", "data", "layout")
    how = {"packed": ("packed", "打包"), "padded": ("padded", "填充")}.get(str(layout))
    en, zh = (f", {how[0]}", f"（布局：{how[1]}）") if how else ("", "")
    return Both(
        f"{slots:,} token slots were computed{en}: {real} held a token, and {trained} one that was trained.",
        f"共计算 {slots:,} 个 token 槽位{zh}：{real} 为有效 token，{trained} 参与训练。",
    )


def _memory(seen: SeenRun) -> Text:
    """Of the attempts that have measured it."""
    memory = seen.memory
    if memory is None:
        return (
            Both(
                "Memory is measured at the end of an attempt, and no attempt has written it.",
                "内存在每次启动结束时测量；目前没有任何一次启动写下测量值。",
            )
            if seen.steps
            else ""
        )
    return Both(
        f"Rank {memory.rank} held most memory: {memory.peak_bytes / 1e9:,.2f} GB"
        + (" allocated on its GPU." if memory.of == "GPU" else " of its process."),
        f"rank {memory.rank} 占用最多：{memory.peak_bytes / 1e9:,.2f} GB"
        + ("（GPU 上已分配的显存）。" if memory.of == "GPU" else "（进程常驻内存）。"),
    )


def _notes(seen: SeenRun) -> Iterator[Html]:
    loss = seen.receipt.validation_loss
    if loss is not None and math.isfinite(loss):
        yield paragraph(Both(f"Validation loss at the end: {loss:.6g}.", f"结束时的验证损失：{loss:.6g}。"))
    yield from (paragraph(note_words(note), is_small=True) for note in seen.receipt.notes)
