"""`crossfoot mirror`: a run shown by TensorBoard or Weights & Biases, from its files alone."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from crossfoot.extras import Extra, refuse_missing
from crossfoot.findings.finding import Refused
from crossfoot.mirrors.findings import mirror_taken
from crossfoot.mirrors.mirror import Mirror, log_evaluation, log_step, log_validation
from crossfoot.mirrors.tensorboard import TENSORBOARD_FOLDER, TensorBoardMirror
from crossfoot.mirrors.weights_and_biases import WandbMirror
from crossfoot.output import say
from crossfoot.phrases import counted, listed, steps_done
from crossfoot.receipts.receipt import receipt_of_run
from crossfoot.runs.nearby import refuse_no_run
from crossfoot.runs.reader import RunRecord, read_run
from crossfoot.shell_words import quoted_path

PROGRAMS: dict[str, Extra] = {"tensorboard": "tensorboard", "wandb": "tracking"}
"""What a run can be mirrored to, and the extra that it needs."""


def mirror_run(run_dir: str, out: str | None, program: str, project: str, *, offline: bool) -> int:
    """The verb; returns the exit code. Only steps that count are mirrored: what a crash lost was computed
    again. out: a folder for TensorBoard's files; None: in the run folder. Raises Refused.
    """
    refuse_no_run(run_dir, "mirror")
    refuse_missing("mirror", PROGRAMS[program])
    out = out or os.path.join(run_dir, TENSORBOARD_FOLDER, "counted")
    if program == "tensorboard" and os.path.lexists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise Refused(mirror_taken(run_dir, out))
    run = read_run(run_dir)
    foots = receipt_of_run(run).foots if run.ending is not None else None
    if program == "wandb":
        mirror: Mirror = WandbMirror(run.lock, run_dir, "offline" if offline else "online", project)
        where = f"Weights & Biases, project {project}"
    else:
        mirror, where = TensorBoardMirror(out), out
    _write(run, mirror)
    mirror.close(foots)
    taken = [counted(len(run.counted), "step"), counted(len(run.validations), "validation")]
    if run.evaluations:
        taken.append(counted(len(run.evaluations), "evaluation"))
    say(f"{listed(taken, 'and')} mirrored: {where}")
    if program == "tensorboard":
        say(f"next:\n  tensorboard --logdir {quoted_path(out)}\n      shows them, in a browser")
    return 0


def _write(run: RunRecord, mirror: Mirror) -> None:
    """In the order of steps; what was taken of the weights behind their step."""
    of_steps: dict[int, list[Callable[[], None]]] = defaultdict(list)
    for one in run.validations:
        of_steps[one.step].append(partial(log_validation, mirror, one))
    for two in run.evaluations:
        of_steps[two.step].append(partial(log_evaluation, mirror, two))
    for entry in run.by_step():
        log_step(mirror, entry)
        for log in of_steps.pop(steps_done(entry.step), ()):
            log()
