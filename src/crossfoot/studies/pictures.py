"""The pictures of a study's page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from crossfoot.arithmetic.critical_batch import OVERHEAD, Fit
from crossfoot.arithmetic.means import Estimate
from crossfoot.reports.chart import Axis, Point, Series, chart
from crossfoot.reports.text import Both, Html, Text
from crossfoot.studies.answer import POWERS, Answer, ruled_rate
from crossfoot.studies.batch_answer import BatchAnswer, MeanPoint
from crossfoot.studies.words import fit_words, interval_words

_MEASURED, _OWN, _FIT, _LIMIT, _CRITICAL, _QUIET = 0, 1, 2, 3, 4, 5
"""Colours."""
_DRAWN = 30
"""Points of a line that is worked out: so many that no dots are drawn on it."""
_LOSS = Both("validation loss, nats a token", "验证损失（nat/token）")
_BATCH = Both("samples per optimizer step", "批大小（每步样本数）")
_FITTED = Both("fitted hyperbola", "拟合的双曲线")
_HERE = Both("As it was here: on other machines it is otherwise.", "仅反映本次运行的机器，换机器会不同。")
_SECONDS = Both("seconds of training", "训练时间（秒）")


def until_target(found: Answer) -> Iterator[Html]:
    """Steps, samples and seconds over the batch, with what was fitted."""
    reached = [one for one in found.batches if one.target.steps is not None]
    if found.target is None or not reached:
        return
    ends = (float(reached[0].batch), float(reached[-1].batch))
    steps: list[Series] = []
    samples: list[Series] = []
    if found.within is not None:
        limit = found.within.fewest_samples * (1 + OVERHEAD)
        label = Both("20 % more samples than the fewest", "比最少样本多 20 %")
        steps.append(_line(label, lambda batch: limit / batch, ends, _LIMIT, is_dashed=True))
        samples.append(_line(label, lambda batch: limit, ends, _LIMIT, is_dashed=True))
    if found.fit is not None:
        steps += _steps_of_fit(found.fit, ends)
        samples.append(_line(_FITTED, found.fit.samples, ends, _FIT))
    steps += _by_batch(found, lambda one: _point(one.batch, one.target.steps))
    samples += _by_batch(found, lambda one: _point(one.batch, one.target.samples))
    took = _by_batch(found, lambda one: _point(one.batch, one.target.seconds))
    loss, batches = f"{found.target:.3f}", _batches(found)
    title = Both(f"Steps until a loss of {loss}", f"损失降至 {loss} 的步数")
    yield chart(title, batches, Axis(Both("steps", "步数"), is_log=True), steps, fit_words(found) or "")
    title = Both(f"Samples until a loss of {loss}", f"损失降至 {loss} 的样本数")
    yield chart(title, batches, Axis(Both("samples", "样本数"), has_zero=True), samples)
    title = Both(f"Seconds until a loss of {loss}", f"损失降至 {loss} 的时间")
    yield chart(title, batches, Axis(_SECONDS, has_zero=True), took, _HERE)


def _steps_of_fit(fit: Fit, ends: tuple[float, float]) -> Iterator[Series]:
    """The hyperbola, what it comes near to, and the critical batch with its interval."""
    critical, (first, last) = fit.critical_batch, ends
    if fit.least_steps:
        label = Both(f"never fewer than {fit.least_steps:,.0f} steps", f"不少于 {fit.least_steps:,.0f} 步")
        yield _line(label, lambda batch: fit.least_steps, ends, _QUIET, is_dashed=True)
    if fit.least_samples:
        count = f"{fit.least_samples:,.0f}"
        label = Both(f"never fewer than {count} samples", f"不少于 {count} 个样本")
        near = (first, min(last, max(2 * first, 1.5 * critical.value)))
        yield _line(label, lambda batch: fit.least_samples / batch, near, _QUIET, is_dashed=True)
    yield _line(_FITTED, fit.steps, ends, _FIT)
    if fit.says_something and first <= critical.value <= last:
        words, height = interval_words(critical), 2 * fit.least_steps
        label = Both(f"critical batch {words.en}", f"临界批大小 {words.zh}")
        yield Series(label, [Point(critical.value, height)], "dots", _CRITICAL)
        shown = (max(first, critical.low), min(last, critical.high))
        yield _line("", lambda batch: height, shown, _CRITICAL)


def losses(found: Answer) -> Iterator[Html]:
    """The mean curves over samples, over steps, and over seconds."""

    def over(title: Both, axis: Both, x: Callable[[MeanPoint], float | None]) -> Html:
        lines: list[Series] = []
        for number, one in enumerate(found.batches):
            points = _curve((x(point), point.loss) for point in one.curve if point.step)
            lines.append(Series(_name(found, one), points, colour=number))
        return chart(title, Axis(axis, is_log=True), Axis(_LOSS), [*_target_line(found, lines), *lines])

    yield over(Both("Loss over samples", "损失与样本数"), Both("samples", "样本数"), lambda one: one.samples)
    yield over(
        Both("Loss over steps", "损失与步数"), Both("optimizer steps", "优化步数"), lambda one: one.step
    )
    title = Both("Loss over time", "损失与时间")
    yield over(title, _SECONDS, lambda one: one.seconds)


def rates(found: Answer) -> Iterator[Html]:
    """Which rate is best for which batch, and all that were tried."""
    rate = Axis(Both("peak learning rate", "学习率峰值"), is_log=True)
    best: list[Series] = []
    own = found.batch(found.own_batch)
    if own is not None and len(found.batches) > 1:
        ends = (float(found.batches[0].batch), float(found.batches[-1].batch))
        for number, rule in enumerate(POWERS):
            at = partial(ruled_rate, rule, own.best.rate, own.batch)
            best.append(_line(rule, at, ends, number + 2, is_dashed=True))
    best += _by_batch(found, lambda one: Point(one.batch, one.best.rate))
    note = Both(
        "None, sqrt and linear begin with the best rate of the config's own batch.",
        "none、sqrt、linear 三条线以本配置批大小的最佳学习率为起点。",
    )
    yield chart(Both("Best rate of each batch", "各批大小的最佳学习率"), _batches(found), rate, best, note)
    if any(len(one.tried) > 1 for one in found.batches):
        lines = [
            Series(_name(found, one), _curve((each.rate, each.loss) for each in one.tried), colour=number)
            for number, one in enumerate(found.batches)
        ]
        yield chart(Both("Every rate that was tried", "试过的所有学习率"), rate, Axis(_LOSS), lines)


def at_the_end(found: Answer) -> Iterator[Html]:
    """Over the batch: the loss after equal samples and equal steps, and the gap to the training loss."""

    def over(title: Both, up: Both, value: Callable[[BatchAnswer], Estimate | None]) -> Html:
        return chart(
            title, _batches(found), Axis(up), _by_batch(found, lambda one: _point(one.batch, value(one)))
        )

    if found.equal_samples is not None:
        count = f"{found.equal_samples.count:,}"
        title = Both(f"Loss after {count} samples each", f"各训练 {count} 个样本后的损失")
        yield over(title, _LOSS, lambda one: one.equal_samples)
    if found.equal_steps is not None:
        count = f"{found.equal_steps.count:,}"
        title = Both(f"Loss after {count} steps each", f"各训练 {count} 步后的损失")
        yield over(title, _LOSS, lambda one: one.equal_steps)
    gap = Both("validation less training loss, nats a token", "验证损失减训练损失（nat/token）")
    yield over(Both("Generalisation gap at the end", "结束时的泛化差距"), gap, lambda one: one.gap)


def costs(found: Answer) -> Iterator[Html]:
    """Over the batch: speed and memory."""

    def over(title: Both, up: Text, value: Callable[[BatchAnswer], float | None]) -> Html:
        dots = _by_batch(found, lambda one: _point(one.batch, value(one)))
        return chart(title, _batches(found), Axis(up, has_zero=True), dots, _HERE)

    speed = Both("tokens a second, all ranks", "token/秒（所有进程）")
    yield over(Both("Speed", "速度"), speed, lambda one: one.tokens_per_second)
    title = Both("Memory of the rank with most, at its peak", "占用最多的进程的内存峰值")
    yield over(title, "GB", lambda one: None if one.peak_bytes is None else one.peak_bytes / 1e9)


def _batches(found: Answer) -> Axis:
    return Axis(_BATCH, is_log=True, at=[one.batch for one in found.batches])


def _name(found: Answer, one: BatchAnswer) -> Text:
    """For a legend."""
    batch = f"{one.batch:,}"
    return Both(f"{batch}, the config's", f"{batch}（本配置）") if one.batch == found.own_batch else batch


def _by_batch(found: Answer, value: Callable[[BatchAnswer], Point | None]) -> list[Series]:
    """Dots of what was measured, the own batch's apart."""
    own = [one for one in found.batches if one.batch == found.own_batch]
    others = [one for one in found.batches if one.batch != found.own_batch]
    measured = [point for one in others if (point := value(one)) is not None]
    series = [Series(Both("measured", "实测"), measured, "dots", _MEASURED)]
    series += [Series(_name(found, one), [point], "dots", _OWN) for one in own if (point := value(one))]
    return series


def _line(
    label: Text, y: Callable[[float], float], ends: tuple[float, float], colour: int, is_dashed: bool = False
) -> Series:
    """What is worked out between two batches."""
    batches = np.geomspace(*ends, _DRAWN).tolist()
    return Series(label, [Point(batch, y(batch)) for batch in batches], "line", colour, is_dashed)


def _point(x: float, y: Estimate | float | None) -> Point | None:
    """With its interval where there is one; None without a value."""
    if not isinstance(y, Estimate):
        return None if y is None else Point(x, y)
    is_sure = math.isfinite(y.high)
    return Point(x, y.mean, y.low if is_sure else None, y.high if is_sure else None)


def _curve(points: Iterable[tuple[float | None, Estimate]]) -> list[Point]:
    """The points that have a place."""
    placed = (_point(x, y) for x, y in points if x is not None)
    return [point for point in placed if point is not None]


def _target_line(found: Answer, lines: Sequence[Series]) -> Iterator[Series]:
    xs = [point.x for line in lines for point in line.points]
    if found.target is not None and xs:
        level = found.target
        label = Both(f"target {level:.3f}", f"目标 {level:.3f}")
        yield _line(label, lambda x: level, (min(xs), max(xs)), _QUIET, is_dashed=True)
