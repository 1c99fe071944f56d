"""A proof in one process: an engine that plays several ranks one after the other, and mistakes to put around
it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from crossfoot.arithmetic.layout import Layout, PackedLayout, PaddedLayout
from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.metering.update import Update
from crossfoot.models.adapt import prepare_training
from crossfoot.models.attention import SEGMENT_ATTENTION
from crossfoot.models.load import load_model
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.probing.compare import BOUNDS
from crossfoot.probing.proof import RATE, Subject, fill_lora_b, prove_gradient
from crossfoot.probing.reference import Reference
from crossfoot.probing.samples import proof_batch
from crossfoot.probing.verdict import Verdict
from crossfoot.training import loop
from crossfoot.training.batches import Batch
from crossfoot.training.engine import AccelerateEngine, Engine
from crossfoot.training.loss import SummedLoss
from crossfoot.written.config import Config
from crossfoot.written.model_facts import TINY_VOCABULARY

LORA = {"r": 4, "alpha": 8, "modules_to_save": ["embed_tokens", "lm_head"]}


class SerialEngine(Engine):
    """Ranks played one after the other on one model: the gradients of all are averaged at the last one's
    step.
    """

    kind = "serial"

    def __init__(self, model: torch.nn.Module, dp_degree: int) -> None:
        self.dp_degree, self.device = dp_degree, torch.device("cpu")
        self.module = self._callable = SummedLoss(model)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(self._trained, lr=0.0)
        self.rank = 0
        self.averages = self.clears = True

    def backward(self, loss: torch.Tensor, weight: float, last: bool) -> None:
        (loss * weight).backward()

    def step(self) -> Update:
        self.rank = (self.rank + 1) % self.dp_degree
        if self.rank == 0:
            for parameter in self._trained:
                if parameter.grad is not None and self.averages:
                    parameter.grad /= self.dp_degree
            self.optimizer.step()
            if self.clears:
                self.optimizer.zero_grad()
            else:
                for parameter in self._trained:
                    if parameter.grad is not None:
                        parameter.grad *= self.dp_degree  # each of the ranks is left with the average
        return Update(lambda: 0.0)

    def read_back(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Case:
    """A layout to prove: the plan's dp_degree, accumulation and micro batch; folded into one rank or not.
    by_tokens: a slot is limited by tokens.
    """

    dp_degree: int
    grad_accum_steps: int
    micro_batch_size: int
    folded: bool = False
    packed: bool = True
    lora: bool = True
    seed: int = 7
    by_tokens: bool = False

    @property
    def layout(self) -> Layout:
        """Of what runs."""
        places = (self.dp_degree, self.grad_accum_steps, self.micro_batch_size)
        if self.folded:
            places = (1, self.grad_accum_steps * self.dp_degree, self.micro_batch_size)
        tokens = 48 * self.micro_batch_size if self.by_tokens else None
        return PackedLayout(*places, 914, self.dp_degree, tokens) if self.packed else PaddedLayout(*places)


def proof_config(
    folder: Path, lora: Mapping[str, Any] | None = LORA, seed: int = 7, layout: str = "packed"
) -> Config:
    """A config on builtin:tiny, written into `folder`."""
    sections: dict[str, Any] = {
        "run": {"name": "proof", "seed": seed},
        "model": {"path": str(write_tiny_model(folder / "tiny")), "dtype": "float32"},
        "data": {"train": ["no-such-file.jsonl"], "layout": layout},
        "batch": {"micro_batch_size": 1, "grad_accum_steps": 1},
        "lr": {"reference": 1.0},
        "train": {"max_steps": 1},
    }
    if lora is not None:
        sections["lora"] = lora
    return Config.model_validate(sections)


def prove_in_process(folder: Path, case: Case, fault: InProcess | None = None) -> Verdict:
    """The proof of one layout, in this process: SerialEngine, or accelerate's when folded."""
    config = proof_config(
        folder, LORA if case.lora else None, case.seed, "packed" if case.packed else "padded"
    )
    path = config.model.path
    loaded = load_model(
        config, path, vocabulary=0, zero_stage=0, deepspeed_config=None, report=lambda line: None
    )
    model = prepare_training(config, loaded, lambda line: None, trained_dtype="float32")
    if fault is not zero_group:
        fill_lora_b(model, case.seed)
    layout = case.layout
    batch = proof_batch(layout, vocabulary=TINY_VOCABULARY, longest=48, seed=case.seed, rate=RATE)
    engine: Engine
    if case.folded:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        engine = AccelerateEngine(SummedLoss(model), optimizer, "float32", 0.0)
    else:
        engine = SerialEngine(model, layout.dp_degree)

    def take_step(planned: loop.PlannedStep) -> None:
        for rank in range(layout.dp_degree):
            loop.run_step(engine, batch.index, planned, rank, None, case.packed)

    subject = Subject(
        model=model,
        take_step=take_step,
        make_reference=lambda: Reference(config, path, 0, torch.device("cpu")),
        is_first=True,
        layout=layout,
        grad_accum_steps=case.grad_accum_steps,
        dp_degree=case.dp_degree,
        bound=BOUNDS["float32"],
    )
    with fault(engine, case) if fault is not None else contextlib.nullcontext():
        verdict = prove_gradient(subject, batch)
    assert verdict is not None
    return verdict


InProcess = Callable[[Engine, Case], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def weights_times(engine: Engine, share: Callable[[Batch, int], float]) -> Iterator[None]:
    """The engine multiplies each forward's loss with `share` of (its batch, its trained tokens) instead of
    the weight it is given.
    """
    seen: list[Batch] = []
    forward, backward = engine.forward, engine.backward

    def noting(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return forward(batch)

    def weighing(loss: torch.Tensor, weight: float, last: bool) -> None:
        tokens = int((seen[-1].labels != IGNORED_LABEL).sum())
        backward(loss, share(weight, tokens), last)

    with (
        mock.patch.object(engine, "forward", noting),
        mock.patch.object(engine, "backward", weighing),
    ):
        yield


def mean_of_means(engine: Engine, case: Case) -> contextlib.AbstractContextManager[None]:
    """Every forward's loss is its own mean, divided by the accumulation."""
    return weights_times(engine, lambda _, tokens: tokens and 1 / (tokens * case.layout.grad_accum_steps))


def missing_dp_factor(engine: Engine, case: Case) -> contextlib.AbstractContextManager[None]:
    """The average over ranks is not made up for."""
    return weights_times(engine, lambda weight, _: weight / case.dp_degree)


def accumulation_twice(engine: Engine, case: Case) -> contextlib.AbstractContextManager[None]:
    """The engine divides by the accumulation as well."""
    return weights_times(engine, lambda weight, _: weight / case.grad_accum_steps)


def sum_of_ranks(engine: Engine, case: Case) -> contextlib.AbstractContextManager[None]:
    """Gradients are summed over ranks."""
    return mock.patch.object(engine, "averages", False)


def not_cleared(engine: Engine, case: Case) -> contextlib.AbstractContextManager[None]:
    """The gradients of a step are still there in the next one."""
    return mock.patch.object(engine, "clears", False)


@contextlib.contextmanager
def dropped_tail(*_: object) -> Iterator[None]:
    """The last slot of every step, which is the last rank's, comes out empty."""
    real_step, real_collate = loop.run_step, loop.collate

    def run_step(engine, index, planned, rank, *rest):
        last, tail = len(planned.slots) - 1, planned.slots[-1][-1].tolist()

        def collate(index, ids, **how):
            is_tail = rank == last and list(ids) == tail
            return real_collate(index, [] if is_tail else ids, **how)

        with mock.patch.object(loop, "collate", collate):
            return real_step(engine, index, planned, rank, *rest)

    with mock.patch.object(loop, "run_step", run_step):
        yield


@contextlib.contextmanager
def mask_lost(engine: Engine, case: Case) -> Iterator[None]:
    """Every token is trained, padding aside."""
    real = loop.collate

    def collate(index, ids, **how):
        batch = real(index, ids, **how)
        labels = batch.labels.clone()
        for row, start, end in batch.segments:
            labels[row, start + 1 : end] = batch.input_ids[row, start + 1 : end]
        columns = torch.arange(batch.input_ids.shape[1] - 1)
        return replace(batch, labels=labels, predicting=columns)

    with mock.patch.object(loop, "collate", collate):
        yield


@contextlib.contextmanager
def crossing(engine: Engine, case: Case) -> Iterator[None]:
    """Attention looks over the end of a sample, in a packed row."""
    real = ALL_ATTENTION_FUNCTIONS[SEGMENT_ATTENTION]

    def attention(*args, segment_ends=None, **options):
        return real(*args, segment_ends=segment_ends and segment_ends[-1:], **options)

    with mock.patch.dict(ALL_ATTENTION_FUNCTIONS._local_mapping, {SEGMENT_ATTENTION: attention}):
        yield


@contextlib.contextmanager
def crossing_with_positions(engine: Engine, case: Case) -> Iterator[None]:
    """The same, and the collator numbers a row's tokens through."""
    real = loop.collate

    def collate(index, ids, **how):
        batch = real(index, ids, **how)
        return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1])[None])

    with crossing(engine, case), mock.patch.object(loop, "collate", collate):
        yield


def zero_group(engine: Engine, case: Case) -> contextlib.AbstractContextManager[None]:
    """Fresh LoRA matrices B stay zero, so A has no gradient (`prove_in_process` leaves them)."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def clipped(engine: Engine, case: Case) -> Iterator[None]:
    """Someone clips."""
    real = engine.step

    def step():
        if engine.rank == case.dp_degree - 1:
            torch.nn.utils.clip_grad_norm_(engine._trained, 0.01)
        return real()

    with mock.patch.object(engine, "step", step):
        yield
