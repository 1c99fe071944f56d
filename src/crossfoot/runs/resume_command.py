"""The command that continues a run, for every message that names it: the way it was started is kept.

`crossfoot launch` writes what it starts into the run folder, and how it was made. A run that was started by
hand goes on with `crossfoot train` under the same launcher.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

CONFIG_NAME = "config.yaml"
"""Of an attempt's folder: the config with all overrides and defaults."""
LAUNCH_FOLDER = "launch"
"""Of the run folder: what the run was started with."""
MADE_BY = "made by: crossfoot "
"""Begins the words that render a launch file again."""
_ENDINGS = (".sh", ".sbatch")


def resume_command(run_dir: str, config: str | None = None, crossfoot: str = "crossfoot") -> str:
    """The words to type. config: for a run that was not started by `crossfoot launch`; None: that which its
    newest attempt has noted, overrides and all. crossfoot: how the command line is called from here.
    """
    launched = _launched_by(run_dir)
    if not launched or "--dry-run" in launched:
        return f"{crossfoot} train {config or _noted_config(run_dir)} --continue {run_dir}"
    if "--continue" not in launched:
        launched += ["--continue", run_dir]
    return f"{crossfoot} {shlex.join(launched)}"


def _noted_config(run_dir: str) -> str:
    """The config as the newest attempt resolved it; a word for it where there is none."""
    paths = sorted(Path(run_dir).glob(f"attempt-*/{CONFIG_NAME}"))
    return shlex.quote(str(paths[-1])) if paths else "CONFIG"


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
