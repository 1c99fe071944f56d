"""Commands that are repeated: by a scheduler, by a launcher that starts its ranks again, by a loop."""

from __future__ import annotations

from collections.abc import Mapping

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.runs.attempts import read_attempts
from crossfoot.runs.run_folder import holds_run
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.run_file import RunFile

AUTO = "auto"
"""Said after --continue: begin where there is no run, go on where there is one."""


@rule_docs("CF035", name="take-over-without-continue")
def take_over_without_continue() -> Finding:
    """CF035: --take-over was given for a run that begins, and there is nothing that it would take over.

    It says that a run is to go on although its last attempt lives, and belongs to --continue.
    """
    return Finding(
        "CF035",
        "--take-over means nothing here: no run is continued",
        place=Place(COMMAND_LINE),
        helps=("name the run with --continue RUN_DIR", "or leave out --take-over"),
    )


def is_started_again(run: RunFile, environ: Mapping[str, str]) -> bool:
    """Whether a launcher or a scheduler has started this very command again, and the run folder holds what it
    did before: SLURM with the same job, torchrun with the same id (as far as the run has noted one).

    Raises Refused when the attempts in the folder cannot be read.
    """
    by_slurm, by_torchrun = (
        environ.get(name, "").isdecimal() and int(environ[name]) > 0
        for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    )
    if not (by_slurm or by_torchrun) or not holds_run(run.run_dir):
        return False
    attempts = read_attempts(run.run_dir)
    last = attempts[-1] if attempts else None
    if last is None or (by_slurm and last.job_id == environ.get("SLURM_JOB_ID")):
        return True
    return by_torchrun and last.elastic_id in (None, environ.get("TORCHELASTIC_RUN_ID"))
