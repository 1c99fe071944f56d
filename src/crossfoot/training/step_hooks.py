"""What happens between two steps: a validation, a checkpoint, an evaluation. All ranks together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from crossfoot.checkpoints.store import CHECKPOINT_NOW, list_checkpoints, prune
from crossfoot.findings.finding import Finding
from crossfoot.findings.render import render
from crossfoot.liveness.rank_monitor import RankMonitor
from crossfoot.liveness.stopping import Stop, StopRequest
from crossfoot.metering.meter import Meter
from crossfoot.mirrors.mirror import Mirror, log_validation
from crossfoot.phrases import said_by, step_name
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.runs.branched import read_branch
from crossfoot.runs.validations import (
    Validation,
    append_validation,
    is_out_of_patience,
    read_validations,
)
from crossfoot.training.engine import Engine
from crossfoot.training.evaluations import RunEvaluator
from crossfoot.training.findings import validation_not_finite, weights_not_finite
from crossfoot.training.rank_job import RankJob
from crossfoot.training.saving import CheckpointFacts, save_checkpoint, weights_are_finite
from crossfoot.training.step_recorder import StepRecorder
from crossfoot.training.validation import validated

LOOK_SECONDS = 1.0
"""How often rank 0 looks whether somebody asks for a checkpoint."""
LAUNCHER_GRACE_SECONDS = {"deepspeed": 30.0, "torchrun": 30.0, "accelerate": 30.0}
"""These launchers pass a signal on and kill what is left so many seconds later."""


class StepHooks:
    """What one rank does between two steps. `after` is called with every finished step.

    finding: why the last checkpoint could not be written or the validation stops the run, else None; the same
    on all ranks.
    """

    def __init__(
        self,
        work: RankJob,
        engine: Engine,
        model: nn.Module,
        ranks: Ranks,
        meter: Meter,
        step_recorder: StepRecorder,
        stop: StopRequest,
        rank_monitor: RankMonitor,
        report: Callable[[str], None],
        mirrors: Sequence[Mirror] = (),
        evaluator: RunEvaluator | None = None,
    ) -> None:
        self._work, self._engine, self._model, self._ranks = work, engine, model, ranks
        self._meter, self._step_recorder, self._stop, self._rank_monitor = (
            meter,
            step_recorder,
            stop,
            rank_monitor,
        )
        self._report, self._mirrors, self._evaluator = report, mirrors, evaluator
        self._run_dir = work.plan.run.run_dir
        self._looked = time.monotonic()
        self._save_seconds = self._known_save_seconds()
        self._saved_step = work.resume_point.first_step
        self._validations: dict[int, Validation] = {}
        if ranks.is_first:
            before = read_validations(self._run_dir)
            self._validations = {one.step: one for one in before if one.step <= self._saved_step}
        self.finding: Finding | None = None

    def after(self, steps_done: int, asked: Stop) -> Stop:
        """What is due after so many steps. Returns what is still asked for: whether all ranks stop here.

        Nothing is due after the last step: that is closing's.
        """
        if steps_done == self._work.steps:
            return asked
        self._look_for_request()
        config = self._work.plan.run.config
        validates = self._work.validation is not None and _is_due(config.validation.every_steps, steps_done)
        saves = asked is Stop.SAVE or _is_due(config.checkpoint.every_steps, steps_done)
        if validates:
            self._step_recorder.wait()  # the lines of the steps before are shown before the loss
            self._rank_monitor.phase("validating", steps_done)
            found = self.validate(steps_done)
            self._report(f"{step_name(steps_done - 1)}   {found.words}")
            if not math.isfinite(found.loss) and config.faults.nonfinite == "stop":
                self._step_recorder.drain()
                self.finding = validation_not_finite(steps_done, found.loss)
                return Stop.NOT_FINITE
            if not asked.ends and self._is_no_better():
                return max(self._step_recorder.drain(), Stop.NO_BETTER)
        if saves:
            self._rank_monitor.phase("saving", steps_done)
            asked = self._step_recorder.drain()
            if not asked.ends:
                asked = self._save(steps_done)
        evaluates = self._evaluator is not None and self._evaluator.is_due(steps_done)
        if evaluates and not asked.ends:  # behind the save: what is lost meanwhile is no step
            asked = max(asked, self._step_recorder.drain())
            if not asked.ends:
                asked = self._evaluated(steps_done)
        if validates or saves or evaluates:
            self._rank_monitor.phase("training", steps_done)
            self._meter.restart_clock()
        return asked

    def before(self, steps_done: int) -> Stop:
        """What is due before the first step of this attempt: a validation of the weights that the run begins
        with, and an evaluation that the attempt before it did not finish. Returns what is asked for, as
        `after` does.
        """
        validates = self._begins_validated(steps_done)
        evaluates = self._is_left_unevaluated(steps_done)
        if validates:
            self._rank_monitor.phase("validating", steps_done)
            self._report(f"before step {steps_done + 1:,}   {self.validate(steps_done).words}")
        asked = self._evaluated(steps_done) if evaluates else Stop.NO
        if validates or evaluates:
            self._rank_monitor.phase("training", steps_done)
        return asked

    def _begins_validated(self, steps_done: int) -> bool:
        """Whether the run begins with these weights, or branched off with them, and their loss is asked for.
        It is taken again by an attempt that begins with the same step.
        """
        if not self._work.plan.run.config.validation.at_start or self._work.validation is None:
            return False
        branch = read_branch(self._run_dir) if steps_done else None
        begins = not steps_done or (branch is not None and branch.step == steps_done)
        return self._ranks.gather(begins, bool)[0]

    def _is_left_unevaluated(self, steps_done: int) -> bool:
        evaluator = self._evaluator
        if evaluator is None or not 0 < steps_done < self._work.steps or not evaluator.is_due(steps_done):
            return False
        return not evaluator.is_noted(steps_done)

    def _evaluated(self, steps_done: int) -> Stop:
        self.evaluate(steps_done)
        return self._step_recorder.drain()  # a signal may have come meanwhile

    def evaluate(self, steps_done: int) -> None:
        """Ask the weights as they are, if the run is asked anything; rank 0 says what came of it."""
        if self._evaluator is None:
            return
        self._rank_monitor.phase("evaluating", steps_done)
        found, told = self._evaluator.score(steps_done)
        if found is not None:
            self._report(f"{step_name(steps_done - 1)}   {found.words}")
        if told:
            self._report(render(told, colour=False))

    def validate(self, steps_done: int) -> Validation:
        """What the weights are worth as they are; there must be validation data. Rank 0 notes it. Taken once
        after each step.
        """
        known = self._validations.get(steps_done)
        if known is not None and known.attempt == self._work.resume_point.attempt:
            return known
        assert self._work.validation is not None
        plan = self._work.plan
        packed = plan.run.config.data.is_packed
        found = validated(
            self._engine, self._work.validation, self._ranks, plan.batch, packed,
            steps_done, self._work.resume_point.attempt,
        )  # fmt: skip
        if self._ranks.is_first:
            try:
                append_validation(self._run_dir, found)
            except OSError as error:
                self._report(f"the validation is not noted: {said_by(error)}")
        for mirror in self._mirrors:
            log_validation(mirror, found)
        self._validations[steps_done] = found
        return found

    def _is_no_better(self) -> bool:
        """Whether validation.patience is at its end; as rank 0, which knows earlier attempts', finds it."""
        config = self._work.plan.run.config.validation
        if config.patience is None:
            return False
        losses = [self._validations[step].loss for step in sorted(self._validations)]
        ended = is_out_of_patience(losses, config.patience, config.min_improvement)
        return self._ranks.gather(ended, bool)[0]

    def save_last(self, steps_done: int) -> None:
        """The checkpoint at the end of an attempt, when this very step has none. The ledger is drained."""
        if steps_done > self._saved_step:
            self._save(steps_done)

    def fits(self) -> tuple[bool, float, float]:
        """Whether a checkpoint can be written before the kill that follows a signal, with the seconds that
        it takes and those that are left; as far as they are known. The same on all ranks.
        """
        grace = self._work.plan.run.config.faults.grace_seconds
        if grace is None:
            grace = LAUNCHER_GRACE_SECONDS.get(self._work.world.launcher)
        asked = self._stop.asked_seconds
        waited = max(self._ranks.gather(0.0 if asked is None else time.monotonic() - asked, float))
        takes = self._ranks.gather(self._save_seconds, float)[0]
        if grace is None or not takes:
            return True, takes, grace or 0.0
        return takes <= grace - waited, takes, max(0.0, grace - waited)

    def _save(self, steps_done: int) -> Stop:
        work, faults = self._work, self._work.plan.run.config.faults
        if self._ranks.is_first:  # before the save: who asks while it is written gets another
            Path(self._run_dir, CHECKPOINT_NOW).unlink(missing_ok=True)
        if not all(self._ranks.gather(weights_are_finite(self._model), bool)):
            self.finding = weights_not_finite(steps_done)
            return Stop.NOT_FINITE
        found = self._validations.get(steps_done)
        facts = CheckpointFacts(
            plan_sha256=work.lock["sha256"],
            batches_sha256=work.lock["plan"]["batches_sha256"],
            attempt=work.resume_point.attempt,
            validation_loss=None if found is None else found.loss,
        )
        saved = save_checkpoint(self._engine, self._model, self._run_dir, steps_done, facts, self._ranks)
        self._stop.saved()
        self.finding = saved.finding
        self._step_recorder.paused(saved.seconds)
        if saved.finding is not None:
            if faults.disk_full == "stop":
                return Stop.NOT_WRITABLE
            self._report(render([replace(saved.finding, severity="warning")], colour=False))
            return Stop.NO
        self._saved_step = steps_done
        self._save_seconds = max(self._save_seconds, saved.seconds)
        if self._ranks.is_first:
            keeps = work.plan.run.config.checkpoint
            prune(self._run_dir, keeps.keep, keeps.best, work.resume_point.attempt)
        return Stop.NO

    def _look_for_request(self) -> None:
        """Rank 0 asks for a checkpoint when the file that requests one is there."""
        now = time.monotonic()
        if self._ranks.is_first and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            if Path(self._run_dir, CHECKPOINT_NOW).exists():
                self._stop.ask(Stop.SAVE)

    def _known_save_seconds(self) -> float:
        """What an earlier attempt's last save took, 0 when nobody knows. On rank 0."""
        if not self._ranks.is_first:
            return 0.0
        return max((one.manifest.seconds for one in list_checkpoints(self._run_dir)), default=0.0)


def _is_due(every_steps: int | None, steps_done: int) -> bool:
    return every_steps is not None and steps_done % every_steps == 0
