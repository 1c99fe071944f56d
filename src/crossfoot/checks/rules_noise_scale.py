"""CF218 to CF220: a noise scale that is asked for, and that the run's steps cannot tell."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.batch import ACCUM, GLOBAL, MICRO, TOKENS, BatchPlan, ceil_div
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted

KEY = "train.noise_scale_every_steps"


@rule("CF218", "warning", name="noise-of-one-forward")
def noise_of_one_forward(facts: Facts) -> Iterator[Finding]:
    """CF218: the gradient noise scale is to be measured, and a step is a single forward.

    The noise is seen in how far the gradients of a step's forwards lie apart, on whichever ranks they are.
    With one rank and no accumulation there is one gradient a step, and nothing to compare it with. The same
    samples in two forwards of half the size train the same step, a little slower; more tell the noise better.
    """
    every, batch = facts.run.config.train.noise_scale_every_steps, facts.batch
    if every is None or batch is None or min(batch.slots_per_step, batch.global_batch_size) > 1:
        return
    sizes = f"{batch.micro_batch_size:,} x {batch.grad_accum_steps:,} x {batch.topology.dp_degree:,}"
    if batch.global_batch_size == 1:
        title = "a step is 1 sample"
        helps = [f"remove {KEY}, or take more samples a step"]
    else:
        title = f"a step is 1 forward ({sizes} samples)"
        helps = [f"train the same step in two forwards: {_in_two(facts, batch)}", f"or remove {KEY}"]
    yield Finding(
        "CF218",
        f"{KEY} {every:,} measures nothing: {title}, and two forwards are needed",
        severity="warning",
        place=facts.run.place(KEY),
        helps=tuple(helps),
    )


def _in_two(facts: Facts, batch: BatchPlan) -> str:
    """Words of a command line that make two forwards of the step's one."""
    if batch.micro_batch_tokens is not None:
        least = facts.run.config.data.max_seq_len
        return f"{TOKENS}={max(least, ceil_div(batch.micro_batch_tokens, 2))}"
    halves = {MICRO: ceil_div(batch.micro_batch_size, 2), ACCUM: 2, GLOBAL: batch.global_batch_size}
    is_odd = 2 * halves[MICRO] != batch.global_batch_size
    is_needed = {MICRO: True, ACCUM: facts.run.is_written(ACCUM), GLOBAL: is_odd}
    return " ".join(f"{name}={halves[name]}" for name in halves if is_needed[name])


@rule("CF219", "warning", name="noise-too-seldom")
def noise_too_seldom(facts: Facts) -> Iterator[Finding]:
    """CF219: fewer steps are measured than a noise scale needs.

    One step says very little; the interval comes from how far the measured steps lie apart. Below five of
    them nothing is said, and it takes some twenty for an interval that one can use.
    """
    every, schedule = facts.run.config.train.noise_scale_every_steps, facts.schedule
    if every is None or schedule is None:
        return
    from crossfoot.arithmetic.noise_scale import LEAST_STEPS  # numpy, which a look at the config does without

    measured, _ = divmod(schedule.total_steps, every)
    if measured >= LEAST_STEPS:
        return
    often, _ = divmod(schedule.total_steps, LEAST_STEPS)
    yield Finding(
        "CF219",
        f"{KEY} {every:,} measures {counted(measured, 'step')} of the run's {schedule.total_steps:,}, "
        f"and a noise scale needs {LEAST_STEPS} at least",
        severity="warning",
        place=facts.run.place(KEY),
        helps=(f"set {KEY} to {often}" if often else f"train {LEAST_STEPS} steps or more, or remove {KEY}",),
    )


@rule("CF220", "warning", name="noise-of-sorted-forwards")
def noise_of_sorted_forwards(facts: Facts) -> Iterator[Finding]:
    """CF220: the noise scale is to be measured, and forwards hold samples of like length.

    How far forwards lie apart tells the noise only if each is a random part of the step. The layout `padded`
    sorts a step by length before it is cut into forwards, so what differs between long and short samples is
    taken for noise, and what is alike within a forward is not: in a simulation (docs/noise-scale.md) the
    noise scale came out at 0.5 to 7 times the true one. The layout `packed` deals every forward its share of
    long and short samples.
    """
    config = facts.run.config
    if config.train.noise_scale_every_steps is None or config.data.is_packed:
        return
    yield Finding(
        "CF220",
        f"{KEY} measures forwards that are sorted by length, and may be several times off",
        severity="warning",
        place=facts.run.place(KEY),
        others=((facts.run.place("data.layout"), "sorts a step by length"),),
        helps=("set data.layout to packed: the same steps are trained", f"or remove {KEY}"),
    )
