"""The checkpoint of another run with which all runs of a study begin, where it is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.branching.begin import begin_branch
from crossfoot.branching.findings import no_branch_point
from crossfoot.branching.point import BranchPoint, find_branch_point
from crossfoot.findings.finding import Refused
from crossfoot.runs.changing import batches_of
from crossfoot.studies.design import Asked, Branching, RunDesign
from crossfoot.studies.planning_runs import Studied, plan_run


def find_start(asked: Asked, studied: Studied) -> tuple[BranchPoint, Branching] | None:
    """None where each run begins with the model. Raises Refused where there is no such checkpoint, or runs
    that go on from it cannot be compared.
    """
    if asked.branch is None:
        return None
    point = find_branch_point(asked.branch)
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
    return point, Branching(point.step, point.samples, batches)


def branch_off(point: BranchPoint, studied: Studied, runs: Iterable[RunDesign]) -> None:
    """Begin the folder of each run; one that is begun stays as it is. Raises Refused."""
    for run in runs:
        if studied.index is None:
            raise RuntimeError("a run branches off with its data indexed")
        allow = () if run.factor == 1 else ("lr.reference",)
        begin_branch(point, plan_run(studied, run), studied.index, allow)
