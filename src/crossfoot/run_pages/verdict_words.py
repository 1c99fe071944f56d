"""The sentence that a run's page begins with, and its reasons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from crossfoot.ledger.entry import SKIPS
from crossfoot.phrases import counted
from crossfoot.reports.text import Both, Text, joined
from crossfoot.run_pages.seen_run import SeenRun
from crossfoot.run_pages.words import KINDS, amount_words, end_words

Kind = Literal["good", "bad", "plain"]
_LEADS = {
    "starting": Both("It is starting", "正在启动"),
    "running": Both("It is running", "正在运行"),
    "silent": Both("It gives no sign of life", "没有心跳，可能已经停止"),
    "killed": Both("It was killed", "进程被强制终止"),
    "signal": Both("It was stopped by a signal", "收到信号后停止"),
    "orphaned": Both("It lost its launcher, and stopped", "启动器消失，运行随之停止"),
    "interrupt": Both("It was interrupted", "被手动中断"),
    "fault": Both("It stopped on a fault", "因故障停止"),
}
_MOST_REASONS = 6


def verdict_words(seen: SeenRun) -> tuple[Kind, Both]:
    """The sentence, and the colour of its box."""
    receipt = seen.receipt
    if receipt.foots:
        return "good", _foots(seen)
    done = Both(
        f"{receipt.done_steps:,} of {counted(receipt.asked_steps, 'step')} done",
        f"已完成 {receipt.done_steps:,}/{receipt.asked_steps:,} 步",
    )
    if receipt.foots_so_far and not receipt.complete:
        lead = _lead(seen)
        if not receipt.done_steps:
            return "plain", Both(f"{lead.en}: no step is done yet.", f"{lead.zh}：还没有完成任何一步。")
        return "plain", Both(
            f"{lead.en}: {done.en}, and those foot.", f"{lead.zh}：{done.zh}，这些步对得上。"
        )
    more = Both("", "") if receipt.complete else Both(f"; {done.en}", f"；{done.zh}")
    why = Both("planned and real differ", "计划与实际不符")
    if receipt.cause_count:
        why = Both(counted(receipt.cause_count, "cause"), f"共 {receipt.cause_count:,} 处原因")
    return "bad", Both(f"It does not foot: {why.en}{more.en}.", f"对不上：{why.zh}{more.zh}。")


def reasons(seen: SeenRun) -> Iterator[Text]:
    """What the sentence leaves open: causes, what was lost or skipped, what is missing."""
    receipt = seen.receipt
    for one in receipt.summary[:_MOST_REASONS]:
        en, amount = f"{one.code} {one.kind}: {one.amount}", amount_words(one.amount)
        zh = amount if isinstance(amount, str) else amount.zh
        yield Both(en, f"{one.code} {KINDS[one.kind]}：{zh}")
    if not receipt.foots_so_far and not receipt.summary:
        for row in receipt.rows:
            if row.difference:
                yield f"{row.name}: {row.real - row.planned:+,}"
    if seen.is_dry:
        yield Both(
            "It is a dry run: only its ledger and its receipt are of use.",
            "这是试跑（dry run）：只有账本和回执有用。",
        )
    if receipt.lost_steps:
        again = receipt.is_regained
        yield Both(
            f"{counted(receipt.lost_steps, 'step')} of {counted(receipt.attempts, 'attempt')} lost"
            + (" and computed again" if again else ""),
            f"共启动 {receipt.attempts:,} 次，丢失 {receipt.lost_steps:,} 步"
            + ("，均已重新计算" if again else ""),
        )
    for skip in receipt.skips:
        yield Both(
            f"{counted(skip.steps, 'step')} skipped as {SKIPS[skip.why]} says: "
            f"{counted(skip.samples, 'sample')} seen, not learned from",
            f"按 {SKIPS[skip.why]} 跳过 {skip.steps:,} 步：{skip.samples:,} 个样本只读过、没有用于更新",
        )
    if receipt.result_missing is not None:
        yield receipt.result_missing


def state_words(seen: SeenRun) -> Text:
    """Foots or not, in a word or two: for a table."""
    receipt = seen.receipt
    if receipt.foots:
        return Both("foots", "对得上")
    if not receipt.foots_so_far or receipt.complete:
        return Both("does not foot", "对不上")
    so_far = Both("foots so far", "目前对得上")
    how = end_words(seen.state.ending.reason if seen.state.ending else seen.state.status)
    return joined([how, so_far])


def _lead(seen: SeenRun) -> Both:
    ending = seen.run.ending
    how = ending.reason if ending is not None else seen.state.status
    return _LEADS.get(how, Both("It is not complete", "尚未完成"))


def _foots(seen: SeenRun) -> Both:
    receipt = seen.receipt
    real = {row.name: row.real for row in receipt.rows}
    samples, tokens = real.get("samples", 0), real.get("trained tokens", 0)
    what = Both(
        f"{counted(samples, 'sample')} and {counted(tokens, 'trained token')}",
        f"{samples:,} 个样本、{tokens:,} 个训练 token",
    )
    asked, total = receipt.asked_steps, receipt.total_steps
    if asked < total and receipt.reason == "patience":
        return Both(
            f"It foots: it ended early after {asked:,} of {total:,} steps, as it learned no more, and they "
            f"trained what was planned: {what.en}.",
            f"对得上：验证损失不再下降，训练 {asked:,}/{total:,} 步后提前结束；"
            f"这些步与计划一致，共 {what.zh}。",
        )
    if asked < total:
        return Both(
            f"It foots: the first {asked:,} of {total:,} steps, where it was stopped on purpose, trained "
            f"what was planned: {what.en}.",
            f"对得上：按要求只训练 {total:,} 步中的前 {asked:,} 步，与计划一致，共 {what.zh}。",
        )
    return Both(
        f"It foots: all {counted(asked, 'step')} trained what was planned: {what.en}.",
        f"对得上：全部 {asked:,} 步都与计划一致，共 {what.zh}。",
    )
