"""What can be wrong with checkpoints: one function, one code, and its docstring is the manual page.

Torch-free, so that `crossfoot explain` can read the pages.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import after_steps, counted, listed
from crossfoot.shell_words import quoted_path, unused_path

WRITTEN_SO = "and was written so"
"""Ends the words about what no disk has done."""


@rule_docs("CF760")
def no_checkpoint(run_dir: str) -> Finding:
    """CF760: a run is to be continued, and every one of its checkpoints is damaged.

    Each is named by a warning (CF761). The ledger says which steps were trained; without their weights they
    have to be trained again, and that is not begun without being asked for.
    """
    checkpoints = os.path.join(run_dir, "checkpoints")
    aside = unused_path(checkpoints)
    return Finding(
        "CF760",
        f"there is no good checkpoint to continue from in {run_dir}",
        helps=(
            "to begin again at the first step, continue after: "
            f"mv {quoted_path(checkpoints)} {quoted_path(aside)}",
            f"or train into another folder: run.dir={quoted_path(unused_path(run_dir))}",
        ),
    )


@rule_docs("CF756", name="no-such-checkpoint")
def no_such_checkpoint(
    run_dir: str,
    step: int | None,
    there: Sequence[int],
    notes: tuple[str, ...],
    naming: str = "--step ",
) -> Finding:
    """CF756: what was trained is to be taken from a checkpoint that is not there, or not good.

    A run keeps its last checkpoints (checkpoint.keep) and, with checkpoint.best, the one of the lowest
    validation loss. One whose bytes are not those that were written, or that another run wrote, is not used;
    the notes say so.
    """
    what = "a good checkpoint" if step is None else f"a good checkpoint {after_steps(step)}"
    help_ = "name a run that has written checkpoints: checkpoint.every_steps"
    if there:
        help_ = f"name one that is there: {naming}{there[-1]}"
    return Finding(
        "CF756",
        f"{run_dir} has no {what.removeprefix('a ')}",
        notes=(*notes, f"good ones: {listed(list(map(after_steps, there)))}" if there else "there is none"),
        helps=(help_,),
        unreadable=True,
    )


@rule_docs("CF761", "warning", name="checkpoint-damaged")
def damaged(folder: str, problem: str, used: str | None) -> Finding:
    """CF761: a checkpoint is not what was written, and the one before it is used.

    A file is missing, shorter or longer than it was, has another sha256 than it had, or the manifest itself
    cannot be read. Or a weight, or what the optimizer keeps for it, is NaN or infinite, and was written so: a
    run that went on from there would blame its samples. Nothing is loaded from a damaged checkpoint. The
    steps after the older one are trained again, and the ledger counts them as such.
    """
    return Finding(
        "CF761",
        f"a checkpoint is damaged: {problem}",
        severity="warning",
        place=Place(folder),
        notes=(f"{used} is used instead" if used is not None else "there is no good one before it",),
        helps=(
            ("look at the losses of the steps before it",)
            if problem.endswith(WRITTEN_SO)
            else ("look at the disk: what was written there has changed",)
        ),
    )


@rule_docs("CF762", "warning", name="checkpoint-unfinished")
def unfinished(folder: str, used: str | None) -> Finding:
    """CF762: a checkpoint was being written when the run was killed.

    Its folder never got its name, so it is not taken for a checkpoint. The next one that is written clears it
    away.
    """
    kept = f"{used} is used" if used is not None else "there is no good one before it"
    return Finding(
        "CF762",
        "a checkpoint was not finished: its save was cut off",
        severity="warning",
        place=Place(folder),
        notes=(kept, "the next one that is written clears this away"),
        helps=("to lose fewer steps to a kill, write checkpoints more often: checkpoint.every_steps",),
    )


@rule_docs("CF763", "error", "warning", name="checkpoint-not-written")
def not_written(step: int, who: str, reason: str, folder: str, kept: str | None) -> Finding:
    """CF763: a checkpoint could not be written; what is on the disk is named.

    The disk is full, a quota is used up, or the file system failed, on one rank or on several. All ranks give
    this save up together, what was written of it is cleared away, and the last good checkpoint stands. What
    was trained since then is in memory only. `faults.disk_full` says whether the run goes on.
    """
    return Finding(
        "CF763",
        f"the checkpoint {after_steps(step)} could not be written: {reason}",
        place=Place(folder),
        notes=(
            f"it failed on {who}",
            f"kept: {kept}, the last good one" if kept is not None else "no good checkpoint is kept",
        ),
        helps=("make room on that disk, or raise the quota", "or keep fewer checkpoints: checkpoint.keep=1"),
    )


@rule_docs("CF764", name="checkpoint-of-other-tensors")
def other_tensors(where: str, names: Sequence[str]) -> Finding:
    """CF764: the checkpoint holds other tensors than this run trains.

    Names come from the model, the LoRA section and peft. A tensor that is trained and not in the checkpoint
    would go on from its first value; one that is in the checkpoint and not trained would be lost.
    """
    count = f"{len(names):,} tensors are" if len(names) > 1 else "a tensor is"
    return Finding(
        "CF764",
        f"{count} {where}",
        notes=(_some(names),),
        helps=("continue with the config that the run was started with",),
    )


@rule_docs("CF765", name="checkpoint-of-other-shapes")
def other_shapes(
    checkpoint: str, differing: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]
) -> Finding:
    """CF765: a tensor of the checkpoint has another shape than this run trains.

    Another lora.r, another base model, or a tokenizer with another number of tokens.
    """
    name, saved, trained = differing[0]
    more = len(differing) - 1
    return Finding(
        "CF765",
        f"{name} is {_shape(saved)} in {checkpoint}, and {_shape(trained)} in this run",
        notes=(f"and {more:,} tensors more",) if more else (),
        helps=("continue with the config that the run was started with",),
    )


@rule_docs("CF766", name="checkpoint-of-other-optimizer")
def other_optimizer(checkpoint: str, saved: str, trained: str) -> Finding:
    """CF766: the checkpoint was written under another optimizer.

    The moments of adamw are no part of what sgd needs, and cannot be made up for adamw.
    """
    return Finding(
        "CF766",
        f"{checkpoint} was trained with {saved}, this run uses {trained}",
        helps=(f"set optimizer.name to {saved}",),
    )


@rule_docs("CF767", name="checkpoint-not-readable")
def not_readable(what: str, who: str, reason: str) -> Finding:
    """CF767: a checkpoint could not be read while it was chosen or loaded.

    A right is missing, the disk failed, or another process changed the folder between the two. Nothing is
    trained: what is in memory may be a mixture by then.
    """
    return Finding(
        "CF767",
        f"{what} could not be read: {reason}",
        notes=(f"it failed on {who}",),
        helps=("look at the rights and the disk, and start again: checkpoints are looked at anew",),
        unreadable=True,
    )


@rule_docs("CF768", "warning", name="begins-again")
def from_the_beginning(run_dir: str, steps: int) -> Finding:
    """CF768: a run is continued that was killed before its first checkpoint, so it begins at its first step.

    Nothing of what it had learned was safe yet. The steps are trained again, with the same samples at the
    same rates, and the receipt counts those of the killed attempt as lost. A smaller checkpoint.every_steps
    loses less.
    """
    return Finding(
        "CF768",
        f"no checkpoint was finished: {counted(steps, 'step')} trained again, from the first",
        severity="warning",
        place=Place(run_dir),
        helps=("write checkpoints more often: checkpoint.every_steps",),
    )


@rule_docs("CF771", "warning", name="no-time-for-checkpoint")
def no_time(step: int, takes_seconds: float, left_seconds: float, kept: str | None) -> Finding:
    """CF771: a signal asked the run to stop, and a checkpoint would not have been finished before the kill.

    Schedulers and launchers kill what still runs some seconds after their signal: SLURM at the end of its
    grace time, the deepspeed and torchrun launchers after 30 seconds. A save that is cut off is worth
    nothing, so none was begun, and the last good checkpoint stands. How long a save takes was measured at the
    one before. Ask the scheduler for an earlier warning (`#SBATCH --signal=USR1@120`), say how much time
    there is in faults.grace_seconds, or write checkpoints more often.
    """
    return Finding(
        "CF771",
        f"none saved {after_steps(step)}: a save takes {takes_seconds:.0f} s, {left_seconds:.0f} s are left",
        severity="warning",
        notes=(f"kept: {kept}, the last good one" if kept is not None else "no good checkpoint is kept",),
        helps=(
            "ask for an earlier signal and say so: faults.grace_seconds=120",
            "or write checkpoints more often: checkpoint.every_steps",
        ),
    )


def _some(names: Sequence[str]) -> str:
    start = "for example " if len(names) > 3 else ""
    return start + ", ".join(names[:3])


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape) if shape else "a single number"
