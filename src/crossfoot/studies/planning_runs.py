"""What a study is about, from its config, and which of its runs can be planned; before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crossfoot.data.train_sources import train_files
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.store import DataIndex
from crossfoot.index.tokenising_line import TokenisingLine
from crossfoot.index.verified import verified_index
from crossfoot.planning.lock import make_lock
from crossfoot.planning.plan import RunPlan, run_parts
from crossfoot.planning.prepare import CheckedRun, existing_index, plan_checked, read_and_check, survey
from crossfoot.planning.start_conditions import Start, unmet
from crossfoot.runs.attempts import attempt_numbers, lock_path, run_lock_path
from crossfoot.runs.branched import read_branch
from crossfoot.runs.changing import changes
from crossfoot.runs.ending import read_lock
from crossfoot.runs.run_folder import holds_run
from crossfoot.shell_words import unused_path
from crossfoot.studies.design import Asked, Branching, RunDesign, Subject, design, warmup_samples
from crossfoot.studies.findings import batch_not_planned, no_batches, no_validation_data, run_changed
from crossfoot.written.shown import shown


@dataclass(frozen=True)
class Studied:
    """A config that is studied. index: of what its runs train on; None where it is not made yet."""

    path: str
    overrides: tuple[str, ...]
    plan: RunPlan
    index: DataIndex | None

    @property
    def samples_per_epoch(self) -> int:
        """Of the training data; of a count of records where there is no index."""
        return self.plan.schedule.num_samples

    def words(self, run: RunDesign) -> tuple[str, ...]:
        """All overrides of one run."""
        return (*self.overrides, *run.words)


def read_studied(path: str, overrides: Sequence[str], *, makes_index: bool) -> Studied:
    """The config and its own plan. makes_index: tokenise the data where that is not done. Raises Refused with
    all that is wrong with the config, and when no study can be made of it.
    """
    checked = read_and_check(path, overrides)
    checked.refuse()
    _refuse_unfit(checked)
    if makes_index:
        _make_indexes(checked)
    index = existing_index(checked)
    return Studied(path, tuple(overrides), plan_checked(survey(checked, index), index), index)


def subject_of(studied: Studied, budget_samples: int, branching: Branching | None = None) -> Subject:
    """The config's own numbers. branching: where all runs begin that branch off another one."""
    plan, lr = studied.plan, studied.plan.run.config.lr
    batch = plan.batch.global_batch_size
    warmup = (lr.warmup_steps, lr.warmup_fraction, lr.warmup_samples)
    return Subject(
        name=plan.run.config.run.name,
        batch=batch,
        dp_degree=plan.batch.topology.dp_degree,
        micro_batch_size=None if plan.batch.micro_batch_tokens else plan.batch.micro_batch_size,
        reference=lr.reference,
        warmup_samples=warmup_samples(*warmup, batch, budget_samples),
        index_dir=plan.run.index_dir,
        branching=branching,
    )


def planned_batches(
    studied: Studied, asked: Asked, subject: Subject, folder: str
) -> tuple[Subject, dict[int, RunPlan]]:
    """One run of each batch, planned: of the first factor and seed. Returns the subject with the batches that
    need the config's micro batch. Raises Refused (CF822) with all batches that cannot be planned, and with
    what stands against a start of any run.
    """
    plans: dict[int, RunPlan] = {}
    wrong: dict[int, tuple[Finding, ...]] = {}
    for batch in asked.batches:
        plan = _planned(studied, asked, subject, folder, batch)
        if not isinstance(plan, RunPlan) and subject.micro_batch_size is not None:
            loose = replace(subject, loose_batches=(*subject.loose_batches, batch))
            plan = _planned(studied, asked, loose, folder, batch)
            subject = loose if isinstance(plan, RunPlan) else subject
        if isinstance(plan, RunPlan):
            plans[batch] = plan
        else:
            wrong[batch] = plan
    left = [batch for batch in asked.batches if batch not in wrong]
    findings = [batch_not_planned(batch, errors, left) for batch, errors in wrong.items()]
    for plan in list(plans.values())[:1]:
        start = Start(plan.run, continues=holds_run(plan.run.run_dir))
        findings += [one for one in unmet(start) if one.counts_as == "error"]
    if findings:
        raise Refused(findings)
    return subject, plans


def _planned(
    studied: Studied, asked: Asked, subject: Subject, folder: str, batch: int
) -> RunPlan | tuple[Finding, ...]:
    """The plan, or the errors that forbid it."""
    most = min(studied.samples_per_epoch, asked.budget_samples)
    if batch > most:
        what, help_ = "the data", f"name batches of at most {most:,}"
        if most < studied.samples_per_epoch:
            what, help_ = "the budget", f"give more samples: --budget-samples {10 * batch}"
        title = f"a step of {batch:,} samples is more than the {most:,} of {what}"
        return (no_batches(title, help_),)
    run = design(asked, subject, folder, batch, asked.factors[0], asked.seeds[0])
    try:
        return plan_run(studied, run)
    except Refused as refused:
        return tuple(one for one in refused.findings if one.counts_as == "error")


def plan_run(studied: Studied, run: RunDesign) -> RunPlan:
    """The plan of one run. Raises Refused."""
    checked = read_and_check(studied.path, studied.words(run))
    return plan_checked(survey(checked, studied.index), studied.index)


def refuse_changed(studied: Studied, run: RunDesign, run_dir: str) -> None:
    """Raises Refused (CF827) where the folder of a run holds one that is not the planned one."""
    branch = read_branch(run_dir)
    path = run_lock_path(run_dir)
    if branch is not None:
        last = attempt_numbers(run_dir)[-1]
        if last <= branch.attempt:
            return  # nothing of its own is trained
        path = lock_path(run_dir, last)
    before: Mapping[str, Any] = read_lock(path)
    now = make_lock(plan_run(studied, run))
    found = [
        f"{one.key} was {shown(one.before)}, and is planned as {shown(one.now)}"
        for one in changes(before, now)
    ]
    if before["plan"].get("batches_sha256") != now["plan"]["batches_sha256"] and not found:
        found = ["its steps hold other samples"]
    if found:
        raise Refused(run_changed(run_dir, found, unused_path(run_dir)))


def _refuse_unfit(checked: CheckedRun) -> None:
    """Raises Refused where batches of this config cannot be compared."""
    run, config = checked.run, checked.run.config
    findings = []
    if not config.data.validation:
        findings.append(no_validation_data(run.place("data")))
    if config.batch.from_samples or config.batch.target_trained_tokens is not None:
        key = "global_batch_size" if config.batch.from_samples else "target_trained_tokens"
        title = f"batch.{key} is no single number of samples per step, to compare other batches with"
        words = "batch.target_trained_tokens=null batch.global_batch_size=100"
        findings.append(no_batches(title, f"give it one: {words}", run.place("batch", key)))
    if findings:
        raise Refused(findings)


def _make_indexes(checked: CheckedRun) -> None:
    """Tokenise what is trained and validated on, once for all runs. Raises Refused."""
    data = checked.run.config.data
    for files, name in ((train_files(data), "index"), (data.validation_files, "validation index")):
        if files:
            index = verified_index(checked.run, files, progress=TokenisingLine(), name=name)
            if name == "index":
                run_parts(checked.run, index)
