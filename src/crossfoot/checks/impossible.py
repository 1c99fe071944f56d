"""What the arithmetic cannot do, as findings: the config's places are added to its facts and changes."""

from __future__ import annotations

from crossfoot.arithmetic.batch import BatchImpossible
from crossfoot.arithmetic.held_out import NothingLeft
from crossfoot.arithmetic.impossible import Impossible
from crossfoot.arithmetic.layout import StepTooFull
from crossfoot.arithmetic.rate import RateImpossible
from crossfoot.arithmetic.schedule import ScheduleImpossible
from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.written.run_file import RunFile


def impossible_finding(error: Impossible, run: RunFile) -> Finding:
    """The finding for any of the arithmetic's refusals."""
    if isinstance(error, BatchImpossible):
        return batch_impossible(error, run)
    if isinstance(error, RateImpossible):
        return rate_impossible(error, run)
    if isinstance(error, ScheduleImpossible):
        return schedule_impossible(error, run)
    if isinstance(error, StepTooFull):
        return step_too_full(error, run)
    if isinstance(error, NothingLeft):
        return nothing_left(error, run)
    raise TypeError(f"no code for {type(error).__name__}") from error


@rule_docs("CF104")
def batch_impossible(error: BatchImpossible, run: RunFile) -> Finding:
    """CF104: the three batch numbers and the GPUs contradict each other.

    `micro_batch_size x grad_accum_steps x gpus_per_node x num_nodes` is what one step can hold. A
    `global_batch_size` above it does not fit. One below it is fine (some forwards hold a sample less) as long
    as every accumulation step is needed; otherwise one of the three numbers is not what its author believes.
    Each help alone repairs the run.
    """
    return _with_places("CF104", error, run)


@rule_docs("CF107")
def step_too_full(error: StepTooFull, run: RunFile) -> Finding:
    """CF107: a step does not fit in the forwards that it may use.

    With `batch.micro_batch_tokens` a forward holds so many tokens, and `batch.grad_accum_steps` is the most
    forwards that a step may use; it uses as few as hold it. A step of long samples may need more. The data
    index has the length of every sample, so this is known before anything starts. Without
    `grad_accum_steps` the maximum is solved, such that every step fits, whatever its samples are.

    With `batch.target_trained_tokens` a step takes samples until they have so many trained tokens: many where
    the answers are short. The step that takes the most must fit in micro batch x accumulation x GPUs.
    """
    return _with_places("CF107", error, run)


@rule_docs("CF202")
def rate_impossible(error: RateImpossible, run: RunFile) -> Finding:
    """CF202: no learning rate follows from the lr section.

    A rule (linear, sqrt) needs `lr.reference_batch`, the batch at which `lr.reference` was right; and a
    warm-up cannot be longer than the run. `lr.cycles` cannot be more than the steps after the warm-up.
    """
    return _with_places("CF202", error, run)


@rule_docs("CF203")
def schedule_impossible(error: ScheduleImpossible, run: RunFile) -> Finding:
    """CF203: the data, the batch and the run's length leave no step to take.

    With `data.last_step: drop` an epoch smaller than one batch is dropped whole; and without samples nothing
    is trained.
    """
    return _with_places("CF203", error, run)


@rule_docs("CF563", name="nothing-left-to-train")
def nothing_left(error: NothingLeft, run: RunFile) -> Finding:
    """CF563: data.validation holds out all that there is to train on.

    `data.validation: 500` holds out 500 different samples of the training data, and `0.05` five in a hundred,
    rounded up. Samples that say the same, word for word, are one: they are all trained on, or none is.
    """
    return _with_places("CF563", error, run)


def _with_places(code: str, error: Impossible, run: RunFile) -> Finding:
    """The keys that somebody wrote become places, the first of them the one with the caret."""
    written = [key for key in error.keys if run.is_written(key)]
    first, *rest = written or error.keys
    return Finding(
        code,
        error.title,
        place=run.place(first),
        others=tuple((run.place(key), "") for key in rest if run.is_written(key)),
        notes=error.notes,
        helps=error.helps,
    )
