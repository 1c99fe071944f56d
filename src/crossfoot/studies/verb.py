"""`crossfoot study`: design, plan, train, measure; and the same command goes on after a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.formats import show
from crossfoot.output import say, tell
from crossfoot.phrases import clock, counted
from crossfoot.runs.reader import read_run
from crossfoot.runs.run_folder import holds_run
from crossfoot.shell_words import called, joined
from crossfoot.studies.asking import StudyOptions, batches_of, factors_of
from crossfoot.studies.design import Asked, Subject, designed
from crossfoot.studies.findings import run_failed, study_does_not_foot
from crossfoot.studies.machine import Machine, listed_gpus, visible_gpus
from crossfoot.studies.plan_page import plan_page
from crossfoot.studies.planning_runs import Studied, planned_batches, read_studied, subject_of
from crossfoot.studies.report import report_study
from crossfoot.studies.results import StudyResults
from crossfoot.studies.results_file import write_results
from crossfoot.studies.running import LOG, Runner, Start, tail_of
from crossfoot.studies.study import Study
from crossfoot.studies.study_folder import asked_document, refuse_other, study_folder


def study(config: str, overrides: Sequence[str], options: StudyOptions) -> int:
    """The verb; returns the exit code of the contract. Raises Refused."""
    batches, factors = batches_of(options.batches), factors_of(options.rates)
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
    subject, plans = planned_batches(studied, asked, subject_of(studied, budget), folder)
    if options.plans_only:
        designs = designed(asked, subject, folder, {})
        say(plan_page(asked, subject, designs, plans, _speeds(studied, subject, folder)))
        return 0
    again = joined([called("crossfoot"), "study", config, *overrides, *_words(options)])
    with study_folder(folder, document):
        return _Conduct(Study(studied, asked, subject, folder), again).run(_machine(studied, options))


class _Conduct:
    """A study being trained. again: the command that goes on with it."""

    def __init__(self, study: Study, again: str) -> None:
        self._study, self._again = study, again
        self._begun = time.monotonic()
        self._trained_samples = 0
        self._failed: dict[str, Finding] = {}

    def run(self, machine: Machine) -> int:
        """Train what is left, as often as results ask for more; returns the exit code."""
        self._study.begun()
        done, all_runs = len(self._study.designs) - len(self._study.left()), len(self._study.designs)
        if done:
            tell(f"{done:,} of {counted(all_runs, 'run')} are there already")
        runner = Runner(self._study.studied.path, machine, self._is_over)
        while runner.stopped is None and (starts := self._to_train()):
            runner.train(starts)
        results = self._study.results()
        write_results(self._study.folder, results)
        if runner.stopped is not None:
            tell(f"stopped: what is trained is kept; go on with: {self._again}")
            return 130 if runner.stopped == signal.SIGINT else 75
        return self._ended(results)

    def _to_train(self) -> list[Start]:
        return [start for start in self._study.left() if start.run.name not in self._failed]

    def _is_over(self, start: Start, code: int, seconds: float) -> None:
        run = self._study.measure(start.run)
        write_results(self._study.folder, self._study.results())
        if run.state == "unfinished":
            if code not in (75, 130):
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

    def _ended(self, results: StudyResults) -> int:
        """The words at the end, and the code."""
        folder = self._study.folder
        say(_summary(results, folder))
        report_study(folder)
        if self._failed:
            show(list(self._failed.values()))
            return 1
        if results.foots:
            return 0
        not_footing = [run.name for run in results.runs if not run.foots]
        others = [run.name for run in results.runs if not run.same_samples]
        paths = [os.path.join(folder, name) for name in not_footing]
        show([study_does_not_foot(folder, not_footing, others, paths)])
        return 3


def _words(options: StudyOptions) -> list[str]:
    """The options, as a command has them."""
    plain = StudyOptions(options.batches)
    words = ["--batches", options.batches]
    for name, option in (
        ("rates", "--rates"), ("seeds", "--seeds"), ("budget_samples", "--budget-samples"),
        ("validations", "--validations"), ("branch", "--branch"), ("target", "--to"),
        ("at_once", "--at-once"), ("out", "--out"),
    ):  # fmt: skip
        if (value := getattr(options, name)) != getattr(plain, name):
            words += [option, str(value)]
    return words


def _machine(studied: Studied, options: StudyOptions) -> Machine:
    launches = options.target == "local" and studied.plan.deepspeed is not None
    ranks = studied.plan.batch.topology.world_size if launches else 1
    gpus = visible_gpus(os.environ, listed_gpus())
    at_once = options.at_once or max(1, len(gpus) // ranks)
    return Machine(ranks, at_once, gpus if at_once > 1 else (), launches)


def _speeds(studied: Studied, subject: Subject, folder: str) -> dict[int, float]:
    """Tokens per second by batch, of runs in the folder of the study and of the config's own."""
    found: dict[int, float] = {}
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for run_dir in [studied.plan.run.run_dir, *(os.path.join(folder, name) for name in sorted(names))]:
        try:
            run = read_run(run_dir) if holds_run(run_dir) else None
        except Refused:
            continue
        seconds = sum(line.seconds for line in run.counted) if run else 0.0
        if run and seconds:
            batch = int(run.lock["plan"]["global_batch_size"])
            found[batch] = sum(line.real_tokens for line in run.counted) / seconds
    return found


def _summary(results: StudyResults, folder: str) -> str:
    """A line for each run."""
    lines = [f"  {'run':<20}{'batch':>7}{'peak rate':>12}{'validation loss':>17}   {'state':<10}foots"]
    for run in results.runs:
        loss = f"{run.points[-1].validation_loss:.4f}" if run.points else ""
        foots = "yes" if run.foots and run.same_samples else "no"
        lines.append(
            f"  {run.name:<20}{run.batch:>7,}{run.peak_rate:>12.4g}{loss:>17}   {run.state:<10}{foots}"
        )
    lines.append(
        f"{folder}: results.json, and a folder for each run; foots: {'yes' if results.foots else 'no'}"
    )
    return "\n".join(lines)
