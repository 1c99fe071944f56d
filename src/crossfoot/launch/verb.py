"""`crossfoot launch`: render a start, show it, check it, start it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

from crossfoot import durable
from crossfoot.doctor.examination import look_at
from crossfoot.doctor.needs import needs_of
from crossfoot.findings.finding import Refused
from crossfoot.findings.formats import show
from crossfoot.findings.render import render
from crossfoot.launch import accelerate, deepspeed, dry_run, local, slurm, torchrun
from crossfoot.launch.findings import dry_run_failed, launch_file_taken, program_missing
from crossfoot.launch.job import Job, LaunchOptions, Rendered
from crossfoot.launch.outcome import Outcome
from crossfoot.launch.resolving import (
    DRY_STEPS,
    free_port,
    hosts_of,
    make_job,
    node_rank_of,
    read_run_for,
    refuse_options,
)
from crossfoot.launch.snapshot import take_snapshot
from crossfoot.launch.start import start
from crossfoot.launch.submit import advice, follow, refuse_impossible, submit
from crossfoot.output import say, tell
from crossfoot.planning.checking import find_all
from crossfoot.planning.prepare import CheckedRun
from crossfoot.planning.start_conditions import Start, refuse_unmet
from crossfoot.runs.attempts import attempt_numbers
from crossfoot.runs.restarts import AUTO
from crossfoot.runs.resume_command import LAUNCH_FOLDER, MADE_BY
from crossfoot.runs.run_folder import holds_run, is_system_refusal, system_refused
from crossfoot.written.overriding import setting

_HEAD_LINES = 5
_RENDER: Mapping[str, Callable[[Job], Rendered]] = {
    "local": local.render,
    "deepspeed": deepspeed.render,
    "slurm": slurm.render,
    "accelerate": accelerate.render,
    "torchrun": torchrun.render,
}


def launch(
    config: str,
    overrides: Sequence[str],
    options: LaunchOptions,
    *,
    shows: bool = False,
    stem: str | None = None,
) -> int:
    """The verb; returns the exit code of the contract. stem: where the rendered files are to be kept, their
    endings left out; they are written there, and nothing is started. shows: nor written, but printed. Raises
    Refused.
    """
    refuse_options(options)
    checked = read_run_for(config, overrides, options)
    job = make_job(checked, overrides, options, os.environ, stem=stem)
    if shows or stem is not None:
        rendered = rendered_for(job)
        (print_files if shows else _write_and_say)(rendered)
        return 0
    job = ready(job, checked)
    if job.reaches_over_ssh:
        seen = look_at(needs_of(checked), hosts_of(checked), os.environ)
        if seen.errors:
            raise Refused(seen.errors)
    outcome = _submit(job, checked) if options.target == "slurm" else _start(job)
    if outcome.findings:
        show(outcome.findings)
    return outcome.exit_code


def options_of(arguments: object) -> LaunchOptions:
    """What the command line asks for, from its parsed options."""
    given = {field.name: getattr(arguments, field.name) for field in fields(LaunchOptions)}
    return LaunchOptions(**{**given, "allow": tuple(given["allow"])})


def rendered_for(job: Job) -> Rendered:
    """The text of the job's target."""
    return _RENDER[job.options.target](job)


def print_files(rendered: Rendered) -> None:
    """One file as it is; of several each behind its name."""
    for path, text in rendered.files:
        if len(rendered.files) > 1:
            say(f"# ---- {path}")
        say(text, end="")


def ready(job: Job, checked: CheckedRun) -> Job:
    """What is only looked at for a real start: programs, the conditions of a start, a free port. Raises
    Refused.
    """
    rendered = rendered_for(job)
    missing = [
        program_missing(program, job.options.target)
        for program in rendered.needs
        if shutil.which(program) is None
    ]
    if missing:
        raise Refused(missing)
    options = job.options
    if options.dry_run:
        dry_run.make_room(checked.run.run_dir, options.steps or DRY_STEPS)
    else:
        there = options.continued != AUTO or holds_run(checked.run.run_dir)
        refuse_unmet(Start(checked.run, continues=options.continued is not None and there))
    if job.is_numbered:
        job = replace(job, options=replace(options, node_rank=node_rank_of(job)))
    if options.port is None and job.num_nodes == 1 and options.target != "slurm":
        job = replace(job, port=free_port(job.port))
    return job


def _start(job: Job) -> Outcome:
    rendered = rendered_for(job)
    write_rendered(rendered)
    _refuse_findings(job, rendered)
    tell(f"starting {rendered.files[0][0]}: {job.topology}{who_speaks(job)}")
    outcome = start(rendered, job)
    if job.options.dry_run:
        if outcome.exit_code in (0, 3):
            say(f"\n{dry_run.report(job.run_dir)}")
        else:
            failed = dry_run_failed(job.run_dir, outcome.exit_code)
            return Outcome(outcome.exit_code, (*outcome.findings, failed))
    elif not attempt_numbers(job.run_dir):
        _take_back(rendered, job.run_dir)
    return outcome


def who_speaks(job: Job) -> str:
    """Where to look for the run's lines, if not here."""
    if job.options.dry_run:
        return ", folded into one process"
    if job.num_nodes == 1 or job.reaches_over_ssh:
        return ""
    here = f"; this is node {job.options.node_rank or 0}" if job.is_numbered else ""
    return f"{here}; the machine with rank 0 prints the run"


def _submit(job: Job, checked: CheckedRun) -> Outcome:
    refuse_impossible(rendered_for(job), job)
    job, rendered = written_for_queue(job, checked)
    before = attempt_numbers(job.run_dir)
    job_id = submit(rendered, job)
    tell(f"submitted job {job_id}: {job.topology}; it trains with the copy in {os.path.dirname(job.config)}")
    tell(advice(job_id, job.run_dir))
    return Outcome(0) if job.options.detach else follow(job_id, job, before)


def written_for_queue(job: Job, checked: CheckedRun) -> tuple[Job, Rendered]:
    """What a queue is to start, written into the run folder with a copy of code and config. Raises
    Refused.
    """
    os.makedirs(job.run_dir, exist_ok=True)
    job = take_snapshot(job, checked)
    rendered = rendered_for(job)
    write_rendered(rendered)
    _refuse_findings(job, rendered)
    return job, rendered


def _refuse_findings(job: Job, rendered: Rendered) -> None:
    """What `crossfoot check` finds in the run and in what was rendered. Raises Refused for errors; what is
    accepted is said.
    """
    continued = job.options.continued not in (None, AUTO)
    folder = [setting("run.dir", job.run_dir)] if continued else []  # whatever the config says
    findings = find_all(job.config, [*folder, rendered.files[0][0]])
    if any(finding.counts_as == "error" for finding in findings):
        raise Refused(findings)
    if accepted := [finding for finding in findings if finding.accepted is not None]:
        tell(render(accepted))


def write_rendered(rendered: Rendered) -> None:
    """Write what is rendered; the first file is one to run. Raises Refused when the disk does not take it, or
    a file of somebody else's is there.
    """
    taken = [launch_file_taken(path) for path, _ in rendered.files if not _is_ours(path)]
    if taken:
        raise Refused(taken)
    try:
        for position, (path, text) in enumerate(rendered.files):
            file = Path(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            mode = None if position else durable.by_umask(0o777)
            durable.replace(file, text, mode=mode)  # every node writes it
    except OSError as error:
        if not is_system_refusal(error):
            raise
        raise Refused(system_refused(error)) from error


def _is_ours(path: str) -> bool:
    """Whether a file may be written there: it is not there yet, or an earlier `crossfoot launch` wrote it."""
    if os.path.islink(path) or os.path.islink(os.path.dirname(path)):
        return False
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return any(MADE_BY in line for line in islice(file, _HEAD_LINES))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _write_and_say(rendered: Rendered) -> None:
    write_rendered(rendered)
    for path, _ in rendered.files:
        say(path)


def _take_back(rendered: Rendered, run_dir: str) -> None:
    """A run that was refused leaves no folder behind."""
    for path, _ in rendered.files:
        Path(path).unlink(missing_ok=True)
    for folder in (os.path.join(run_dir, LAUNCH_FOLDER), run_dir):
        try:
            os.rmdir(folder)
        except OSError:
            return
