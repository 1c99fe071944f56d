"""An attempt at a run: rank 0 makes its folder, all ranks learn where it begins, it is shown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from crossfoot import __version__, durable
from crossfoot.arithmetic.batch import alike
from crossfoot.documents import parse, plain, value_of
from crossfoot.environment.start_command import start_command
from crossfoot.findings.finding import Finding
from crossfoot.findings.formats import show
from crossfoot.index.store import open_index
from crossfoot.launch.ranks_here import MARK_VARIABLE
from crossfoot.launch.submit import submitted_job
from crossfoot.output import say
from crossfoot.planning.page import render_plan
from crossfoot.receipts.run_promise import refuse_broken_promise
from crossfoot.rendezvous.rank_info import BESIDE, DECIDING, versions
from crossfoot.rendezvous.shared_folder import acquire_folder
from crossfoot.runs.attempts import Attempt, accepted_findings, attempt_path
from crossfoot.runs.resume import (
    NEW_RUN,
    Resumed,
    ResumePoint,
    read_previous_attempts,
    record_attempt,
    resume_run,
)
from crossfoot.runs.resume_command import CONFIG_NAME
from crossfoot.runs.run_folder import forget_attempt, make_folder, release_folder
from crossfoot.training.rank_job import RankJob
from crossfoot.written.accepting import accept_known
from crossfoot.written.model_facts import model_folder, weight_marks
from crossfoot.written.resolved import dump_config
from crossfoot.written.shown import dotted


def acquire(work: RankJob) -> RankJob:
    """Rank 0 makes the attempt's folder its own, and all see it there and learn where the attempt begins.

    Returns the work with its beginning. Raises Refused, on all ranks together; the folder is then free again.
    """
    run = work.plan.run
    taken: list[tuple[ResumePoint, Resumed | None]] = []

    def take() -> str:
        whole = open_index(work.index.folder, work.index.files)
        refuse_broken_promise(work.lock, whole, work.plan.rate.every(), work.plan.rate.groups)
        resumed = _resume_run(work)
        resume_point = resumed.resume_point if resumed is not None else NEW_RUN
        make_folder(run, resume_point.attempt)
        taken.append((resume_point, resumed))
        forget_attempt(run.run_dir, resume_point.attempt)
        return json.dumps(plain(resume_point))

    try:
        hosts, told = acquire_folder(run, work.world.rank, work.rendezvous, take)
    except BaseException:
        for resume_point, _ in taken:
            release_folder(run, resume_point.attempt)
        raise
    resumed = taken[0][1] if taken else None
    return replace(work, resume_point=value_of(ResumePoint, parse(told)), resumed=resumed, hosts=hosts)


def start_attempt(work: RankJob) -> None:
    """Rank 0 writes how the attempt starts, and shows the plan."""
    if work.world.rank != 0:
        return
    run = work.plan.run
    resolved = attempt_path(run.run_dir, work.resume_point.attempt, CONFIG_NAME)
    durable.replace(resolved, dump_config(run.as_written))
    findings: tuple[Finding, ...] = accept_known(run, work.warnings)
    if work.resumed is not None:
        findings += work.resumed.findings
    record_attempt(run, _attempt(work, findings, os.environ), work.lock)
    if findings:
        show(findings)
    say(render_plan(work.plan, work.lock["sha256"]))
    for line in (_folding(work), _continuing(work)):
        if line:
            say(f"\n{line}")
    say()


def _resume_run(work: RankJob) -> Resumed | None:
    if work.previous_attempts is None:
        return None
    plan, previous_attempts = work.plan, work.previous_attempts
    if work.options.takes_over:  # the attempt that is put aside has gone on meanwhile
        previous_attempts = read_previous_attempts(plan.run)
    return resume_run(
        plan.run,
        previous_attempts,
        work.lock,
        plan.schedule,
        plan.rate,
        work.index.digests,
        work.options.allow,
        work.steps,
        is_repeated=work.options.is_repeated,
    )


def _attempt(work: RankJob, findings: Sequence[Finding], environ: Mapping[str, str]) -> Attempt:
    """How this attempt starts, as attempt.json says it."""
    world, resume_point = work.world, work.resume_point
    return Attempt(
        attempt=resume_point.attempt,
        first_step=resume_point.first_step,
        from_checkpoint=resume_point.checkpoint,
        world_size=world.world_size,
        num_nodes=world.num_nodes,
        gpus_per_node=alike(world.ranks_per_node or (world.local_world_size,)),
        engine=work.engine_kind,
        zero_stage=work.plan.zero_stage if work.engine_kind == "deepspeed" else None,
        hosts=tuple(dict.fromkeys(work.hosts)),
        job_id=environ.get("SLURM_JOB_ID") or None,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        allowed=work.resumed.allowed if work.resumed is not None else (),
        accepted=accepted_findings(findings),
        crossfoot=__version__,
        index_dir=os.path.abspath(work.plan.run.index_dir),
        checkpoint_attempt=resume_point.checkpoint_attempt,
        checkpoint_plan=resume_point.checkpoint_plan,
        elastic_id=environ.get("TORCHELASTIC_RUN_ID") or None,
        command=() if _is_launched(work, environ) else _command(work),
        base=_base(work.plan.run.config.model.path),
        origins=_origins(work),
        versions=versions((*DECIDING, *BESIDE)) | {"python": platform.python_version()},
    )


def _origins(work: RankJob) -> dict[str, str]:
    """Who said what of the config, as the plan's page has it: nodes and GPUs may come from a launch file."""
    run, sourced = work.plan.run, work.plan.sourced
    named = [keys for keys in run.spots if len(keys) > 1 and all(isinstance(key, str) for key in keys)]
    written = {dotted(keys): run.origin(*keys) for keys in named}
    return written | {
        "cluster.gpus_per_node": sourced.gpus_origin,
        "cluster.num_nodes": sourced.nodes_origin,
    }


def _base(path: str) -> dict[str, str]:
    folder = model_folder(path)
    return {} if folder is None else weight_marks(folder)


def _is_launched(work: RankJob, environ: Mapping[str, str]) -> bool:
    """Whether `crossfoot launch` made this start."""
    job_id = environ.get("SLURM_JOB_ID")
    return MARK_VARIABLE in environ or (bool(job_id) and submitted_job(work.plan.run.run_dir) == job_id)


def _command(work: RankJob) -> tuple[str, ...]:
    """How the attempt was started. The folder is left out: whoever goes on names it."""
    run = work.plan.run
    overrides = [word for word in run.overrides if not word.startswith("run.dir=")]
    return start_command(work.world, run.path, overrides)


def _folding(work: RankJob) -> str:
    planned = work.plan.batch
    if not work.folded or planned.topology.world_size == 1:
        return ""
    at_most = "" if planned.micro_batch_tokens is None else "at most "
    return (
        f"FOLDED: this one process stands in for {planned.topology.world_size} ranks: "
        f"{at_most}{planned.slots_per_step} forwards per step instead of {planned.grad_accum_steps}; "
        "same samples, same rates, same losses"
    )


def _continuing(work: RankJob) -> str:
    if work.resumed is None:
        return ""
    resume_point, total = work.resume_point, work.plan.schedule.total_steps
    source = f"from {resume_point.checkpoint}" if resume_point.checkpoint else "from the beginning"
    allowed = "".join(
        f"\nALLOWED: {change.key} {change.before} -> {change.now}" for change in work.resumed.allowed
    )
    return (
        f"CONTINUING: attempt {resume_point.attempt}, {source}: "
        f"{resume_point.first_step:,} of {total:,} steps are done{allowed}"
    )
