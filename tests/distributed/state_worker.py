"""Ranks of the checkpoint tests: train, save, load and train on, case after case in the same processes.

Not a test file. Started by torchrun with a JSON list of cases, or by plain python, when WORLD_SIZE is 1: then
accelerate's cases come first, before there is a process group. Each rank leaves one JSON file.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from model_worker import LiveBytes, config_of, deepspeed_values
from torch import nn

from crossfoot.checkpoints.store import list_checkpoints, newest_good
from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.findings.finding import Refused
from crossfoot.metering.meter import Meter
from crossfoot.metering.update import Update
from crossfoot.models.adapt import prepare_training
from crossfoot.models.load import load_model
from crossfoot.models.parameters import whole
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.training.batches import Batch
from crossfoot.training.engine import AccelerateEngine, DeepSpeedEngine, Engine
from crossfoot.training.loss import SummedLoss
from crossfoot.training.optimizer import build_optimizer
from crossfoot.training.restoring import load_checkpoint
from crossfoot.training.saving import CheckpointFacts, save_checkpoint
from crossfoot.training.state import TrainedState, trained_state
from crossfoot.written.config import OptimizerSection

SAMPLES_A_STEP = 6
"""Divided by 1, 2 and 3 ranks."""
MAX_GRAD_NORM = 0.5
CLIPPED = {"gradient_clipping": MAX_GRAD_NORM, "data_types": {"grad_accum_dtype": "fp32"}}


def sample(number: int) -> torch.Tensor:
    """Token ids of one sample; all but the first are trained."""
    draw = torch.Generator().manual_seed(number)
    return torch.randint(0, 61, (4 + number % 5,), generator=draw)


def batch_of(numbers: Sequence[int]) -> Batch:
    """Padded on the right."""
    samples = [sample(number) for number in numbers]
    input_ids = nn.utils.rnn.pad_sequence(samples, batch_first=True)
    labels = nn.utils.rnn.pad_sequence(samples, batch_first=True, padding_value=IGNORED_LABEL)
    labels[:, 0] = IGNORED_LABEL
    segments = tuple((row, 0, len(ids)) for row, ids in enumerate(samples))
    return Batch(input_ids, labels, torch.arange(input_ids.shape[1] - 1), segments)


def train_step(engine: Engine, step: int, ranks: Ranks) -> float:
    """One step over the same samples on any number of ranks, in two forwards each; its mean loss."""
    numbers = range(step * SAMPLES_A_STEP, (step + 1) * SAMPLES_A_STEP)
    tokens = sum(len(sample(number)) - 1 for number in numbers)
    engine.set_rate(1e-2 * (step + 1) / 6)
    mine = numbers[ranks.rank :: ranks.world_size]
    total = 0.0
    for forward in (0, 1):
        loss = engine.forward(batch_of(mine[forward::2]))
        total += loss.item()
        engine.backward(loss, engine.dp_degree / tokens, last=forward == 1)
    engine.step()
    return ranks.total(total)[0] / tokens


def built(case: dict[str, Any]) -> tuple[Engine, nn.Module]:
    """The engine of a case and the model in it."""
    stage, config = case.get("stage"), config_of(case)
    values = None
    if stage is not None:
        values = {**deepspeed_values(stage, config.model.dtype), **CLIPPED}
        if case.get("persistent"):  # small parameters stay whole on every rank, as by default
            values["zero_optimization"].pop("stage3_param_persistence_threshold")
        if config.model.dtype == "float32":
            values.pop("data_types")
        for what in case.get("offload", ()):
            values["zero_optimization"][f"offload_{what}"] = {"device": "cpu"}
    loaded = load_model(
        config,
        case["base"],
        vocabulary=0,
        zero_stage=stage or 0,
        deepspeed_config=values,
        report=lambda line: None,
    )
    model = prepare_training(config, loaded, lambda line: None, None if values else "float32")
    # A large eps: Adam would make a step of full size out of the rounding of a gradient that is nearly zero.
    section = {"name": case.get("optimizer", "adamw"), "weight_decay": 0.1, "eps": 1e-4}
    optimizer = build_optimizer(model, OptimizerSection.model_validate(section))
    if values is None:
        return AccelerateEngine(SummedLoss(model), optimizer, config.model.dtype, MAX_GRAD_NORM), model
    return DeepSpeedEngine(SummedLoss(model), optimizer, values), model


def everything(state: TrainedState) -> dict[str, np.ndarray]:
    """Every tensor of the state, whole."""
    return {
        tensor.stored_name: state.read(tensor.name, tensor.moment).numpy().copy()
        for tensor in state.tensors()
    }


def hashes(tensors: dict[str, np.ndarray]) -> dict[str, str]:
    """sha256 of every tensor; -0 counts as 0."""
    return {
        name: hashlib.sha256((value + 0.0).tobytes() + str(value.shape).encode()).hexdigest()
        for name, value in tensors.items()
    }


def low_precision_differs(model: nn.Module, state: TrainedState) -> list[str]:
    """Trained parameters whose value in the forward is not their float32 value rounded."""
    wrong = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = state.read(name, None)
            with whole([parameter]):
                if not torch.equal(parameter.detach(), value.to(parameter.dtype)):
                    wrong.append(name)
    return wrong


def counting_new_bytes() -> LiveBytes:
    """Counts what is made from now on: a view of a tensor that was there is nothing new."""
    counter = LiveBytes()
    there = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    counter.alive.update({tensor.untyped_storage()._cdata: 0 for tensor in there})
    return counter


def save(case: dict[str, Any], engine: Engine, model: nn.Module, step: int, ranks: Ranks) -> Any:
    """One save, under the case's trouble; what it said."""
    facts = CheckpointFacts("p" * 64, "b" * 64, case.get("attempt", 1), case.get("validation_loss"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ranks.rank == case.get("full_disk_on"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with counting_new_bytes() if case.get("measure") else nullcontext() as counter:
            saved = save_checkpoint(engine, model, case["save"], step, facts, ranks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return {
        "name": saved.checkpoint and saved.checkpoint.name,
        "finding": saved.finding and [saved.finding.code, saved.finding.title, *saved.finding.notes],
        "seconds": saved.seconds,
        "most_bytes": counter and counter.most,
    }


def flip_a_bit(folder: Path) -> None:
    """In the last file of a checkpoint, which another rank than 0 verifies; its size stays."""
    file = sorted(folder.glob("*.safetensors"))[-1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def load(case: dict[str, Any], engine: Engine, model: nn.Module, ranks: Ranks) -> dict[str, Any]:
    """Choose and load; what was seen, with what a meter saw meanwhile."""
    meter = Meter(engine.module, model.get_input_embeddings(), engine.optimizer, ranks.rank)
    if case.get("flip") and ranks.is_first:
        flip_a_bit(list_checkpoints(case["load"])[-1].folder)
    ranks.gather(None, type(None))
    checkpoint, findings = newest_good(case["load"], checksums=True)
    seen: dict[str, Any] = {"warnings": [[one.code, one.title, one.place.file] for one in findings]}
    if checkpoint is None:
        return {**seen, "refused": ["none"]}
    if ranks.rank == case.get("lost_on"):
        checkpoint = replace(checkpoint, folder=Path("/nowhere", checkpoint.name))
    ranks.gather(None, type(None))
    before = hashes(everything(trained_state(engine, model))) if case.get("expect_refusal") else None
    started = time.monotonic()
    try:
        load_checkpoint(engine, model, checkpoint, ranks)
    except Refused as refused:
        same = before == hashes(everything(trained_state(engine, model)))
        return {
            **seen,
            "refused": [[one.code, one.title, *one.notes] for one in refused.findings],
            "same": same,
        }
    closed = meter.end_step(0, Update(lambda: 0.0))
    state = trained_state(engine, model)
    return {
        **seen,
        "seconds": time.monotonic() - started,
        "name": checkpoint.name,
        "loaded": hashes(everything(state)),
        "steps_of_adam": state.optimizer_steps()[0],
        "low_precision_differs": low_precision_differs(model, state),
        "metered": [len(closed.forwards), len(closed.rates)],
    }


def run(case: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Load (or not), train, save after some step (or not); what this rank saw."""
    torch.manual_seed(1000 + ranks.rank)  # nothing may hang on the ranks' random states
    engine, model = built(case)
    seen: dict[str, Any] = {"losses": []}
    if "load" in case:
        seen |= load(case, engine, model, ranks)
        if "refused" in seen:
            return seen
    for step in range(*case["steps"]):
        if step in case.get("save_at", ()):
            seen["save"] = save(case, engine, model, step, ranks)
            seen["saved"] = hashes(everything(trained_state(engine, model)))
        seen["losses"].append(train_step(engine, step, ranks))
    final = everything(trained_state(engine, model))
    seen["final"] = hashes(final)
    if ranks.is_first and "keep" in case:
        np.savez(case["keep"], **final)
    return seen


def main(cases_file: str, out: str) -> None:
    """All cases, in order."""
    cases = json.loads(Path(cases_file).read_text())
    alone = [case for case in cases if case.get("stage") is None]
    results = [run(case, Ranks(0, 1, None)) for case in alone]
    rest = cases[len(alone) :]
    if rest:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            os.environ.setdefault(name, value)
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # an optimisation that compiles C++
        deepspeed.init_distributed("gloo", verbose=False)
        ranks = Ranks(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
        for case in rest:
            results.append(run(case, ranks))
            gc.collect()  # HfDeepSpeedConfig must be gone before a case without ZeRO-3
        ranks.leave()
    Path(out, f"rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
