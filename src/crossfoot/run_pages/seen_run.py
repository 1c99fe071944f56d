"""A run as its page is made from: its folder read once, its receipt, and what it does at the moment."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from crossfoot.findings.finding import Refused
from crossfoot.ledger.entry import StepEntry
from crossfoot.receipts.index_check import held_against_index
from crossfoot.receipts.receipt import receipt_of_run
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.attempts import Attempt
from crossfoot.runs.dry_run import is_dry_run
from crossfoot.runs.ending import PeakMemory
from crossfoot.runs.nearby import refuse_no_run
from crossfoot.runs.noise_scale import RunNoise
from crossfoot.runs.reader import RunRecord, read_run
from crossfoot.scores.result_folder import Evaluation, read_evaluation
from crossfoot.watching.state import RunState
from crossfoot.watching.watcher import Watcher


@dataclass(frozen=True)
class SeenRun:
    """state: what it does, or how it ended. evaluations: finished ones in its folder, by their names, but for
    those that it has made itself (`run.evaluations`).
    noise: the gradient noise scale, None where it was never measured. is_dry: a dry run.
    """

    run_dir: str
    run: RunRecord
    receipt: Receipt
    state: RunState
    evaluations: Mapping[str, Evaluation]
    noise: RunNoise | None = None
    is_dry: bool = False

    @property
    def name(self) -> str:
        """That of its config."""
        return self.receipt.name

    @cached_property
    def steps(self) -> Sequence[StepEntry]:
        """The lines that count, by step."""
        return self.run.by_step()

    @cached_property
    def samples(self) -> Sequence[int]:
        """Samples trained after each of the steps, all before it included."""
        return list(accumulate(step.real_samples for step in self.steps))

    @cached_property
    def lock(self) -> Mapping[str, Any]:
        """Of the last attempt, whose plan is in force."""
        return self.run.attempts[-1].lock if self.run.attempts else self.run.lock

    @property
    def attempt(self) -> Attempt | None:
        """The last one; None of a run that has noted none."""
        return self.run.attempts[-1].attempt if self.run.attempts else None

    @property
    def memory(self) -> PeakMemory | None:
        """Of all attempts that have measured it, the largest."""
        each = [one.ending.memory for one in self.run.attempts if one.ending and one.ending.memory]
        return max(each, key=lambda one: one.peak_bytes, default=None)

    def planned(self, *keys: str) -> Any:
        """A value of the lock in force, by its keys; None where an older lock has none."""
        value: Any = self.lock
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def samples_after(self, done_steps: int) -> int | None:
        """Trained after so many steps; None where that step has no line."""
        if not done_steps:
            return 0
        return self._samples_by_step.get(done_steps - 1)

    @cached_property
    def _samples_by_step(self) -> Mapping[int, int]:
        return {step.step: samples for step, samples in zip(self.steps, self.samples, strict=True)}


def see_run(run_dir: str) -> SeenRun:
    """Read it. Raises Refused, as `crossfoot receipt` does."""
    refuse_no_run(run_dir, "report")
    state = Watcher(run_dir).look(0.0)
    run = read_run(run_dir)
    receipt = held_against_index(receipt_of_run(run), run)
    noted = {os.path.basename(one.folder) for one in run.evaluations}
    evaluations = dict(_evaluations(run_dir, noted))
    return SeenRun(run_dir, run, receipt, state, evaluations, state.noise, is_dry_run(run_dir))


def _evaluations(run_dir: str, noted: Collection[str]) -> list[tuple[str, Evaluation]]:
    """Those that are finished and can be read, without those that the run has noted itself."""
    found = []
    folders = (folder for folder in Path(run_dir, "evaluations").glob("*") if folder.name not in noted)
    for folder in sorted(folders):
        try:
            found.append((folder.name, read_evaluation(folder)))
        except Refused:
            continue
    return found
