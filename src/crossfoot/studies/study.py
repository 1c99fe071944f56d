"""A study as it stands: its runs, what came of each so far, and what is left to train."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.store import DataIndex
from crossfoot.planning.lock import make_lock
from crossfoot.runs.attempts import run_lock_path
from crossfoot.runs.run_folder import holds_run
from crossfoot.studies.batch_answer import losses_after
from crossfoot.studies.design import Asked, RunDesign, Subject, designed
from crossfoot.studies.measuring import measured, not_begun
from crossfoot.studies.order import SampleOrder, order_of, samples_sha256
from crossfoot.studies.planning_runs import Studied, refuse_changed
from crossfoot.studies.results import RunCost, StudyResults, StudyRun
from crossfoot.studies.running import Start
from crossfoot.studies.start_point import StartPoint

Measured = tuple[StudyRun, RunCost | None]


class Study:
    """A study whose data is indexed. folder: with one folder for each run in it. peaks: the rate that the
    config's rule gives, by batch. start: the checkpoint that all runs branch off; None: there is none.
    """

    def __init__(
        self,
        studied: Studied,
        asked: Asked,
        subject: Subject,
        folder: str,
        peaks: Mapping[int, float],
        start: StartPoint | None = None,
    ) -> None:
        self.studied, self.asked, self.subject, self.folder = studied, asked, subject, folder
        self._peaks, self._start = peaks, start
        self._measured: dict[str, Measured] = {}

    @property
    def designs(self) -> list[RunDesign]:
        """All runs, as far as it is known by now which there are."""
        runs = (run for run, _ in self._measured.values())
        losses = losses_after(runs, self.asked.budget_samples)
        return designed(self.asked, self.subject, self.folder, losses)

    def measure(self, run: RunDesign) -> StudyRun:
        """What came of a run so far, from its folder."""
        self._measured[run.name] = measured(self.run_dir(run), run, self._orders[run.seed])
        return self._measured[run.name][0]

    def begun(self) -> None:
        """Measure all runs that are there already. Raises Refused (CF827) with all that are other runs."""
        found: list[Finding] = []
        there = -1
        while there < len(self._measured):  # what is there may say that there are more
            there = len(self._measured)
            for run in self.designs:
                run_dir = self.run_dir(run)
                if run.name in self._measured or not holds_run(run_dir):
                    continue
                try:
                    if os.path.exists(run_lock_path(run_dir)):
                        refuse_changed(self.studied, run, run_dir)
                except Refused as refused:
                    found.extend(refused.findings)
                self.measure(run)
        if found:
            raise Refused(found)

    def left(self) -> list[Start]:
        """Runs that are not over."""
        return [
            Start(run, self.run_dir(run), self.studied.words(run))
            for run in self.designs
            if run.name not in self._measured or self._measured[run.name][0].state == "unfinished"
        ]

    def branch_off(self, starts: Iterable[Start]) -> None:
        """Begin the folders of these runs, where they branch off another one. Raises Refused."""
        if self._start is not None:
            self._start.begin(self.studied, [(start.run, start.run_dir) for start in starts])

    def run_dir(self, run: RunDesign) -> str:
        """Its folder."""
        return os.path.join(self.folder, run.name)

    def results(self) -> StudyResults:
        """The table of all runs, as they are."""
        known = [self._measured.get(run.name) or self._not_begun(run) for run in self.designs]
        index, asked, first = self._index, self.asked, self._first_sample
        return StudyResults(
            name=self.subject.name,
            own_batch=self.subject.batch,
            budget_samples=asked.budget_samples,
            samples_per_epoch=self.studied.samples_per_epoch,
            tokens_per_sample=float(index.trained_tokens.sum(dtype="int64")) / index.num_samples,
            samples_sha256=samples_sha256(self._orders.values(), first, first + asked.budget_samples),
            rule=self.studied.plan.rate.rule,
            runs=tuple(run for run, _ in known),
            branch=asked.branch,
            costs={run.name: cost for run, cost in known if cost is not None},
        )

    def _not_begun(self, run: RunDesign) -> Measured:
        return not_begun(run, self._peaks[run.batch] * float(run.factor)), None

    @property
    def _first_sample(self) -> int:
        """Of the runs' own."""
        return 0 if self.subject.branching is None else self.subject.branching.samples

    @property
    def _index(self) -> DataIndex:
        if self.studied.index is None:
            raise RuntimeError("a study is measured against its data index")
        return self.studied.index

    @cached_property
    def _orders(self) -> dict[int, SampleOrder]:
        """By seed, as long as the longest run."""
        lock = make_lock(self.studied.plan)
        samples = max(batch * ceil_div(self.asked.budget_samples, batch) for batch in self.asked.batches)
        samples += self._first_sample
        return {seed: order_of(lock, self._index, seed, samples) for seed in self.asked.seeds}
