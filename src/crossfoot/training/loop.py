"""The one training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import torch

from crossfoot.index.store import DataIndex
from crossfoot.ledger.reconcile import PlannedStep
from crossfoot.ledger.skipping import Policies
from crossfoot.liveness.rank_monitor import RankMonitor
from crossfoot.liveness.stopping import Stop
from crossfoot.metering.meter import Meter
from crossfoot.metering.update import Update
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.training.batches import collate
from crossfoot.training.engine import Engine
from crossfoot.training.noise_recorder import NoiseRecorder
from crossfoot.training.step_hooks import StepHooks
from crossfoot.training.step_recorder import StepPlanner, StepRecorder

TRIES_AT_MOST = 40
"""Of one step in float16. Halving brings DeepSpeed's largest first loss scale, 2^32, below 1."""


@dataclass(frozen=True)
class Training:
    """Everything that one rank needs to train steps."""

    engine: Engine
    index: DataIndex
    planner: StepPlanner
    meter: Meter
    step_recorder: StepRecorder
    ranks: Ranks
    dropout_seed: int | None
    """Seed of the dropout draws; None when nothing is drawn."""
    packed: bool
    """Whether the samples of a slot stand in one row."""
    step_hooks: StepHooks
    """Between two steps: validation, checkpoint, evaluation."""
    policies: Policies
    """What becomes of a step that cannot be learned from."""
    rank_monitor: RankMonitor
    """Is told how far this rank came."""
    noise: NoiseRecorder
    """Looks at some steps for the gradient noise scale."""


def train_steps(training: Training, first: int, end: int) -> tuple[int, Stop]:
    """Train steps [first, end). Returns the steps done, with those before, and why it stopped, the same on
    every rank. The ledger is durable then.
    """
    meter, policies = training.meter, training.policies
    training.engine.holds = policies.nonfinite == "stop"
    done, stop = first, training.step_hooks.before(first)
    if stop.ends:
        return done, stop
    meter.restart_clock()
    for step, planned in planned_ahead(training, first, end):
        training.rank_monitor.tick(step)
        update = learn_step(training, planned)
        closed = meter.end_step(step, update)
        training.noise.note(step, update)
        done += 1
        stop = training.step_recorder.settle(closed, planned)
        if step == first:  # booked at once: what is wrong from the start is not trained to the end
            stop = max(stop, training.step_recorder.drain())
        if update.left_out is not None and not policies.states(update.left_out):
            break  # when it is drained, the step says why
        if not stop.ends:
            stop = training.step_hooks.after(done, stop)
        if stop.ends:
            break
    return done, max(stop, training.step_recorder.drain())


def planned_ahead(training: Training, first: int, end: int) -> Iterator[tuple[int, PlannedStep]]:
    """Every step of [first, end) with its plan, which is made in a thread while the step before it computes:
    with a thousand ranks that takes 15 ms, and at a new window of a large epoch's order seconds. The thread
    reads this rank's samples too, so that nobody waits for pages of the index on shared storage.
    """
    index, rank = training.index, training.ranks.rank

    def plan(step: int) -> PlannedStep:
        planned = training.planner.step(step)
        for sample_id in chain.from_iterable(planned.slots[rank]):
            index.sample(int(sample_id))[0].any()
        return planned

    with ThreadPoolExecutor(1, "next step") as thread:
        coming = thread.submit(plan, first)
        for step in range(first, end):
            planned = coming.result()
            if step + 1 < end:
                coming = thread.submit(plan, step + 1)
            yield step, planned


def learn_step(training: Training, planned: PlannedStep) -> Update:
    """One optimizer step, tried again at a lower loss scale where float16 gradients overflow.

    Not again when the policy is to skip, when the scale cannot fall further, or when a loss of any rank is
    NaN or infinite: no scale heals that. The same on all ranks; float16 alone has them ask each other,
    after an overflow.
    """
    meter, ranks, noise = training.meter, training.ranks, training.noise
    for left in reversed(range(TRIES_AT_MOST)):
        with noise.watching(planned.step):
            update = run_step(
                training.engine,
                training.index,
                planned,
                ranks.rank,
                training.dropout_seed,
                training.packed,
                training.rank_monitor.tick,
                training.step_recorder.begin,
                partial(noise.see_gradient, planned.step),
            )
        if update.left_out != "overflow":
            break
        if not all(ranks.gather(meter.losses_are_finite(), bool)):
            update = replace(update, left_out="not finite")
            break
        if training.policies.states("overflow") or not update.can_retry or not left:
            break
        meter.forget_try()
    return update


def run_step(
    engine: Engine,
    index: DataIndex,
    planned: PlannedStep,
    rank: int,
    dropout_seed: int | None,
    packed: bool,
    tick: Callable[[], None] = lambda: None,
    computing: Callable[[], None] = lambda: None,
    computed: Callable[[], None] = lambda: None,
) -> Update:
    """One try at an optimizer step, of one rank: forward and backward of each of its slots, then the update.

    packed: the samples of a slot stand in one row. tick: called after each backward. computing: called
    before the last one, which gives time to what goes on beside it. computed: called when all gradients are
    there, before they are clipped. The loop and `crossfoot prove` both step through here.
    """
    # The engine averages over dp_degree ranks; times dp_degree that is a sum, and over the trained tokens of
    # the whole step (planned, so known before its first forward) every token counts the same, in whichever
    # forward it is.
    weight = engine.dp_degree / planned.trained_tokens if planned.trained_tokens else 0.0
    engine.set_rate(planned.lr)
    for group, rate in planned.group_lrs.items():
        engine.set_rate(rate, group)
    slots = planned.slots[rank]
    for forward, sample_ids in enumerate(slots):
        if dropout_seed is not None:
            torch.manual_seed(slot_seed(dropout_seed, planned.step, sample_ids))
        loss = engine.forward(collate(index, sample_ids, packed=packed))
        is_last = forward == len(slots) - 1
        if is_last:
            computing()
        engine.backward(loss, weight, last=is_last)
        tick()
    computed()
    return engine.step()


def slot_seed(seed: int, step: int, sample_ids: Sequence[int] | np.ndarray) -> int:
    """63 bits from (seed, step, the slot's smallest sample id), by numpy's SeedSequence.

    A layout with as many slots holds the same samples in each, on whichever rank and in whichever forward: a
    folded plan draws what its cluster draws.
    """
    first = 1 + int(np.min(sample_ids)) if len(sample_ids) else 0
    state = np.random.SeedSequence([seed, step, first]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
