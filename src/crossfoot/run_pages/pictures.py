"""The pictures of a run, each over its steps or samples. With several runs each has a line of its colour, and
what tells only of one run (bands, what was planned, dots) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from crossfoot.ledger.entry import StepEntry
from crossfoot.reports.chart import Axis, Bar, Point, Series, bars, chart
from crossfoot.reports.page import Both, Html, Text
from crossfoot.run_pages.curves import curve, steps_of_point
from crossfoot.run_pages.seen_run import SeenRun
from crossfoot.runs.validations import Validation

Numbers = Callable[[StepEntry], float]
_SAMPLES = Axis(Both("samples trained", "已训练样本数"), is_whole=True, has_zero=True)
_STEP = Axis(Both("optimizer step", "优化器步"), is_whole=True)
_WIDE_POINTS, _POINTS, _LEAST_POINTS = 250, 125, 40
"""Of a line in a picture as wide as the page, in a narrow one, and where there are many lines."""
_MEASURES = {
    "accuracy": Both("accuracy", "准确率"),
    "chrf": Both("chrF", "chrF 得分"),
    "perplexity": Both("perplexity", "困惑度"),
}
"""Of evaluations."""
_SCALES = {"accuracy": 100.0}
"""Those that are shown in percent."""
_BLUE, _RED, _GREEN, _GREY = 0, 1, 2, 5
_MOST_RANKS = 64
_HOURS, _MINUTES = (7200.0, 3600.0), (180.0, 60.0)
"""From so many seconds on, an axis of time is in units of so many."""


@dataclass(frozen=True)
class Pictures:
    """Of these runs, by the labels of their lines."""

    runs: Mapping[str, SeenRun]

    @property
    def only(self) -> SeenRun | None:
        """The run that the page is about; None of several."""
        return next(iter(self.runs.values())) if len(self.runs) == 1 else None

    def losses(self) -> Html:
        """Training loss over samples, and where it was validated."""
        series = []
        for number, (label, seen) in enumerate(self.runs.items()):
            points = self._curve(seen, _loss_sum, _weight, seen.samples, points=_WIDE_POINTS)
            name: Text = Both("training", "训练") if self.only else label
            series.append(Series(name, points, colour=number))
            if self.only:
                series.append(Series(Both("validation", "验证"), _validations(seen), "dots", _RED))
        up = Axis(Both("loss, nats a trained token", "损失（nat/训练 token）"))
        return chart(Both("Loss", "损失"), _SAMPLES, up, series, self._thinned(_WIDE_POINTS), is_wide=True)

    def validation_losses(self) -> Html:
        """Of several runs."""
        up = Axis(Both("loss, nats a trained token", "损失（nat/训练 token）"))
        drawn = [Series(label, _validations(seen)) for label, seen in self.runs.items()]
        return chart(Both("Validation loss", "验证损失"), _SAMPLES, up, drawn)

    def accuracies(self) -> Html:
        """The share of tokens that the model found likeliest, where it was measured more than once."""
        drawn = [
            Series("" if self.only else label, _validations(seen, lambda one: 100 * one.next_token_accuracy))
            for label, seen in self.runs.items()
        ]
        if max((len(one.points) for one in drawn), default=0) < 2:
            return Html("")
        title = Both("Next token right, in validation", "验证集：下一个 token 预测正确率")
        return chart(title, _SAMPLES, Axis("%"), drawn)

    def scores(self) -> Iterator[Html]:
        """What evaluations while it trained came to: a picture for each task and kind of number."""
        found: dict[tuple[str, str], dict[str, list[Point]]] = {}
        for label, seen in self.runs.items():
            for one in seen.run.evaluations:
                samples = seen.samples_after(one.step)
                numbers = ((task.name, *number) for task in one.tasks for number in task.numbers.items())
                for task, measure, value in numbers if samples is not None else ():
                    lines = found.setdefault((task, measure), {name: [] for name in self.runs})
                    lines[label].append(Point(samples or 0, value * _SCALES.get(measure, 1.0)))
        for (task, measure), lines in found.items():
            name = _MEASURES.get(measure, Both(measure, measure))
            title = Both(f"{task}: {name.en}", f"{task}：{name.zh}")
            drawn = [Series("" if self.only else label, points) for label, points in lines.items()]
            yield chart(title, _SAMPLES, Axis("%" if measure in _SCALES else ""), drawn)

    def rates(self) -> Html:
        """As the optimizer stepped; of parameters with a rate of their own too."""
        series = []
        for number, (label, seen) in enumerate(self.runs.items()):
            groups = seen.steps[0].group_lrs if seen.steps and self.only else {}
            name: Text = Both("all other parameters", "其余参数") if groups else "" if self.only else label
            series.append(Series(name, self._curve(seen, lambda one: one.lr, xs=seen.samples), colour=number))
            for group in groups:
                points = self._curve(seen, _rate_of(group), xs=seen.samples)
                series.append(Series(group, points))
            if self.only and any(one.wrong_rate_ranks or one.lr != one.planned_lr for one in seen.steps):
                planned = self._curve(seen, lambda one: one.planned_lr, xs=seen.samples)
                series.append(Series(Both("planned", "计划"), planned, colour=_GREY, is_dashed=True))
        return chart(Both("Learning rate", "学习率"), _SAMPLES, Axis("", has_zero=True), series)

    def norms(self) -> Html:
        """Of the gradient, before it was clipped."""
        title, up = Both("Gradient norm, before clipping", "梯度范数（裁剪前）"), Axis("", has_zero=True)
        return self._steps(title, up, lambda one: one.grad_norm)

    def batches(self) -> Html:
        """Samples of each step, planned and real."""
        title = Both("Samples in each step", "每步样本数")
        return self._planned_and_real(title, lambda one: one.planned_samples, lambda one: one.real_samples)

    def tokens(self) -> Html:
        """Trained tokens of each step, planned and real."""
        title = Both("Trained tokens in each step", "每步训练 token 数")
        return self._planned_and_real(
            title, lambda one: one.planned_trained_tokens, lambda one: one.trained_tokens
        )

    def shares(self) -> Html:
        """How much of what was computed is no padding."""
        title, up = Both("Token slots that held a token", "token 槽位的有效占比"), Axis("%", has_zero=True)
        return self._steps(title, up, lambda one: 100.0 * one.real_tokens, lambda one: one.token_slots)

    def rank_seconds(self) -> Html:
        """Of the slowest, the median and the fastest rank; of several runs the slowest over the median."""
        across, up = _STEP, Axis(Both("seconds", "秒"), has_zero=True)
        title = Both("Seconds of a step, by rank", "每步耗时：各 rank")
        if (seen := self.only) is None:
            title = Both("Slowest rank over the median", "最慢 rank 与中位 rank 的耗时之比")
            return self._steps(
                title, Axis(""), lambda one: one.seconds, lambda one: one.median_seconds or 0.0
            )
        kinds: tuple[tuple[Text, Numbers], ...] = (
            (Both("slowest", "最慢"), lambda one: one.seconds),
            (Both("median", "中位"), lambda one: _or_nan(one.median_seconds)),
            (Both("fastest", "最快"), lambda one: _or_nan(one.fastest_seconds)),
        )
        drawn = [
            Series(name, self._curve(seen, number, has_band=False), colour=colour)
            for (name, number), colour in zip(kinds, (_RED, _BLUE, _GREEN), strict=True)
        ]
        return chart(title, across, up, drawn)

    def imbalance(self) -> Html:
        """The tokens that the fullest rank computed over the mean, of steps whose ranks are listed."""

        def ratio(one: StepEntry) -> float:
            slots = one.per_rank.columns.token_slots if one.per_rank.columns is not None else ()
            return max(slots) * len(slots) / total if (total := sum(slots)) else math.nan

        title = Both("Tokens computed: fullest rank over the mean", "计算的 token：最满 rank 与均值之比")
        return self._steps(title, Axis(""), ratio)

    def rank_totals(self) -> Html:
        """Tokens that each rank computed, in all steps whose ranks are listed."""
        seen = self.only
        totals: dict[int, int] = {}
        for columns in (one.per_rank.columns for one in seen.steps) if seen else ():
            for rank, slots in zip(
                *((columns.rank, columns.token_slots) if columns else ((), ())), strict=True
            ):
                totals[rank] = totals.get(rank, 0) + slots
        if not 1 < len(totals) <= _MOST_RANKS:
            return Html("")
        each = [Bar(f"rank {rank}", slots, f"{slots:,}") for rank, slots in sorted(totals.items())]
        return bars(Both("Tokens computed by each rank", "各 rank 计算的 token 总数"), each)

    def throughput(self) -> Html:
        """Real tokens a second over the time that was spent in steps and on checkpoints, of all lines."""
        longest = max((sum(map(_spent, seen.run.lines)) for seen in self.runs.values()), default=0.0)
        across, unit = _time_axis(longest)
        series = []
        for label, seen in self.runs.items():
            times = [seconds / unit for seconds in accumulate(map(_spent, seen.run.lines))]
            points = curve(
                times,
                [one.real_tokens for one in seen.run.lines],
                [one.seconds for one in seen.run.lines],
                self._most(_POINTS),
                self.only is not None,
            )
            series.append(Series("" if self.only else label, points))
        title = Both("Real tokens a second", "吞吐：每秒有效 token 数")
        return chart(title, across, Axis("", has_zero=True), series, self._thinned(_POINTS))

    def memory(self) -> Html:
        """The most that a rank held, of each run that has measured it."""
        each = [
            Bar(label, seen.memory.peak_bytes, f"{seen.memory.peak_bytes / 1e9:,.2f} GB", colour=number)
            for number, (label, seen) in enumerate(self.runs.items())
            if seen.memory is not None
        ]
        return bars(Both("Memory of the fullest rank, at most", "占用最多的 rank 的峰值内存"), each)

    def _planned_and_real(self, title: Text, planned: Numbers, real: Numbers) -> Html:
        up, seen = Axis("", has_zero=True, is_whole=True), self.only
        if seen is None:
            return self._steps(title, up, real)
        others = [Point(one.step + 1, real(one)) for one in seen.steps if real(one) != planned(one)]
        if not others:
            note = Both("In every step as planned.", "每一步都与计划一致。")
            return self._steps(title, up, real, note=note)
        drawn = [
            Series(Both("real", "实际"), self._curve(seen, real)),
            Series(Both("planned", "计划"), self._curve(seen, planned), colour=_GREY, is_dashed=True),
            Series(Both("other than planned", "与计划不符"), others, "dots", _RED),
        ]
        note = Both(
            f"{len(others):,} of {len(seen.steps):,} steps differ from the plan.",
            f"{len(seen.steps):,} 步中有 {len(others):,} 步与计划不符。",
        )
        return chart(title, _STEP, up, drawn, note)

    def _steps(
        self, title: Text, up: Axis, tops: Numbers, bottoms: Numbers | None = None, note: Text = ""
    ) -> Html:
        """A line for each run over its steps; of several over samples: a step of another batch is no step."""
        drawn = [
            Series("" if self.only else label, self._curve(seen, tops, bottoms, self._across(seen)))
            for label, seen in self.runs.items()
        ]
        return chart(title, _STEP if self.only else _SAMPLES, up, drawn, note)

    def _across(self, seen: SeenRun) -> Sequence[float] | None:
        return None if self.only else seen.samples

    def _curve(
        self,
        seen: SeenRun,
        tops: Numbers,
        bottoms: Numbers | None = None,
        xs: Sequence[float] | None = None,
        has_band: bool = True,
        points: int = _POINTS,
    ) -> list[Point]:
        steps = seen.steps
        across = [one.step + 1 for one in steps] if xs is None else xs
        below = None if bottoms is None else list(map(bottoms, steps))
        most = self._most(points)
        return curve(across, list(map(tops, steps)), below, most, has_band and self.only is not None)

    def _most(self, points: int) -> int:
        """Points of a line: the more lines, the fewer."""
        return max(_LEAST_POINTS, points * 2 // (len(self.runs) + 1))

    def _thinned(self, points: int) -> Text:
        """What a point stands for, where it is not one step."""
        longest = max((len(seen.steps) for seen in self.runs.values()), default=0)
        each = steps_of_point(longest, self._most(points))
        if each == 1:
            return ""
        if self.only is None:
            return Both(f"Each point: up to {each:,} steps.", f"每个点：最多 {each:,} 步的均值。")
        return Both(
            f"Line: means over {each:,} steps; band: their lowest and highest step.",
            f"曲线：每 {each:,} 步的均值；色带：其中单步的最低与最高值。",
        )


def _loss_sum(one: StepEntry) -> float:
    return one.loss * one.planned_trained_tokens


def _weight(one: StepEntry) -> float:
    return one.planned_trained_tokens


def _spent(one: StepEntry) -> float:
    return one.seconds + one.pause_seconds


def _or_nan(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds


def _rate_of(group: str) -> Numbers:
    return lambda one: one.group_lrs.get(group, math.nan)


def _validations(seen: SeenRun, number: Callable[[Validation], float] = lambda one: one.loss) -> list[Point]:
    """By the samples that were trained before."""
    found: Iterator[tuple[int | None, float]] = (
        (seen.samples_after(one.step), number(one)) for one in seen.run.validations
    )
    return [Point(samples, value) for samples, value in found if samples is not None]


def _time_axis(seconds: float) -> tuple[Axis, float]:
    """An axis, and the seconds of its unit."""
    label, unit = Both("seconds of training", "训练用时（秒）"), 1.0
    if seconds >= _HOURS[0]:
        label, unit = Both("hours of training", "训练用时（小时）"), _HOURS[1]
    elif seconds >= _MINUTES[0]:
        label, unit = Both("minutes of training", "训练用时（分钟）"), _MINUTES[1]
    return Axis(label, has_zero=True), unit
