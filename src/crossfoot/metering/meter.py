"""The meter: counts what was differentiated, by reading the tensors the model was given.

It never looks at the plan. Token ids are read where they enter the embedding, labels where they enter the
loss, the weight of a loss where its gradient arrives, the rate where the optimizer steps. A forward is booked
only once its backward has run. Tensors on a GPU are copied to pinned memory without waiting and looked at one
step later.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.index.store import segment_digests
from crossfoot.ledger.witness import ForwardWitness, SegmentWitness, StepWitness
from crossfoot.metering.host_copy import HostCopy
from crossfoot.metering.update import Update

RATE_GROUP = "rate_group"
"""The key of an optimizer's parameter group that says whose rate it has: "" is lr.reference's."""


@dataclass
class _Forward:
    """One forward as it was seen; `gradient` arrives with its backward."""

    number: int
    labels: HostCopy
    predicting: HostCopy
    segments: tuple[tuple[int, int, int], ...]
    positions: HostCopy | None = None
    segment_ends: tuple[int, ...] | None = None
    input_ids: HostCopy | None = None
    loss: HostCopy | None = None
    gradient: HostCopy | None = None


@dataclass
class ClosedStep:
    """Everything seen between two `end_step` calls on this rank. rates: of each group of parameters with a
    rate of its own, and of all others (""). retries: tries that were thrown away.
    """

    started: float
    forwards: list[_Forward] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    retries: int = 0
    step: int = -1
    update: Update = field(default_factory=lambda: Update(lambda: math.nan))
    seconds: float = 0.0


class Meter:
    """Watches one rank's model and optimizer. `end_step` closes a step; `witness` then says what was seen in
    it.
    """

    def __init__(
        self, model: nn.Module, embedding: nn.Module, optimizer: torch.optim.Optimizer, rank: int
    ) -> None:
        self.rank = rank
        self._pending: _Forward | None = None
        self._now = ClosedStep(time.monotonic())
        # Behind collator, engine and wrappers, which may be wrong: labels where they enter the module of the
        # loss, ids at the embedding (a model may change them on the way), the weight as the gradient that
        # arrives at the summed loss (`_see_loss`), the rate where the optimizer is about to update the
        # weights.
        model.register_forward_pre_hook(self._see_batch, with_kwargs=True)
        model.register_forward_hook(self._see_loss)
        embedding.register_forward_pre_hook(self._see_ids)
        optimizer.register_step_pre_hook(self._see_update)
        self._forwards_begun = 0

    def _see_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            batch = kwargs["batch"]
            self._pending = _Forward(
                number=self._forwards_begun,
                labels=HostCopy(batch.labels),
                predicting=HostCopy(batch.predicting),
                segments=batch.segments,
                positions=None if batch.position_ids is None else HostCopy(batch.position_ids),
                segment_ends=batch.segment_ends,
            )
            self._forwards_begun += 1

    def _see_ids(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._pending is not None:
            self._pending.input_ids = HostCopy(args[0])

    def _see_loss(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        seen, self._pending = self._pending, None
        if seen is None or not output.requires_grad:
            return
        seen.loss = HostCopy(output)

        def book(gradient: torch.Tensor) -> None:
            seen.gradient = HostCopy(gradient)
            self._now.forwards.append(seen)

        output.register_hook(book)

    def _see_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            own = str(group.get(RATE_GROUP, ""))
            self._now.rates.setdefault(own, []).append(float(group["lr"]))

    def losses_are_finite(self) -> bool:
        """Whether every loss of this rank's open step is a number. Waits for the GPU."""
        losses = (forward.loss for forward in self._now.forwards)
        return all(math.isfinite(loss.number()) for loss in losses if loss is not None)

    def forget_try(self) -> None:
        """The open step begins again: what was differentiated was not learned from, and is only counted. Its
        time stays the step's.
        """
        self._now.forwards.clear()
        self._now.rates.clear()
        self._now.retries += 1
        self._forwards_begun = 0

    def end_step(self, step: int, update: Update) -> ClosedStep:
        """Close the step on this rank. What became of the update is read later, when nothing has to wait for
        it.
        """
        done, self._now = self._now, ClosedStep(time.monotonic())
        done.step, done.update = step, update
        done.seconds = self._now.started - done.started
        self._forwards_begun = 0
        return done

    def restart_clock(self) -> None:
        """Time spent outside of steps (validation, saving) is not the next step's."""
        self._now.started = time.monotonic()

    def witness(self, done: ClosedStep, stop: int = 0) -> StepWitness:
        """What this rank did in a step, in CPU numbers. `stop`: a value of Stop that this rank asks for
        (0: none).
        """
        update = done.update
        forwards = tuple(_testify(forward, update.loss_scale) for forward in done.forwards)
        loss_sum = float(sum(forward.loss_sum for forward in forwards))
        grad_norm = update.grad_norm()
        return StepWitness(
            rank=self.rank,
            step=done.step,
            forwards=forwards,
            lr=_odd_one(done.rates.get("", [])),
            applied=bool(done.rates) and update.was_applied(),
            loss_sum=loss_sum,
            grad_norm=grad_norm,
            seconds=done.seconds,
            nonfinite=not (math.isfinite(loss_sum) and math.isfinite(grad_norm)),
            stop=stop,
            overflow=update.left_out == "overflow",
            retries=done.retries,
            group_lrs={own: _odd_one(rates) for own, rates in done.rates.items() if own},
        )


def _odd_one(rates: list[float]) -> float:
    """The rate that the optimizer stepped at; where it stepped at several, the rarest: none is hidden."""
    return min(set(rates), key=lambda rate: (rates.count(rate), rate), default=math.nan)


def _testify(forward: _Forward, loss_scale: float) -> ForwardWitness:
    """Digest every sample of one differentiated forward: ids as embedded, labels as they entered the loss."""
    loss_sum = 0.0 if forward.loss is None else forward.loss.number()
    if forward.input_ids is None or forward.gradient is None:
        return ForwardWitness(forward.number, 0, math.nan, (), loss_sum)
    input_ids, labels, predicting = (
        copy.numpy() for copy in (forward.input_ids, forward.labels, forward.predicting)
    )
    trained = np.zeros(labels.shape, dtype=bool)
    trained[:, predicting + 1] = labels[:, predicting + 1] != IGNORED_LABEL
    segments = []
    for row, start, end in forward.segments:
        ids = input_ids[row, start:end].astype(np.int32)
        mask = trained[row, start:end]
        token_digest, digest = segment_digests(ids, mask)
        segments.append(SegmentWitness(token_digest, digest, end - start, int(mask[1:].sum())))
        trained[row, start:end] = False
    if trained.any():  # trained outside of every sample: a witness that no plan can match
        stray = input_ids[trained].astype(np.int32)
        segments.append(
            SegmentWitness(*segment_digests(stray, np.ones(stray.size, dtype=bool)), 0, stray.size)
        )
    return ForwardWitness(
        forward=forward.number,
        token_slots=int(input_ids.size),
        token_weight=forward.gradient.number() / loss_scale,
        segments=tuple(segments),
        loss_sum=loss_sum,
        misplaced=_misplaced(forward),
    )


def _misplaced(forward: _Forward) -> int:
    """Samples of a packed row whose positions do not begin at 0, or whose ends attention is not told of."""
    if forward.positions is None:
        return 0
    positions, borders = forward.positions.numpy(), {0, *(forward.segment_ends or ())}
    return sum(
        not {start, end} <= borders or not np.array_equal(positions[row, start:end], np.arange(end - start))
        for row, start, end in forward.segments
    )
