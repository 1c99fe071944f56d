"""The command that continues a run, for every message that names it: the way it was started is kept.

`crossfoot launch` writes what it starts into the run folder, and how it was made. Of a run that was started
otherwise, attempt.json has the command: launcher, script, config and overrides.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from crossfoot.findings.finding import Refused
from crossfoot.runs.attempts import Attempt, read_attempts
from crossfoot.shell_words import joined, path_word

CONFIG_NAME = "config.yaml"
"""Of an attempt's folder: the config with all overrides and defaults."""
LAUNCH_FOLDER = "launch"
"""Of the run folder: what the run was started with."""
MADE_BY = "made by: crossfoot "
"""Begins the words that render a launch file again."""
_ENDINGS = (".sh", ".sbatch")
_STARTERS = ("crossfoot", "python", "deepspeed", "torchrun", "accelerate", "accelerate-launch", "srun")
"""A command that begins otherwise is none of a run's."""
_EACH_NODE = ("torchrun", "accelerate", "accelerate-launch", "--no_ssh")


def resume_command(
    run_dir: str, config: str | None = None, crossfoot: str = "crossfoot", more: Sequence[str] = ()
) -> str:
    """The words to type. config: for a run that says nowhere how it was started; None: that which its newest
    attempt has noted, overrides and all. crossfoot: how the command line is called from here. more: options
    behind --continue.
    """
    attempt = _last_attempt(run_dir)
    if attempt is not None and attempt.command and os.path.basename(attempt.command[0]) in _STARTERS:
        return f"{joined((*attempt.command, '--continue', path_word(run_dir), *more))}{_where(attempt)}"
    launched = _launched_by(run_dir)
    if not launched or "--dry-run" in launched:
        own = path_word(config or _noted_config(run_dir))
        words = ("train", own, "--continue", path_word(run_dir), *more)
        return f"{crossfoot} {joined(words)}"
    if "--continue" not in launched:
        launched += ["--continue", path_word(run_dir)]
    return f"{crossfoot} {joined((*launched, *more))}"


def _where(attempt: Attempt) -> str:
    """A comment for commands that are typed on several machines, or in the script of a job."""
    if attempt.command[0] == "srun":
        return "   # in the script of the job"
    is_on_each = any(os.path.basename(word) in _EACH_NODE for word in attempt.command)
    if attempt.num_nodes == 1 or not is_on_each:
        return ""
    ranks = ("--node_rank", "--node-rank", "--machine_rank")
    own = next((f", with its own {name}" for name in ranks if name in attempt.command), "")
    return f"   # on each node{own}"


def _last_attempt(run_dir: str) -> Attempt | None:
    try:
        return next(reversed(read_attempts(run_dir)), None)
    except Refused:
        return None


def _noted_config(run_dir: str) -> str:
    """The config as the newest attempt resolved it; a word for it where there is none."""
    paths = sorted(Path(run_dir).glob(f"attempt-*/{CONFIG_NAME}"))
    return str(paths[-1]) if paths else "CONFIG"


def _launched_by(run_dir: str) -> list[str]:
    """The words after `crossfoot` of the newest start; none when no file says them."""
    try:
        files = [path for path in Path(run_dir, LAUNCH_FOLDER).iterdir() if path.suffix in _ENDINGS]
        newest = max(files, key=os.path.getmtime, default=None)
        lines = newest.read_text(encoding="utf-8").splitlines() if newest else []
        told = next((line for line in lines if line.startswith(f"# {MADE_BY}")), "")
        words = shlex.split(told.partition(MADE_BY)[2])
    except (OSError, ValueError):
        return []
    return words if words[:1] == ["launch"] else []
