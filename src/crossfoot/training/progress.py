"""What a person sees while it trains: one line that moves on a terminal, plain lines elsewhere. Rank 0,
stderr.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from crossfoot.ledger.entry import SKIPS, StepEntry
from crossfoot.output import tell, visible_line
from crossfoot.phrases import clock, step_name, step_of
from crossfoot.streams import terminal_of

_PLAIN_LINE_SECONDS = 2.0
_SPEED_WINDOW_STEPS = 20


class ProgressLine:
    """Fed with ledger entries; says step, loss, rate, samples, real tokens per second over all ranks, time
    left. samples_before: those of the steps that earlier attempts did.
    """

    def __init__(self, total_steps: int, samples_before: int = 0) -> None:
        self._total = total_steps
        self._samples = samples_before
        self._spoke = 0.0
        self._recent: deque[tuple[int, float]] = deque(maxlen=_SPEED_WINDOW_STEPS)
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.percentage:3.0f}%"),
            )
            self._bar = Progress(*columns, console=Console(file=terminal_of(sys.stderr)))
            self._task = self._bar.add_task("starting", total=total_steps)
            self._bar.start()

    def __call__(self, entry: StepEntry) -> None:
        """Show one step."""
        self._samples += entry.real_samples
        self._recent.append((entry.real_tokens, entry.seconds))
        line = self._line(entry)
        for aside in _policy_lines(entry):
            self._say_aside(aside, "yellow")
        if entry.causes:
            self._say_aside(
                f"{step_name(entry.step)} does not foot: {entry.causes[0].code} {entry.causes[0].message}",
                "red",
            )
        if self._bar:
            self._bar.update(self._task, completed=entry.step + 1, description=line)
            return
        last = entry.step + 1 >= self._total
        if last or not self._spoke or time.monotonic() - self._spoke >= _PLAIN_LINE_SECONDS:
            self._spoke = time.monotonic()
            tell(line)

    def _say_aside(self, line: str, style: str) -> None:
        """A line that stays, above the one that moves."""
        if self._bar:
            self._bar.console.print(visible_line(line), style=style, markup=False, highlight=False)
        else:
            tell(line)

    def _line(self, entry: StepEntry) -> str:
        tokens, seconds = (sum(column) for column in zip(*self._recent, strict=True))
        left = (self._total - entry.step - 1) * seconds / len(self._recent)
        speed = tokens / seconds if seconds else 0.0
        rate = f"lr {entry.lr:.3e}" if math.isfinite(entry.lr) else "no update"
        return (
            f"{step_of(entry.step, self._total)}   loss {entry.loss:.4f}"
            f"   {rate}   samples {self._samples:,}"
            f"   {speed:,.0f} real tokens/s   {clock(left)} left"
        )

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar.stop()


def _policy_lines(entry: StepEntry) -> list[str]:
    """What a policy made of the step: it was skipped, or tried again."""
    if entry.skipped is not None:
        skipped = f"{step_name(entry.step)} was skipped, as {SKIPS[entry.skipped]} says"
        return [skipped, *(f"  {one}" for one in entry.not_finite)]
    if entry.retries:
        return [f"{step_name(entry.step)} overflowed float16 and was tried {entry.retries + 1} times"]
    return []
