"""Faults put around crossfoot's parts from outside; each is a context manager of the rank it runs on.

All of them strike rank 1 at step 2 (the third), in its first forward that holds a sample, unless said
otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest import mock

import torch

from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.training import batches, loop
from crossfoot.training.engine import AccelerateEngine, DeepSpeedEngine

STEP, RANK = 2, 1
Fault = Callable[[int], contextlib.AbstractContextManager[None]]


class _Clock:
    """Knows the step by watching the rates being set, and whether the fault has struck in it."""

    def __init__(self) -> None:
        self.step = -1
        self.struck = False

    def strikes(self) -> bool:
        """True once, in the fault's step."""
        if self.step != STEP or self.struck:
            return False
        self.struck = True
        return True


@contextlib.contextmanager
def _clock() -> Iterator[_Clock]:
    clock = _Clock()
    with contextlib.ExitStack() as stack:
        for engine in (DeepSpeedEngine, AccelerateEngine):
            real = engine.set_rate

            def set_rate(self, rate, only=None, real=real):
                clock.step += only is None
                real(self, rate, only)

            stack.enter_context(mock.patch.object(engine, "set_rate", set_rate))
        yield clock


def _collator_fault(change: Callable[[batches.Batch, object], batches.Batch]) -> Fault:
    """A fault in what the collator returns for a slot that holds a sample."""

    @contextlib.contextmanager
    def fault(rank: int) -> Iterator[None]:
        with _clock() as clock:
            real = loop.collate

            def collate(index, ids, **how):
                batch = real(index, ids, **how)
                if rank == RANK and len(ids) and clock.strikes():
                    return change(batch, lambda other: real(index, other, **how))
                return batch

            with mock.patch.object(loop, "collate", collate):
                yield

    return fault


def _altered(batch: batches.Batch, collate: object) -> batches.Batch:
    row, _, end = batch.segments[0]
    batch.input_ids[row, end - 2] = (batch.input_ids[row, end - 2] + 1) % 200 + 4
    return batch


def _unmasked(batch: batches.Batch, collate: object) -> batches.Batch:
    row, start, end = batch.segments[0]
    labels = batch.labels.clone()
    labels[row, start + 1 : end] = batch.input_ids[row, start + 1 : end]
    columns = torch.arange(batch.input_ids.shape[1] - 1)
    return replace(batch, labels=labels, predicting=columns)


def _run_on(batch: batches.Batch, collate: object) -> batches.Batch:
    """Positions go on from sample to sample."""
    return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1])[None])


def _joined(batch: batches.Batch, collate: object) -> batches.Batch:
    """Attention is told of the row's end only."""
    return replace(batch, segment_ends=batch.segment_ends[-1:])


def _cut(batch: batches.Batch, collate: object) -> batches.Batch:
    """The row ends a token too early."""
    *others, (row, start, end) = batch.segments
    labels = batch.labels.clone()
    labels[row, end - 1 :] = IGNORED_LABEL
    return replace(batch, labels=labels, segments=(*others, (row, start, end - 1)))


@contextlib.contextmanager
def slot_dropped(rank: int) -> Iterator[None]:
    """The collator gives an empty batch where samples belong."""
    with _clock() as clock:
        real = loop.collate

        def collate(index, ids, **how):
            return real(index, [] if rank == RANK and len(ids) and clock.strikes() else ids, **how)

        with mock.patch.object(loop, "collate", collate):
            yield


@contextlib.contextmanager
def sample_twice(rank: int) -> Iterator[None]:
    """A slot holds its first sample a second time."""
    with _clock() as clock:
        real = loop.collate

        def collate(index, ids, **how):
            again = rank == RANK and len(ids) and clock.strikes()
            return real(index, [*ids, ids[0]] if again else ids, **how)

        with mock.patch.object(loop, "collate", collate):
            yield


@contextlib.contextmanager
def backward_skipped(rank: int) -> Iterator[None]:
    """A forward's loss never reaches the engine: another, already seen one of zeros goes in its place."""
    with _clock() as clock, contextlib.ExitStack() as stack:
        for engine in (DeepSpeedEngine, AccelerateEngine):
            real = engine.backward

            def backward(self, loss, weight, last, real=real):
                if rank == RANK and not last and float(loss.detach()) and clock.strikes():
                    zeros = sum(
                        (p.sum() for p in self.module.parameters() if p.requires_grad), torch.zeros(())
                    )
                    loss, weight = zeros * 0.0, 1.0
                real(self, loss, weight, last)

            stack.enter_context(mock.patch.object(engine, "backward", backward))
        yield


@contextlib.contextmanager
def rate_changed(rank: int) -> Iterator[None]:
    """The optimizer of every rank steps 1 % faster than told, in one step."""
    with _clock() as clock, contextlib.ExitStack() as stack:
        for engine in (DeepSpeedEngine, AccelerateEngine):
            real = engine.step

            def step(self, real=real):
                if clock.strikes():
                    for group in self.optimizer.param_groups:
                        group["lr"] *= 1.01
                return real(self)

            stack.enter_context(mock.patch.object(engine, "step", step))
        yield


@contextlib.contextmanager
def loss_weight_wrong(rank: int) -> Iterator[None]:
    """A forward's loss is divided as if the accumulation were one longer."""
    with _clock() as clock, contextlib.ExitStack() as stack:
        for engine in (DeepSpeedEngine, AccelerateEngine):
            real = engine.backward

            def backward(self, loss, weight, last, real=real):
                wrong = rank == RANK and float(loss.detach()) and clock.strikes()
                real(self, loss, weight * (0.75 if wrong else 1.0), last)

            stack.enter_context(mock.patch.object(engine, "backward", backward))
        yield


@contextlib.contextmanager
def token_altered_in_model(rank: int) -> Iterator[None]:
    """A token changes between batch and embedding, inside the model: the collator is innocent."""
    from transformers import LlamaForCausalLM

    with _clock() as clock:
        real = LlamaForCausalLM.forward

        def forward(self, input_ids=None, **rest):
            if rank == RANK and torch.is_grad_enabled() and input_ids.shape[1] > 2 and clock.strikes():
                input_ids = input_ids.clone()
                input_ids[0, 1] = (input_ids[0, 1] + 1) % 200 + 4
            return real(self, input_ids=input_ids, **rest)

        with mock.patch.object(LlamaForCausalLM, "forward", forward):
            yield


FAULTS: dict[str, Fault] = {
    "slot dropped": slot_dropped,
    "sample twice": sample_twice,
    "backward skipped": backward_skipped,
    "rate changed": rate_changed,
    "label mask lost": _collator_fault(_unmasked),
    "token altered": _collator_fault(_altered),
    "positions run on": _collator_fault(_run_on),
    "borders lost": _collator_fault(_joined),
    "sample cut": _collator_fault(_cut),
    "token altered in model": token_altered_in_model,
    "loss weight wrong": loss_weight_wrong,
}
