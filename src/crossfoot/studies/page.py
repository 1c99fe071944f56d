"""A study as a page that stands alone: the sentence, the pictures, every run's receipt."""

from __future__ import annotations

import math
from collections.abc import Iterator

from crossfoot.phrases import size
from crossfoot.reports.page import Html, Page, figures, heading, paragraph, table, verdict
from crossfoot.reports.text import Both, Text
from crossfoot.studies.answer import Answer
from crossfoot.studies.batch_answer import BatchAnswer
from crossfoot.studies.conditions import conditions
from crossfoot.studies.pictures import at_the_end, costs, losses, rates, until_target
from crossfoot.studies.results import StudyResults, StudyRun
from crossfoot.studies.words import count_words, loss_words, reasons, remarks, sentence

_MOST_NAMES = 5
_HOW: dict[str, Text] = {
    "not reached": Both("not reached", "未达到"),
    "at once": Both("at its first validation", "首次验证即达到"),
}
_STATE: dict[str, Text] = {
    "done": Both("done", "完成"),
    "diverged": Both("diverged", "发散"),
    "unfinished": Both("unfinished", "未完成"),
}
_YES, _NO = Both("yes", "是"), Both("NO", "否")


def study_page(results: StudyResults, found: Answer) -> str:
    """HTML with everything in it; nothing is fetched when it is opened. found: of these results."""
    own = f"{found.own_batch:,}"
    title = Both(f"Is {own} the right batch? {found.name}", f"批大小 {own} 合适吗？{found.name}")
    page = Page(title).add(*_verdicts(found))
    if found.batches:
        page.add(
            heading(Both("Until the target", "到达目标")),
            figures(*until_target(found)),
            _until_target(found),
            heading(Both("Validation loss", "验证损失")),
            figures(*losses(found), *at_the_end(found)),
            heading(Both("Learning rate", "学习率")),
            figures(*rates(found)),
            *_costs(found),
            heading(Both("Every batch", "每个批大小")),
            _batches(found),
        )
    page.add(heading(Both("Every run", "每个运行")), _runs(results))
    page.add(heading(Both("What was set, and what this cannot tell", "固定的条件与无法得出的结论")))
    return page.add(*map(paragraph, conditions(results))).render()


def _verdicts(found: Answer) -> Iterator[Html]:
    if found.not_footing:
        more = len(found.not_footing) - _MOST_NAMES
        yield verdict(
            "bad",
            Both(
                "The study does not foot: these runs did not train what was planned, and their batches have "
                "no answer.",
                "本研究对不上账：以下运行未按计划训练，其批大小没有结果。",
            ),
            *found.not_footing[:_MOST_NAMES],
            *([Both(f"and {more:,} more", f"等 {len(found.not_footing):,} 个")] if more > 0 else []),
        )
    is_sure = found.place in ("below", "above")
    yield verdict("good" if is_sure else "plain", sentence(found), *reasons(found), *remarks(found))


def _costs(found: Answer) -> list[Html]:
    """Nothing where nobody measured."""
    drawn = figures(*costs(found))
    return [heading(Both("Speed and memory", "速度与内存")), drawn] if drawn else []


def _until_target(found: Answer) -> Html:
    """The fit, batch by batch."""
    heads = (
        Both("batch", "批大小"),
        Both("steps to target", "到目标的步数"),
        Both("fitted", "拟合值"),
        Both("measured / fitted", "实测/拟合"),
        Both("samples to target", "到目标的样本数"),
        Both("seconds", "秒"),
    )
    note = Both(
        "In brackets: the 95 % interval over the seeds, where there are several. Fitted: S_min + E_min / "
        "batch. Where measured / fitted is far from 1, the batch does not follow the hyperbola.",
        "方括号为多个随机种子的 95 % 区间。拟合值：S_min + E_min / 批大小。"
        "实测/拟合远离 1 的批大小不符合双曲线。",
    )
    return table(heads, [tuple(_target_row(found, one)) for one in found.batches], note)


def _target_row(found: Answer, one: BatchAnswer) -> Iterator[Text]:
    target, fit = one.target, found.fit
    yield f"{one.batch:,}"
    yield _HOW.get(target.how, count_words(target.steps))
    yield "-" if fit is None else f"{fit.steps(one.batch):,.0f}"
    yield f"{fit.misfit[one.batch]:.3f}" if fit is not None and one.batch in fit.misfit else "-"
    yield count_words(target.samples)
    yield "-" if target.seconds is None else f"{target.seconds:,.0f}"


def _batches(found: Answer) -> Html:
    """A row for each batch with an answer."""
    heads = (
        Both("batch", "批大小"),
        Both("seeds", "随机种子"),
        Both("best rate", "最佳学习率"),
        Both("loss, equal samples", "等样本损失"),
        Both("loss, equal steps", "等步数损失"),
        Both("generalisation gap", "泛化差距"),
        Both("tokens/s", "token/秒"),
        Both("memory", "内存"),
    )
    note = Both(
        "After ±: the 95 % interval over the seeds, where there are several (Student's t). *: the smallest "
        "or largest rate that was tried.",
        "± 为多个随机种子的 95 % 区间（t 分布）。*：所试学习率中最小或最大的一个。",
    )
    return table(heads, [tuple(_batch_row(one)) for one in found.batches], note)


def _batch_row(one: BatchAnswer) -> Iterator[Text]:
    yield f"{one.batch:,}"
    yield f"{one.seeds}"
    yield f"{one.best.rate:.3g}{'' if one.edge is None else ' *'}"
    yield loss_words(one.equal_samples)
    yield loss_words(one.equal_steps)
    yield loss_words(one.gap)
    yield "-" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}"
    yield "-" if one.peak_bytes is None else size(one.peak_bytes)


def _runs(results: StudyResults) -> Html:
    """A row for each run: what its receipt says."""
    heads = (
        Both("run", "运行"),
        Both("batch", "批大小"),
        Both("peak rate", "学习率峰值"),
        Both("seed", "随机种子"),
        Both("steps", "步数"),
        Both("samples", "样本数"),
        Both("trained tokens", "训练的 token"),
        Both("validation loss", "验证损失"),
        Both("state", "状态"),
        Both("foots", "对得上账"),
        Both("same samples", "样本一致"),
    )
    note = Both(
        f"Same samples: every step held what the study's order ({results.samples_sha256[:16]}) has there.",
        f"样本一致：每一步的样本都与本研究的统一顺序（{results.samples_sha256[:16]}）相符。",
    )
    return table(heads, [tuple(_run_row(run)) for run in results.runs], note)


def _run_row(run: StudyRun) -> Iterator[Text]:
    last = run.points[-1] if run.points else None
    yield run.name
    yield f"{run.batch:,}"
    yield f"{run.peak_rate:.3g}" if math.isfinite(run.peak_rate) else "-"
    yield f"{run.seed}"
    yield "-" if last is None else f"{last.step:,}"
    yield "-" if last is None else f"{last.samples:,}"
    yield "-" if last is None else f"{last.trained_tokens:,}"
    yield "-" if last is None else f"{last.validation_loss:.4f}"
    yield _STATE[run.state]
    yield _YES if run.foots else _NO
    yield _YES if run.same_samples else _NO
