"""The one training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from crossfoot.index.store import DataIndex
from crossfoot.ledger.reconcile import PlannedStep
from crossfoot.training.batches import collate
from crossfoot.training.bookkeeper import Bookkeeper, StepPlanner
from crossfoot.training.engine import Engine
from crossfoot.training.meter import Meter
from crossfoot.training.pauses import Pauses
from crossfoot.training.ranks import Ranks
from crossfoot.training.stopping import Stop


@dataclass(frozen=True)
class Training:
    """Everything that one rank needs to train steps."""

    engine: Engine
    index: DataIndex
    planner: StepPlanner
    meter: Meter
    keeper: Bookkeeper
    ranks: Ranks
    dropout_seed: int | None
    """Seed of the dropout draws; None when nothing is drawn."""
    pauses: Pauses
    """Between two steps: validation, checkpoint."""


def train_steps(training: Training, first: int, end: int) -> tuple[int, Stop]:
    """Train steps [first, end). Returns the steps done, with those before, and why it stopped, the same on
    every rank. The ledger is durable then.
    """
    meter, rank = training.meter, training.ranks.rank
    done, stop = first, Stop.NO
    meter.restart_clock()
    for step in range(first, end):
        planned = training.planner.step(step)
        norm = run_step(training.engine, training.index, planned, rank, training.dropout_seed)
        closed = meter.end_step(step, norm)
        done += 1
        stop = training.keeper.settle(closed, planned)
        if not stop.ends:
            stop = training.pauses.after(done, stop)
        if stop.ends:
            break
    return done, max(stop, training.keeper.drain())


def run_step(
    engine: Engine, index: DataIndex, planned: PlannedStep, rank: int, dropout_seed: int | None
) -> Callable[[], float]:
    """One optimizer step of one rank: forward and backward of each of its slots, then the update.

    Returns the reader of the global gradient norm (`Engine.step`). The loop and `crossfoot prove` both step
    through here.
    """
    # A summed loss times this, averaged over ranks, is the mean over the whole step's trained tokens.
    weight = engine.dp_degree / planned.trained_tokens if planned.trained_tokens else 0.0
    engine.set_rate(planned.lr)
    slots = planned.slots[rank]
    for forward, sample_ids in enumerate(slots):
        if dropout_seed is not None:
            torch.manual_seed(forward_seed(dropout_seed, planned.step, rank, forward))
        loss = engine.forward(collate(index, sample_ids))
        engine.backward(loss, weight, last=forward == len(slots) - 1)
    return engine.step()


def forward_seed(seed: int, step: int, rank: int, forward: int) -> int:
    """63 bits from (seed, step, rank, forward), by numpy's SeedSequence."""
    state = np.random.SeedSequence([seed, step, rank, forward]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
