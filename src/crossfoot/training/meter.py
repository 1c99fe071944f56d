"""The meter: counts what was differentiated, by reading the tensors the model was given.

It never looks at the plan. Token ids are read where they enter the embedding, labels where they enter the
loss, the weight of a loss where its gradient arrives, the rate where the optimizer steps. A forward is booked
only once its backward has run. Tensors on a GPU are copied to pinned memory without waiting and looked at one
step later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from crossfoot.index.store import segment_digests
from crossfoot.ledger.witness import ForwardWitness, SegmentWitness, StepWitness
from crossfoot.training.batches import IGNORED_LABEL


class HostCopy:
    """A tensor's value on its way to the CPU; `numpy()` waits for it only if it has not arrived."""

    def __init__(self, tensor: torch.Tensor) -> None:
        tensor = tensor.detach()
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = tensor.clone()

    def numpy(self) -> np.ndarray:
        """The value as a numpy array on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        host = self._host.float() if self._host.dtype in (torch.bfloat16, torch.float16) else self._host
        return host.numpy()

    def number(self) -> float:
        """The value of a scalar."""
        return float(self.numpy())


@dataclass
class _Forward:
    """One forward as it was seen; `gradient` arrives with its backward."""

    number: int
    labels: HostCopy
    predicting: HostCopy
    segments: tuple[tuple[int, int, int], ...]
    input_ids: HostCopy | None = None
    loss: HostCopy | None = None
    gradient: HostCopy | None = None


@dataclass
class ClosedStep:
    """Everything seen between two `end_step` calls on this rank."""

    forwards: list[_Forward]
    rates: list[float]
    started: float
    step: int = -1
    grad_norm: Callable[[], float] = lambda: math.nan
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
        self._now = ClosedStep([], [], time.monotonic())
        model.register_forward_pre_hook(self._see_batch, with_kwargs=True)
        model.register_forward_hook(self._see_loss)
        embedding.register_forward_pre_hook(self._see_ids)
        optimizer.register_step_pre_hook(self._see_update)
        self._forwards_begun = 0

    def _see_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self._pending = _Forward(
                number=self._forwards_begun,
                labels=HostCopy(kwargs["labels"]),
                predicting=HostCopy(kwargs["predicting"]),
                segments=kwargs["segments"],
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
        self._now.rates.extend(float(group["lr"]) for group in optimizer.param_groups)

    def end_step(self, step: int, grad_norm: Callable[[], float]) -> ClosedStep:
        """Close the step on this rank. `grad_norm` is read later, when nothing has to wait for it."""
        done, self._now = self._now, ClosedStep([], [], time.monotonic())
        done.step, done.grad_norm = step, grad_norm
        done.seconds = self._now.started - done.started
        self._forwards_begun = 0
        return done

    def restart_clock(self) -> None:
        """Time spent outside of steps (validation, saving) is not the next step's."""
        self._now.started = time.monotonic()

    def witness(self, done: ClosedStep, stop: int = 0) -> StepWitness:
        """What this rank did in a step, in CPU numbers. `stop`: this rank's wish to end the run (0: none)."""
        forwards = tuple(_testify(forward) for forward in done.forwards)
        loss_sum = sum(forward.loss.number() for forward in done.forwards if forward.loss is not None)
        grad_norm = done.grad_norm()
        return StepWitness(
            rank=self.rank,
            step=done.step,
            forwards=forwards,
            lr=_odd_one(done.rates),
            applied=bool(done.rates),
            loss_sum=float(loss_sum),
            grad_norm=grad_norm,
            seconds=done.seconds,
            nonfinite=not (math.isfinite(loss_sum) and math.isfinite(grad_norm)),
            stop=stop,
        )


def _odd_one(rates: list[float]) -> float:
    """The rate that the optimizer stepped at; where its groups differ, the rarest: no group hides it."""
    return min(set(rates), key=lambda rate: (rates.count(rate), rate), default=math.nan)


def _testify(forward: _Forward) -> ForwardWitness:
    """Digest every sample of one differentiated forward: ids as embedded, labels as they entered the loss."""
    if forward.input_ids is None or forward.gradient is None:
        return ForwardWitness(forward.number, 0, math.nan, ())
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
        token_weight=forward.gradient.number(),
        segments=tuple(segments),
    )
