"""The checkpoint of another run with which all runs of a study begin, where it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.branching.begin import begin_branch
from crossfoot.branching.findings import no_branch_point
from crossfoot.branching.point import BranchPoint, find_branch_point
from crossfoot.findings.finding import Refused
from crossfoot.runs.attempts import lock_path
from crossfoot.runs.branched import Branched, read_branch
from crossfoot.runs.changing import batches_of
from crossfoot.runs.ending import read_lock
from crossfoot.studies.design import Asked, Branching, RunDesign
from crossfoot.studies.planning_runs import Studied, plan_run


@dataclass(frozen=True)
class StartPoint:
    """Where all runs begin. point: the checkpoint, or why it cannot be had any more where runs have begun
    with it: they go on without it.
    """

    branching: Branching
    point: BranchPoint | Refused

    def begin(self, studied: Studied, runs: Iterable[tuple[RunDesign, str]]) -> None:
        """Begin the folder of each run; one that is begun stays as it is. Raises Refused."""
        for run, run_dir in runs:
            if isinstance(self.point, Refused):
                if read_branch(run_dir) is None:
                    raise self.point
                continue
            if studied.index is None:
                raise RuntimeError("a run branches off with its data indexed")
            allow = () if run.factor == 1 else ("lr.reference",)
            begin_branch(self.point, plan_run(studied, run), studied.index, allow)


def find_start(asked: Asked, studied: Studied, folder: str) -> StartPoint | None:
    """None where each run begins with the model. folder: of the study. Raises Refused where there is no such
    checkpoint, or runs that go on from it cannot be compared.
    """
    if asked.branch is None:
        return None
    try:
        point = find_branch_point(asked.branch)
    except Refused as refused:
        if (branching := _begun(asked.branch, folder)) is None:
            raise
        return StartPoint(branching, refused)
    batches = batches_of(point.lock)
    if batches is None:
        title = f"{point.run_dir} measures its steps in tokens, and no number of samples can follow"
        raise Refused(no_branch_point(title, "branch off a run with batch.global_batch_size"))
    if len(asked.seeds) > 1:
        title = "a checkpoint goes on with the samples of its own seed alone"
        raise Refused(no_branch_point(title, "leave --seeds out"))
    longest = max(batch * ceil_div(asked.budget_samples, batch) for batch in asked.batches)
    epoch, last_step = studied.samples_per_epoch, studied.plan.run.config.data.last_step
    left = epoch - point.samples % epoch
    if longest > left and last_step != "carry":
        title = f"{longest:,} samples reach over the end of the epoch, which has {left:,} left"
        note = f"with data.last_step {last_step} the step at its end is not full"
        help_ = f"train fewer: --budget-samples {left - max(asked.batches)}"
        if left <= max(asked.batches):
            help_ = "branch off an earlier checkpoint"
        raise Refused(no_branch_point(title, help_, notes=(note,)))
    return StartPoint(Branching(point.step, point.samples, batches), point)


def _begun(word: str, folder: str) -> Branching | None:
    """The same numbers from a run of the study that has begun; None where none has."""
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        run_dir = os.path.join(folder, name)
        branch = read_branch(run_dir)
        if branch is not None and _is_at(branch, word):
            batches = batches_of(read_lock(lock_path(run_dir, branch.attempt)))
            return None if batches is None else Branching(branch.step, branch.samples, batches)
    return None


def _is_at(branch: Branched, word: str) -> bool:
    run_dir, _, step = word.rpartition("@")
    return branch.run_dir == os.path.abspath(run_dir) and str(branch.step) == step.lstrip("0")
