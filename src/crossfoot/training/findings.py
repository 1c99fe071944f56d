"""What can go wrong when ranks meet, while they train, and at the end: one function, one code, one manual
page.

Torch-free, so that `crossfoot explain` can read the pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.ledger.entry import StepEntry
from crossfoot.phrases import after_steps, counted, step_name
from crossfoot.shell_words import joined

MOST_SAMPLES_NAMED = 8


@rule_docs("CF430")
def engine_believes(kind: str, name: str, believed: Any, planned: Any) -> Finding:
    """CF430: after its initialisation the engine believes another number than the plan.

    Batch numbers, accumulation, clipping, ZeRO stage, precision and the scheduler are read back from the
    engine and compared, not trusted: environment variables and plugins can overrule what an engine was told.
    """
    return Finding(
        "CF430",
        f"{kind} believes {name} is {believed!r}, the plan says {planned!r}",
        notes=("read back from the engine after its initialisation, before the first forward",),
        helps=("look for an environment variable or a plugin that overrules the engine's arguments",),
    )


@rule_docs("CF741", name="stopped-not-finite")
def not_finite(entry: StepEntry) -> Finding:
    """CF741: a loss or the gradient norm became NaN or infinite, and the run was stopped.

    The step's update is left out on all ranks: weights and optimizer state are bitwise those before it, so
    nothing poisoned is saved, and the last checkpoint stands. Where a loss was NaN or infinite, its forward's
    samples are named with the file and line that they come from. Where every loss is finite and the
    gradient norm is not, all samples of the step have a part in it. In accelerate, and in ZeRO stage 0 with
    float32, nobody waits for the GPU to say so: one more step is computed by then, and its update is left out
    too.

    `faults.nonfinite: skip` leaves such updates out and goes on; each is in the ledger and in the receipt.
    """
    samples = [pair for one in entry.not_finite for pair in zip(one.samples, one.origins, strict=False)]
    notes = [str(one) for one in entry.not_finite[1:]]
    notes += [f"sample {sample} is {origin}" for sample, origin in samples[:MOST_SAMPLES_NAMED]]
    if (more := len(samples) - MOST_SAMPLES_NAMED) > 0:
        notes.append(f"and {more:,} more samples: the ledger's line of the step has them")
    notes.append("its update was left out on all ranks: the weights are those before the step")
    what = str(entry.not_finite[0]) if entry.not_finite else "its loss or gradient norm is NaN or infinite"
    if not entry.planned_trained_tokens:
        what = "no token of its samples is a target"
    return Finding(
        "CF741",
        f"{step_name(entry.step)} (epoch {entry.epoch + 1}) cannot be learned from: {what}",
        notes=tuple(notes),
        helps=(
            f"look at {'these' if samples else f'the {entry.real_samples:,}'} samples",
            "or lower lr.reference, or lengthen the warm-up: weights that run away end like this",
            "or set faults.nonfinite to skip: such updates are left out, and counted",
        ),
    )


@rule_docs("CF781")
def weights_not_finite(steps: int) -> Finding:
    """CF781: the trained weights are NaN or infinite when the run ends, though every loss was a number.

    The last updates were so large that the weights left the range of their type; the loss of a next step
    would have shown it. They are not saved, and the run fails. The last checkpoint was written before.
    """
    return Finding(
        "CF781",
        f"{after_steps(steps)} the trained weights are NaN or infinite",
        notes=("they were not saved",),
        helps=(
            "lower lr.reference, or lengthen the warm-up: weights that run away end like this",
            "and set model.dtype to bfloat16 or float32, where it is float16",
        ),
    )


@rule_docs("CF782")
def validation_not_finite(steps: int, loss: float) -> Finding:
    """CF782: the validation loss is NaN or infinite.

    Some validation sample meets weights that no trained sample does, or they have left the range of their
    type. With `faults.nonfinite: stop` the run stops here, and at its end the receipt does not foot; with
    `skip` it goes on, and only the loss after the last step counts.
    """
    return Finding(
        "CF782",
        f"{after_steps(steps)} the validation loss is {loss!r}",
        helps=(
            "look for rows of the base model that are not numbers, and at the validation data",
            "or lower lr.reference, or lengthen the warm-up",
        ),
    )


@rule_docs("CF770", name="first-step-astray")
def first_step_astray(entry: StepEntry) -> Finding:
    """CF770: the first step of a run, or of an attempt at it, was not as planned: the run stopped there.

    What is wrong with the first step is wrong with all of them: the data, the index, the program or the
    machine. The ledger has the step's line with its causes, the receipt shows them, and nothing was saved. A
    later step that differs is named by the receipt at the end, and does not stop the run.
    """
    cause = entry.causes[0]
    return Finding(
        "CF770",
        f"{step_name(entry.step)}, the first of this attempt, was not trained as planned: the run stopped",
        notes=(cause.message, f"{counted(entry.cause_count, 'cause')} in all: the receipt names them"),
        helps=(f"see what the first one means: crossfoot explain {cause.code}",),
    )


@rule_docs("CF778")
def overflow_stays(entry: StepEntry, loss_scale: float) -> Finding:
    """CF778: float16 gradients overflow, and no loss scale helps.

    In float16 the loss is multiplied with a scale, so that small gradients do not vanish; where the scaled
    gradients overflow, the update is left out, the scale lowered, and the same samples are tried again
    (`faults.overflow: retry`). This ends when they overflow at the lowest scale (`fp16.min_loss_scale` of the
    DeepSpeed file, 1 by default), when the scale is fixed (`fp16.loss_scale`), or after 40 tries at one step.
    The weights are those before the step.
    """
    tries = "1 try" if not entry.retries else f"{entry.retries + 1} tries"
    return Finding(
        "CF778",
        f"the gradients of {step_name(entry.step)} overflow float16: {tries}, "
        f"the last at loss scale {loss_scale:g}",
        notes=("every loss is a number", "the update was left out: the weights are those before the step"),
        helps=(
            "set model.dtype to bfloat16, which has the range of float32",
            "or let the scale fall further: fp16.loss_scale 0, fp16.min_loss_scale 1 in the DeepSpeed file",
            "or lower lr.reference, or lengthen the warm-up",
            "or set faults.overflow to skip: such steps are left out, and counted",
        ),
    )


def unlearnable(stopped_for: tuple[StepEntry, float] | None, is_finite: bool) -> list[Finding]:
    """Why a run stopped at a step that cannot be learned from: its line and its loss scale, None where they
    are not known (not on rank 0). is_finite: whether the trained weights are.
    """
    if stopped_for is None:
        return []
    entry, loss_scale = stopped_for
    is_overflow = not entry.not_finite and not entry.applied and not math.isfinite(entry.grad_norm)
    finding = overflow_stays(entry, loss_scale) if is_overflow else not_finite(entry)
    if not is_finite:
        note = "the trained weights are not finite either, so they were not saved"
        finding = replace(finding, notes=(*finding.notes, note))
    return [finding]


@rule_docs("CF431")
def engine_absent(found: str, expected: str) -> Finding:
    """CF431: the engine that came out of the initialisation is not the one that was asked for.

    Environment variables and settings can quietly put another engine in DeepSpeed's place, or none: then
    nobody shards, and nobody adds up the gradients of the ranks. The type of the engine and of the optimizer
    that it wraps are read back, and so is a DataParallel around the model. (lies U1, U3)
    """
    return Finding(
        "CF431",
        f"the engine is {found}, not {expected}",
        notes=("read back after its initialisation, before the first forward",),
        helps=(
            "unset ACCELERATE_USE_CPU and other ACCELERATE_ variables, and look at what patches deepspeed",
            "take hybrid_engine and pipeline settings out of the DeepSpeed file",
        ),
    )


@rule_docs("CF783")
def float16_unsupported() -> Finding:
    """CF783: DeepSpeed does not train in float16 on this CPU.

    It asks oneDNN, which computes in float16 on CPUs with AVX512-FP16 alone (Intel, from Sapphire Rapids on),
    and stops at its start-up on all others. One process without DeepSpeed trains in float16 on any CPU, with
    torch's own loss scaler, slowly: good for a dry run. GPUs all have it.
    """
    return Finding(
        "CF783",
        "DeepSpeed does not train in float16 on this CPU",
        notes=("this CPU has no AVX512-FP16, which oneDNN computes float16 with",),
        helps=(
            "train where there is a GPU",
            "or start one process without the deepspeed launcher, which torch's own scaler serves",
            "or set model.dtype to bfloat16 or float32",
        ),
    )


@rule_docs("CF882", "warning")
def evaluation_unfinished(run_dir: str, step: int, words: Sequence[str], notes: Sequence[str]) -> Finding:
    """CF882: an evaluation of a run was not finished, and the run went on, or came to its end, without it.

    A signal stops it, a full disk, or a row that does not fit into memory. No evaluation ends a run. What was
    scored is kept: a run that is continued at this step goes on with it, and `crossfoot evaluate` gives the
    same scores from the checkpoint or from what the run has saved.
    """
    command = joined(["crossfoot", "evaluate", run_dir, "--step", str(step), *words])
    return Finding(
        "CF882",
        f"the evaluation {after_steps(step)} is not finished",
        severity="warning",
        notes=tuple(notes),
        helps=(f"evaluate its checkpoint: {command}",),
    )


@rule_docs("CF883")
def tasks_differ(rank: int, hosts: Sequence[str], place: Place) -> Finding:
    """CF883: files of `evaluation.tasks` are not the same on all nodes, and ranks would ask other things.

    Each rank reads the tasks, and scores items of its own. Their prompts were compared by a digest before
    weights are loaded.
    """
    on = [f"rank {one} on {hosts[one]}" if one < len(hosts) else f"rank {one}" for one in (rank, 0)]
    return Finding(
        "CF883",
        f"{on[0]} reads other tasks than {on[1]}",
        place=place,
        helps=("put the files of evaluation.tasks on storage that every node sees",),
    )
