"""The answer of a study in sentences, in English and in Chinese."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from crossfoot.arithmetic.critical_batch import FEWEST_BATCHES
from crossfoot.arithmetic.intervals import Interval
from crossfoot.arithmetic.means import Estimate
from crossfoot.phrases import listed
from crossfoot.reports.text import Both, chinese, english, joined
from crossfoot.studies.answer import Answer, Compared, Lowest
from crossfoot.studies.answer_findings import answer_findings

_TIMES = 1.5
"""From here on a number is called so many times another one."""


def sentence(found: Answer) -> Both:
    """The one to take along."""
    place = _place(found)
    if found.seeds == 1:
        place = Both(f"With one seed, {place.en}", f"只用一个随机种子时，{place.zh}")
    en, zh = f"{place.en[:1].upper()}{place.en[1:]}", place.zh
    compared = [_compared(one) for one in (found.twice, found.smaller) if one is not None]
    if not compared:
        return Both(f"{en}.", f"{zh}。")
    clauses = joined(compared, "; ", "；")
    return Both(f"{en}: {english(clauses)}.", f"{zh}：{chinese(clauses)}。")


def _place(found: Answer) -> Both:
    own, fit = f"{found.own_batch:,}", found.fit
    if not found.batches:
        return Both("no batch has an answer yet", "还没有任何批大小得出结果")
    if fit is not None and found.place is None:
        return Both(
            "the critical batch cannot be told (the steps until the target bound it at neither end)",
            "无法得出临界批大小（到达目标的步数对它上下都没有约束）",
        )
    if fit is None:
        reached, of = len(found.steps), len(found.batches)
        return Both(
            f"the critical batch cannot be told ({reached} of {of} batches have steps until the target, and "
            f"a fit needs {FEWEST_BATCHES})",
            f"无法得出临界批大小（{of} 个批大小中有 {reached} 个有到达目标的步数，拟合至少需要 "
            f"{FEWEST_BATCHES} 个）",
        )
    critical = interval_words(fit.critical_batch)
    if found.place == "inside":
        return Both(
            f"{own} cannot be told from the critical batch of {critical.en}",
            f"无法区分 {own} 与临界批大小 {critical.zh}",
        )
    below = found.place == "below"
    return Both(
        f"{own} is {found.place} the critical batch of {critical.en}",
        f"{own} {'低于' if below else '高于'}临界批大小 {critical.zh}",
    )


def _compared(one: Compared) -> Both:
    batch = f"{one.batch:,}"
    steps = change(one.steps, "steps", "步数")
    if one.steps >= _TIMES:
        needs = "needs" if one.is_measured else "would need"
        return Both(f"{batch} {needs} {steps.en}", f"{batch} 需要{steps.zh}")
    samples = change(one.samples, "samples", "样本")
    needs = "needs" if one.is_measured else "would need"
    return Both(f"{batch} {needs} {samples.en} and {steps.en}", f"{batch} 需要{samples.zh}、{steps.zh}")


def change(ratio: float, things: str, things_zh: str) -> Both:
    """`46 % fewer steps`, `4 % more samples`, `2.9x the steps`."""
    if ratio >= _TIMES:
        return Both(f"{ratio:.1f}x the {things}", f" {ratio:.1f} 倍的{things_zh}")
    percent = round(100 * abs(ratio - 1))
    if not percent:
        return Both(f"as many {things}", f"同样多的{things_zh}")
    more = ratio > 1
    return Both(
        f"{percent} % {'more' if more else 'fewer'} {things}",
        f"{'多' if more else '少'} {percent} % 的{things_zh}",
    )


def interval_words(critical: Interval) -> Both:
    """`180 [140, 250]`; an end that is not there is said."""
    low = batch_words(critical.low)
    if math.isfinite(critical.high):
        both = f"{batch_words(critical.value)} [{low}, {batch_words(critical.high)}]"
        return Both(both, both)
    if not math.isfinite(critical.value):
        return Both(f"{low} or more", f"{low} 或更大")
    value = batch_words(critical.value)
    return Both(f"{value} [{low}, no upper end]", f"{value} [{low}, 无上界]")


def batch_words(batch: float) -> str:
    """Of a batch that was worked out: whole, from 10 on."""
    return f"{batch:,.0f}" if batch >= 10 or batch == 0 else f"{batch:.2g}"


def loss_words(loss: Estimate | None) -> str:
    """`2.171 ± 0.005`; of one seed without an interval."""
    if loss is None:
        return "-"
    reach = f" ± {loss.high - loss.mean:.3f}" if math.isfinite(loss.high) else ""
    return f"{loss.mean:.3f}{reach}"


def count_words(count: Estimate | None) -> str:
    """`557 [541, 573]`; of one seed without an interval."""
    if count is None:
        return "-"
    ends = f" [{count.low:,.0f}, {count.high:,.0f}]" if math.isfinite(count.high) else ""
    return f"{count.mean:,.0f}{ends}"


def reasons(found: Answer) -> Iterator[Both]:
    """What stands behind the sentence."""
    if (target := _target(found)) is not None:
        yield target
    if (within := _within(found)) is not None:
        yield within
    if found.equal_samples is not None:
        yield _lowest(found.equal_samples, found.seeds, "samples", "个样本")
    if found.equal_steps is not None:
        yield _lowest(found.equal_steps, found.seeds, "steps", "步")
    if found.nearest_rules:
        rules = listed(found.nearest_rules)
        yield Both(
            f"Of the rules none, sqrt and linear the best rates are nearest to {rules}.",
            f"在 none、sqrt、linear 三种规则中，各最佳学习率最接近 {rules}。",
        )


def answer_lines(found: Answer) -> list[str]:
    """For a terminal: the sentence, and its reasons."""
    return [sentence(found).en, *(f"  {one.en}" for one in reasons(found))]


def fit_words(found: Answer) -> Both | None:
    """How near the fit is, and whose number `twice` is."""
    if found.fit is None:
        return None
    batch, ratio = max(found.fit.misfit.items(), key=lambda one: abs(math.log(one[1])))
    percent, more = f"{100 * abs(ratio - 1):.1f} %", ratio > 1
    words = Both(
        f"The hyperbola is an approximation: {batch:,} is farthest from it, with {percent} "
        f"{'more' if more else 'fewer'} steps.",
        f"双曲线只是近似：{batch:,} 偏离最大，步数{'多' if more else '少'} {percent}。",
    )
    if found.twice is None or found.twice.is_measured:
        return words
    twice = f"{found.twice.batch:,}"
    return Both(
        f"{words.en} {twice} was not measured: what it would need is the fit's.",
        f"{words.zh}{twice} 未经实测，其数字来自拟合。",
    )


def _target(found: Answer) -> Both | None:
    if found.target is None:
        return None
    loss, reached, of = f"{found.target:.3f}", len(found.steps), len(found.batches)
    en = f"Steps are counted until a validation loss of {loss}"
    zh = f"步数计到验证损失降至 {loss} 为止"
    if found.target_is_given:
        return Both(
            f"{en}, as was asked: {reached} of {of} batches come down to it.",
            f"{zh}（指定的目标）：{of} 个批大小中有 {reached} 个达到。",
        )
    if reached == of:
        return Both(
            f"{en}, the lowest that all {of} batches come down to.",
            f"{zh}，这是 {of} 个批大小都达到的最低值。",
        )
    return Both(
        f"{en}, the lowest that {reached} of {of} batches come down to.",
        f"{zh}，这是 {of} 个批大小中 {reached} 个达到的最低值。",
    )


def _within(found: Answer) -> Both | None:
    within = found.within
    if within is None:
        return None
    batch, fewest = batch_words(within.batch), f"{within.fewest_samples:,.0f}"
    if within.is_bounded:
        return Both(
            f"Up to a batch of {batch} at most 20 % more samples are needed than the {fewest} of "
            f"{within.fewest_at:,}.",
            f"批大小不超过 {batch} 时，所需样本至多比 {within.fewest_at:,} 的 {fewest} 个多 20 %。",
        )
    return Both(
        f"No batch up to {batch} needs 20 % more samples than the {fewest} of {within.fewest_at:,}.",
        f"直到 {batch}，没有批大小所需样本比 {within.fewest_at:,} 的 {fewest} 个多出 20 %。",
    )


def _lowest(lowest: Lowest, seeds: int, things: str, things_zh: str) -> Both:
    best = f"{lowest.batch:,}"
    en = f"After {lowest.count:,} {things} each, {best} has the lowest validation loss"
    zh = f"各训练 {lowest.count:,} {things_zh}后，{best} 的验证损失最低"
    if lowest.alike:
        alike = [f"{batch:,}" for batch in lowest.alike]
        return Both(
            f"{en}; {listed(alike)} cannot be told from it.", f"{zh}；无法与 {'、'.join(alike)} 区分。"
        )
    if seeds > 1:
        return Both(f"{en}, by more than chance explains.", f"{zh}，差距超出偶然。")
    return Both(f"{en}.", f"{zh}。")


def remarks(found: Answer) -> Iterator[Both]:
    """The findings of an answer as sentences, but for what the first sentence says."""
    for finding in answer_findings(found):
        title = finding.title
        if (chinese_words := _REMARKS.get(finding.code)) is not None:
            yield Both(f"{title[:1].upper()}{title[1:]}.", chinese_words(found))


def _not_reached(found: Answer) -> str:
    batches = _and(one.batch for one in found.batches if one.target.how == "not reached")
    return f"批大小 {batches} 在 {found.budget_samples:,} 个样本内未达到损失 {found.target:.3f}。"


def _at_once(found: Answer) -> str:
    batches = _and(one.batch for one in found.batches if one.target.how == "at once")
    return f"批大小 {batches} 在首次验证时损失已不高于 {found.target:.3f}，没有步数可计。"


def _edge(found: Answer) -> str:
    edges = [one.batch for one in found.batches if one.edge is not None]
    which = "所有批大小" if len(edges) == len(found.batches) else f"批大小 {_and(edges)} "
    return f"{which}的最佳学习率位于所试范围的边缘：更好的可能在其外。"


def _unfinished(found: Answer) -> str:
    batches = _and(batch for batch, why in found.without.items() if why == "unfinished")
    return f"批大小 {batches} 尚无结果：有运行未完成。"


_REMARKS: Mapping[str, Callable[[Answer], str]] = {
    "CF223": _not_reached,
    "CF225": _edge,
    "CF226": lambda found: "只有一个随机种子：无从得知两个批大小之间的差别有多少出于偶然。",
    "CF227": lambda found: f"发散而未采用的运行：{_names(found.diverged)}。",
    "CF228": _at_once,
    "CF229": _unfinished,
    "CF230": lambda found: "每个批大小只试了一个学习率：无从得知别的学习率是否更好。",
}
"""By code of the finding, in Chinese."""


def _and(batches: Iterable[int]) -> str:
    return "、".join(f"{batch:,}" for batch in batches)


def _names(names: Sequence[str]) -> str:
    return "、".join(names[:3]) + (f" 等 {len(names):,} 个" if len(names) > 3 else "")
