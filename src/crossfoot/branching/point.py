"""Where runs branch off another one: its checkpoint, and the past that leads to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from crossfoot.arithmetic.batch import batch_behind
from crossfoot.branching.findings import no_branch_point
from crossfoot.checkpoints.store import Checkpoint, list_checkpoints
from crossfoot.findings.finding import Refused
from crossfoot.ledger.entry import StepEntry
from crossfoot.model_source.trained_run import find_checkpoint
from crossfoot.runs.attempts import Attempt, counted, vouched_steps
from crossfoot.runs.changing import batches_of
from crossfoot.runs.nearby import is_run, no_run_here, runs_near
from crossfoot.runs.past import Past, past_of
from crossfoot.runs.reader import read_run
from crossfoot.shell_words import quoted_path


@dataclass(frozen=True)
class BranchPoint:
    """A run after some steps. checkpoint: of them, every byte of it read. attempts: up to the one that wrote
    it. lines: of these attempts, for the steps before, those too that were lost and computed again. past:
    the steps that count.
    """

    run_dir: str
    checkpoint: Checkpoint
    attempts: tuple[Attempt, ...]
    lines: tuple[StepEntry, ...]
    past: Past

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.checkpoint.step

    @property
    def samples(self) -> int:
        """Trained in them, over all epochs."""
        return self.past.samples

    @property
    def lock(self) -> Mapping[str, Any]:
        """The plan that they were last trained with."""
        return self.past.lock

    @property
    def attempt(self) -> int:
        """The one that wrote the checkpoint."""
        return self.checkpoint.manifest.attempt

    def override(self, batch: int) -> str | None:
        """The `path=value` word with which a branch goes on with so many samples a step; None where the run
        measures its steps in tokens, and no number of samples can follow.
        """
        before = batches_of(self.lock)
        return None if before is None else batch_behind(before, self.samples, batch)


def find_branch_point(word: str) -> BranchPoint:
    """What RUN_DIR@STEP names. Raises Refused: no such word (CF120), run (CF040) or checkpoint (CF756, with
    those that are there), a checkpoint whose steps the ledger does not know (CF120), damaged papers.
    """
    run_dir, _, number = word.rpartition("@")
    if not run_dir or not number.isascii() or not number.isdecimal() or not int(number):
        there = [f"{quoted_path(word)}@{one.step}" for one in list_checkpoints(word)] if word else []
        example = f"name the run and its steps: {there[-1]}" if there else "write it like runs/long@300"
        raise Refused(
            no_branch_point(f"{word or 'an empty word'} is no RUN_DIR@STEP", example, unreadable=True)
        )
    if not is_run(run_dir):
        raise Refused(
            no_run_here(run_dir, runs_near(run_dir), lambda other: f"{quoted_path(other)}@{number}")
        )
    checkpoint = _checkpoint(run_dir, int(number))
    run = read_run(run_dir)
    writer, step = checkpoint.manifest.attempt, checkpoint.step
    # a later attempt may have gone on from before this checkpoint: its past is what its writer knew
    attempts = tuple(one for one in run.started if one.attempt <= writer)
    lines = tuple(line for line in run.lines if line.attempt <= writer and line.step < step)
    if (vouched := vouched_steps(lines, attempts)) < step:
        title = f"the ledger of {run_dir} knows {vouched:,} of the {step:,} steps of {checkpoint.name}"
        help_ = "take ledger.jsonl from where it was written, or name an earlier checkpoint"
        raise Refused(no_branch_point(title, help_))
    kept = counted(lines, attempts)[0]
    number_in_force = next(line.attempt for line in kept if line.step == step - 1)
    locks = {record.attempt.attempt: record.lock for record in run.attempts}
    lock = locks.get(number_in_force, run.lock)
    past = past_of(number_in_force, lock, kept, step, is_branch=True)
    return BranchPoint(os.path.normpath(run_dir), checkpoint, attempts, lines, past)


def _checkpoint(run_dir: str, step: int) -> Checkpoint:
    try:
        return find_checkpoint(run_dir, step, naming=f"{quoted_path(run_dir)}@")
    except Refused as refused:
        pruned = "a run keeps its last checkpoints only, as many as its checkpoint.keep says"
        raise Refused([replace(one, notes=(*one.notes, pruned)) for one in refused.findings]) from refused
