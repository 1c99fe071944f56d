"""Many proofs in one set of ranks, to pay for the imports once: `deepspeed --num_gpus W many_proofs.py
JOBS.json`.

JOBS.json is a list of {name, config, overrides, fault}. Every proof is crossfoot's own session; only the
process group is kept between them. Rank 0's page, as JSON, goes to NAME.json beside JOBS.json, with the exit
code of every rank in it.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from unittest import mock

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.environment.world import read_world
from crossfoot.models.attention import SEGMENT_ATTENTION
from crossfoot.probing import proof, session
from crossfoot.rendezvous import ranks as ranks_module
from crossfoot.training import loop
from crossfoot.training.engine import DeepSpeedEngine
from support.proving import dropped_tail


def sum_instead_of_mean(rank: int) -> contextlib.AbstractContextManager[object]:
    """DeepSpeed is told to sum gradients, behind the back of the check."""
    real = session.resolve_deepspeed
    summing = {"gradient_allreduce_op": "sum"}
    return mock.patch.object(session, "resolve_deepspeed", lambda *words: {**real(*words), **summing})


def accumulation_twice(rank: int) -> contextlib.AbstractContextManager[object]:
    """DeepSpeed divides the loss by the accumulation, as it does when nobody stops it."""

    def backward(self, loss, weight, last):
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * weight)
        if not last:
            self._engine.step()

    return mock.patch.object(DeepSpeedEngine, "backward", backward)


def missing_dp_factor(rank: int) -> contextlib.AbstractContextManager[object]:
    """The loss does not make up for the average over ranks."""
    real = DeepSpeedEngine.backward

    def backward(self, loss, weight, last):
        real(self, loss, weight / self.dp_degree, last)

    return mock.patch.object(DeepSpeedEngine, "backward", backward)


@contextlib.contextmanager
def mean_of_means(rank: int) -> Iterator[None]:
    """Every forward is divided by its own tokens, and by the accumulation."""
    forward, backward = DeepSpeedEngine.forward, DeepSpeedEngine.backward
    tokens = [0]

    def counting(self, batch):
        tokens[0] = int((batch.labels != IGNORED_LABEL).sum())
        return forward(self, batch)

    def weighing(self, loss, weight, last):
        accum = self._engine.gradient_accumulation_steps()
        backward(self, loss, 1 / (tokens[0] * accum) if tokens[0] else 0.0, last)

    with (
        mock.patch.object(DeepSpeedEngine, "forward", counting),
        mock.patch.object(DeepSpeedEngine, "backward", weighing),
    ):
        yield


def zero_group(rank: int) -> contextlib.AbstractContextManager[object]:
    """Fresh LoRA matrices B stay zero."""
    return mock.patch.object(proof, "fill_lora_b", lambda model, seed: 0)


@contextlib.contextmanager
def attention_crosses(rank: int) -> Iterator[None]:
    """In a packed row attention looks over the end of a sample."""
    real = ALL_ATTENTION_FUNCTIONS[SEGMENT_ATTENTION]

    def attention(*args, segment_ends=None, **options):
        return real(*args, segment_ends=segment_ends and segment_ends[-1:], **options)

    with mock.patch.dict(ALL_ATTENTION_FUNCTIONS._local_mapping, {SEGMENT_ATTENTION: attention}):
        yield


@contextlib.contextmanager
def positions_run_on(rank: int) -> Iterator[None]:
    """The same, and the tokens of a row are numbered through."""
    real = loop.collate

    def collate(index, ids, **how):
        batch = real(index, ids, **how)
        return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1])[None])

    with attention_crosses(rank), mock.patch.object(loop, "collate", collate):
        yield


FAULTS: dict[str, Callable[[int], contextlib.AbstractContextManager[object]]] = {
    "sum instead of mean": sum_instead_of_mean,
    "accumulation twice": accumulation_twice,
    "missing dp factor": missing_dp_factor,
    "mean of means": mean_of_means,
    "dropped tail": dropped_tail,
    "zero group": zero_group,
    "attention crosses": attention_crosses,
    "positions run on": positions_run_on,
}


def main(jobs_path: str) -> int:
    """Prove all jobs; every rank must come to the same exit code."""
    world = read_world(os.environ)
    join, leave = ranks_module.join, ranks_module.Ranks.leave
    joined = lru_cache(maxsize=None)(lambda engine_kind: join(world, engine_kind, os.environ))
    ranks_module.join = lambda world, engine_kind, environ: joined(engine_kind)
    ranks_module.Ranks.leave = lambda self: self.gather(None, type(None)) and None
    for job in json.loads(Path(jobs_path).read_text(encoding="utf-8")):
        said = io.StringIO()
        fault = FAULTS[job["fault"]](world.rank) if job.get("fault") else contextlib.nullcontext()
        with fault, contextlib.redirect_stdout(said):
            code = session.prove(job["config"], job["overrides"], world, full=False, as_json=True)
        codes = joined("deepspeed").gather(code, int)
        if world.rank == 0:
            page = {**json.loads(said.getvalue()), "exit_codes": codes}
            Path(jobs_path).with_name(f"{job['name']}.json").write_text(json.dumps(page), encoding="utf-8")
        gc.collect()
    leave(joined("deepspeed"))
    return 0


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    sys.exit(main(words[0]))
