"""`noise_scale.jsonl` of a run folder: the squared norms of gradients of every measured step, a line each,
appended by rank 0; and what they come to.

All attempts append to one file. Where an attempt goes back to a checkpoint and trains steps again, its lines
count, and those of the lost steps do not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from crossfoot.arithmetic.noise_scale import NoiseScale, StepNoise, noise_scale, weighted_mean
from crossfoot.documents import Malformed, plain, value_of
from crossfoot.line_file import append_line, readable_lines
from crossfoot.phrases import counted

NOISE_FILE = "noise_scale.jsonl"


@dataclass(frozen=True)
class GroupSquares:
    """Of the parameters of one kind (`arithmetic.rate_groups.GROUPS`), as `NoiseLine` and `StepNoise` have
    it. big: None where the engine does not show it.
    """

    small: float
    big: float | None


@dataclass(frozen=True)
class NoiseLine:
    """One measured step, all ranks. step: from 0. attempt: 1-based. applied: the optimizer made its update.

    tokens: trained, of each forward that has any, by rank and then in order; squares: of each of them the
    squared norm of its gradient, a mean over its tokens. samples: of those forwards. big: the squared norm of
    the step's gradient, before clipping. groups: by kind of parameter, those that are trained.
    """

    step: int
    attempt: int
    applied: bool
    samples: int
    tokens: tuple[int, ...]
    squares: tuple[float, ...]
    big: float
    groups: Mapping[str, GroupSquares] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.squares) or min(self.tokens, default=1) < 1:
            raise ValueError("squares and tokens are not of the same forwards")

    @property
    def noise(self) -> StepNoise:
        """Of all parameters."""
        return self._of(weighted_mean(self.tokens, self.squares), self.big)

    def noise_of(self, kind: str) -> StepNoise:
        """Of one kind of parameters; NaN where the step does not say."""
        group = self.groups.get(kind)
        if group is None or group.big is None:
            return self._of(math.nan, math.nan)
        return self._of(group.small, group.big)

    def _of(self, small: float, big: float) -> StepNoise:
        return StepNoise(len(self.tokens), sum(self.tokens), self.samples, small, big)


@dataclass(frozen=True)
class RunNoise:
    """The noise scale of a run over the steps that it was measured at.

    groups: by kind of parameter, as far as the engine shows it. left_out: measured steps without an update,
    or with a gradient that is NaN or infinite. single: those with fewer than two forwards to compare.
    """

    total: NoiseScale
    groups: Mapping[str, NoiseScale]
    left_out: int
    single: int

    @property
    def figures(self) -> str:
        """In one line, behind the words "noise scale": with its interval, or why there is none."""
        total, left = self.total, f", {counted(self.left_out, 'step')} left out" if self.left_out else ""
        if total.samples is None or total.tokens is None:
            is_single = self.single > total.steps
            why = f"{counted(self.single, 'step')} without two forwards to compare"
            return f"n/a: {why if is_single else total.why_not}{left}"
        value, low, high = map(_short, (total.samples.value, total.samples.low, total.samples.high))
        tokens = f"{_short(total.tokens.value)} trained tokens"
        return f"{value} samples [{low}, {high}], {tokens}, over {counted(total.steps, 'step')}{left}"


def append_noise(run_dir: str, line: NoiseLine) -> None:
    """Add a line. Raises OSError."""
    append_line(os.path.join(run_dir, NOISE_FILE), plain(line))


def read_noise_lines(run_dir: str) -> tuple[NoiseLine, ...]:
    """Those that count, by step; none where there is no file. Lines that nobody can read are left out: the
    others are as good without them.
    """
    found: list[NoiseLine] = []
    for document in readable_lines(os.path.join(run_dir, NOISE_FILE)):
        with suppress(Malformed):
            line = value_of(NoiseLine, document)
            while found and found[-1].step >= line.step:
                found.pop()
            found.append(line)
    return tuple(found)


def read_noise_scale(run_dir: str) -> RunNoise | None:
    """The noise scale of a run; None where it was never measured."""
    lines = read_noise_lines(run_dir)
    return run_noise(lines) if lines else None


def run_noise(lines: Sequence[NoiseLine]) -> RunNoise:
    """What lines, by step, come to: all of a run's, or those of a part of it."""
    applied = [line for line in lines if line.applied and _is_finite(line)]
    kinds = dict.fromkeys(kind for line in applied for kind in line.groups)
    groups = {kind: [line.noise_of(kind) for line in applied] for kind in kinds}
    return RunNoise(
        total=noise_scale(line.noise for line in applied),
        groups={kind: noise_scale(steps) for kind, steps in groups.items() if any(map(_is_shown, steps))},
        left_out=len(lines) - len(applied),
        single=sum(len(line.tokens) < 2 for line in applied),
    )


def _is_finite(line: NoiseLine) -> bool:
    return math.isfinite(line.big) and all(map(math.isfinite, line.squares))


def _is_shown(step: StepNoise) -> bool:
    return math.isfinite(step.big)


def _short(number: float) -> str:
    """Three digits, which is more than an interval ever bears."""
    digits = 2 - math.floor(math.log10(number)) if number > 0 else 0
    return f"{round(number, digits):,.{max(0, digits)}f}"
