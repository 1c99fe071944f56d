"""`crossfoot study`: design, plan, train, measure; and the same command goes on after a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.formats import show
from crossfoot.launch.resolving import make_job, read_run_for, refuse_options
from crossfoot.output import say, tell
from crossfoot.phrases import clock, counted
from crossfoot.runs.reader import read_run
from crossfoot.runs.run_folder import holds_run
from crossfoot.shell_words import called, joined
from crossfoot.studies.arrays import ArrayRunner
from crossfoot.studies.asking import StudyOptions, read_lists
from crossfoot.studies.design import Asked, designed
from crossfoot.studies.findings import run_failed, study_does_not_foot
from crossfoot.studies.machine import Machine, listed_gpus, visible_gpus
from crossfoot.studies.measuring import cost_of
from crossfoot.studies.plan_page import plan_page, results_table
from crossfoot.studies.planning_runs import Studied, planned_batches, read_studied, subject_of
from crossfoot.studies.report import report_study
from crossfoot.studies.results import RunCost
from crossfoot.studies.results_file import write_results
from crossfoot.studies.running import LOG, Runner, Start, tail_of
from crossfoot.studies.start_point import find_start
from crossfoot.studies.study import Study
from crossfoot.studies.study_folder import asked_document, refuse_other, study_folder


def study(config: str, overrides: Sequence[str], options: StudyOptions) -> int:
    """The verb; returns the exit code of the contract. Raises Refused."""
    refuse_options(options.launch)
    batches, factors = read_lists(options)
    studied = read_studied(config, overrides, makes_index=not options.plans_only)
    budget = options.budget_samples or studied.samples_per_epoch
    first = studied.plan.run.config.run.seed
    asked = Asked(
        batches=batches,
        factors=factors,
        seeds=tuple(range(first, first + options.seeds)),
        budget_samples=budget,
        validations=options.validations,
        branch=options.branch,
    )
    folder = os.path.normpath(options.out or f"{studied.plan.run.run_dir}-study")
    document = asked_document(asked, studied.plan.run.as_written)
    refuse_other(folder, document)
    start = find_start(asked, studied, folder)
    branching = None if start is None else start.branching
    subject, plans = planned_batches(studied, asked, subject_of(studied, budget, branching), folder)
    designs = designed(asked, subject, folder, {})
    if options.target == "slurm" or _launches(studied, options):  # or every run would be refused for it
        words = studied.words(designs[0])
        make_job(read_run_for(config, words, options.launch), words, options.launch, os.environ)
    if options.plans_only:
        begun = sum(holds_run(os.path.join(folder, run.name)) for run in designs)
        say(plan_page(asked, subject, designs, plans, _costs(studied, folder), begun))
        return 0
    with study_folder(folder, document):
        peaks = {batch: plan.rate.peak / float(factors[0]) for batch, plan in plans.items()}
        return _Conduct(Study(studied, asked, subject, folder, peaks, start), options).run()


class _Conduct:
    """A study being trained."""

    def __init__(self, study: Study, options: StudyOptions) -> None:
        self._study = study
        words = ["study", study.studied.path, *study.studied.overrides, *options.words]
        self._again = joined([called("crossfoot"), *words])
        self._runner: Runner | ArrayRunner
        if options.target == "slurm":
            where = (study.studied.path, study.folder, options.launch, options.at_once)
            self._runner = ArrayRunner(*where, words, self._is_over)
        else:
            self._runner = Runner(study.studied.path, _machine(study.studied, options), self._is_over)
        self._begun = time.monotonic()
        self._trained_samples = 0
        self._failed: dict[str, Finding] = {}
        self._target = options.target_loss

    def run(self) -> int:
        """Train what is left, as often as results ask for more; returns the exit code."""
        self._study.begun()
        write_results(self._study.folder, self._study.results())
        done, all_runs = len(self._study.designs) - len(self._study.left()), len(self._study.designs)
        if done:
            tell(f"{done:,} of {counted(all_runs, 'run')} are there already")
        stopped, is_detached = None, False
        while stopped is None and not is_detached and (starts := self._to_train()):
            self._study.branch_off(starts)
            self._runner.train(starts)
            stopped, is_detached = self._runner.stopped, self._runner.detached
        if is_detached:
            return 0
        if stopped is not None:
            tell(f"stopped: what is trained is kept; go on with: {self._again}")
            return 130 if stopped == signal.SIGINT else 75
        return self._ended()

    def _to_train(self) -> list[Start]:
        return [start for start in self._study.left() if start.run.name not in self._failed]

    def _is_over(self, start: Start, code: int, seconds: float) -> None:
        run = self._study.measure(start.run)
        write_results(self._study.folder, self._study.results())
        if run.state == "unfinished":
            if self._runner.stopped is None:
                log = os.path.join(start.run_dir, LOG)
                self._failed[run.name] = run_failed(start.run_dir, code, log, self._again)
                tell(f"{run.name} failed:\n{tail_of(log)}")
            return
        self._trained_samples += start.run.samples
        left = sum(one.run.samples for one in self._to_train())
        ahead = (time.monotonic() - self._begun) / self._trained_samples * left
        designs = self._study.designs
        over = len(designs) - len(self._study.left())
        loss = f"validation loss {run.points[-1].validation_loss:.4f}" if run.points else "no loss"
        what = "diverged" if run.state == "diverged" else loss
        rest = f"; about {clock(ahead)} left" if left else ""
        tell(f"run {over:,} of {len(designs):,}: {run.name} {what}, {clock(seconds)}{rest}")

    def _ended(self) -> int:
        """The words at the end, and the code."""
        folder, results = self._study.folder, self._study.results()
        say(results_table(results) + "\n")
        report_study(folder, target=self._target)
        if self._failed:
            show(list(self._failed.values()))
            return 1
        if results.foots:
            return 0
        not_footing = [run.name for run in results.runs if not run.foots]
        others = [run.name for run in results.runs if not run.same_samples]
        show([study_does_not_foot(folder, not_footing, others)])
        return 3


def _launches(studied: Studied, options: StudyOptions) -> bool:
    """Whether runs are started here with ranks of their own."""
    return options.target == "local" and studied.plan.deepspeed is not None


def _machine(studied: Studied, options: StudyOptions) -> Machine:
    launches = _launches(studied, options)
    ranks = studied.plan.batch.topology.world_size if launches else 1
    gpus = visible_gpus(os.environ, listed_gpus())
    at_once = options.at_once or max(1, len(gpus) // ranks)
    return Machine(ranks, at_once, gpus if at_once > 1 else (), launches)


def _costs(studied: Studied, folder: str) -> dict[int, RunCost]:
    """What a run cost, by batch: of the runs in the folder of the study and of the config's own."""
    found: dict[int, RunCost] = {}
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for run_dir in [studied.plan.run.run_dir, *(os.path.join(folder, name) for name in sorted(names))]:
        with suppress(Refused):
            if holds_run(run_dir) and (cost := cost_of(run := read_run(run_dir))).tokens_per_second:
                found[int(run.lock["plan"]["global_batch_size"])] = cost
    return found
