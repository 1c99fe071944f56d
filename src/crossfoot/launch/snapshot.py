"""A copy of the code and of the resolved config in the run folder: what a job in a queue will train with.

Hours may pass before it starts, and again before it is requeued. What is edited in between changes nothing.
Data and base model are not copied: the index knows its data by content, and a model has a path of its own.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import crossfoot
from crossfoot.durable import rename_folder
from crossfoot.findings.finding import Refused
from crossfoot.launch.job import Job
from crossfoot.planning.prepare import CheckedRun
from crossfoot.runs.resume_command import CONFIG_NAME
from crossfoot.runs.run_folder import is_system_refusal, system_refused
from crossfoot.written.resolved import dump_config

FOLDER = "snapshot"
SCRIPT_NAME = "train.py"
_LEFT_OUT = shutil.ignore_patterns("__pycache__")
_SCRIPT = '''"""Train with the code beside this file."""

import sys

from crossfoot.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
'''


def take_snapshot(job: Job, checked: CheckedRun) -> Job:
    """Copy what the job needs into the run folder. Returns the job that starts from there.

    Every submission has a folder of its own (`snapshot`, `snapshot-2`), since an earlier job may still need
    the one before. Raises Refused when the disk does not take it.
    """
    number, folder = 1, Path(job.run_dir, FOLDER)
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{FOLDER}-{number}")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    config = checked.run.as_written
    deepspeed = checked.facts.deepspeed
    try:
        package = Path(crossfoot.__file__).parent
        shutil.copytree(package, partial / package.name, ignore=_LEFT_OUT, dirs_exist_ok=True)
        (partial / SCRIPT_NAME).write_text(_SCRIPT, encoding="utf-8")
        if deepspeed is not None:
            name = os.path.basename(deepspeed.path)
            shutil.copyfile(deepspeed.path, partial / name)
            config = config.model_copy(update={"deepspeed": os.path.join(folder, name)})
        (partial / CONFIG_NAME).write_text(dump_config(config), encoding="utf-8")
        rename_folder(partial, folder, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not is_system_refusal(error):
            raise
        raise Refused(system_refused(error)) from error
    return replace(
        job,
        config=os.path.join(folder, CONFIG_NAME),
        script=os.path.join(folder, SCRIPT_NAME),
        words=job.options.resume_words,  # the overrides are in the resolved config
    )
