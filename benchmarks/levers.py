"""What each lever brings on one rank of a CPU: `python benchmarks/levers.py` prints the table, and writes it.

One optimizer step of eight instructions, shape S (hidden 512, 8 layers, 55,296 tokens), LoRA r 64 on all
seven projections with dropout 0.05, embed_tokens and lm_head trained. As shipped, and with one lever taken
back; in turn, on the same samples; CPU seconds. A ratio is the median over rounds of (lever taken back / as
shipped).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("ACCELERATE_USE_CPU", "true")

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from crossfoot.models import head_loss
from crossfoot.models.adapt import prepare_training
from crossfoot.models.load import load_model
from crossfoot.models.quiet import hush_libraries
from crossfoot.output import say
from crossfoot.training.batches import collate
from crossfoot.training.cpu_compute import matmul, probe
from crossfoot.training.cpu_memory import keep_memory
from crossfoot.training.engine import AccelerateEngine
from crossfoot.training.loss import SummedLoss
from crossfoot.training.optimizer import build_optimizer
from crossfoot.written.config import Config
from measuring import load, save

SAMPLES, LONGEST, VOCABULARY, DROPOUT = 8, 512, 55_296, 0.05


class Samples:
    """Instructions as long as real ones: median 117 tokens, mean 158; a third of each is the prompt."""

    def sample(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(token ids, which of them are trained)."""
        draws = np.random.default_rng(number)
        length = int(np.clip(draws.lognormal(np.log(117), 0.75), 16, LONGEST))
        ids = (draws.zipf(1.3, length) % VOCABULARY).astype(np.int32)
        return ids, np.arange(length) > 0.3 * length


def engine_of(folder: str, dtype: str) -> AccelerateEngine:
    """The engine of a run, as `crossfoot train` builds it for one process."""
    section = {"r": 64, "alpha": 128, "dropout": DROPOUT, "modules_to_save": ["embed_tokens", "lm_head"]}
    config = Config.model_validate(
        {"run": {"name": "levers"}, "data": {"train": ["-"]}, "model": {"path": folder, "dtype": dtype}}
        | {"batch": {"micro_batch_size": SAMPLES, "grad_accum_steps": 1}, "lr": {"reference": 1e-4}}
        | {"lora": section, "train": {"max_steps": 1}}
    )
    words: dict[str, Any] = {"vocabulary": VOCABULARY, "zero_stage": 0, "deepspeed_config": None}
    loaded = load_model(config, folder, **words, report=lambda line: None)
    model = prepare_training(config, loaded, lambda line: None, trained_dtype="float32")
    return AccelerateEngine(SummedLoss(model), build_optimizer(model, config.optimizer), dtype, 1.0)


def step(engine: AccelerateEngine, number: int, *, packed: bool = True, slots: int = 1) -> int:
    """One optimizer step; its real tokens."""
    ids = np.arange(SAMPLES) + SAMPLES * number
    engine.set_rate(1e-4)
    torch.manual_seed(number)
    for slot in np.split(ids, slots):
        engine.backward(engine.forward(collate(Samples(), slot, packed=packed)), 1e-3, last=True)
    engine.step()
    return sum(len(Samples().sample(one)[0]) for one in ids)


@contextmanager
def torch_dropout(engine: AccelerateEngine) -> Iterator[None]:
    """torch's own dropout in place of four draws from one word."""
    places = [module.lora_dropout for module in engine.module.modules() if hasattr(module, "lora_dropout")]
    ours = [dict(place.items()) for place in places]
    for place in places:
        place["default"] = nn.Dropout(DROPOUT)
    yield
    for place, before in zip(places, ours, strict=True):
        place.update(before)


@contextmanager
def whole_logits(engine: AccelerateEngine) -> Iterator[None]:
    """The logits of all tokens at once."""
    before, head_loss.CHUNK_TOKENS = head_loss.CHUNK_TOKENS, SAMPLES * LONGEST
    yield
    head_loss.CHUNK_TOKENS = before


@contextmanager
def checkpointing(engine: AccelerateEngine) -> Iterator[None]:
    """Activations computed again in the backward."""
    base = engine.module.model.get_base_model()
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    yield
    base.activation_checkpointing_disable()


def levers(engine: AccelerateEngine) -> dict[str, Callable[[int], int]]:
    """What is taken back -> a step of that number."""

    def within(lever: Callable[[AccelerateEngine], Any]) -> Callable[[int], int]:
        def run(number: int) -> int:
            with lever(engine):
                return step(engine, number)

        return run

    return {
        "as shipped": lambda number: step(engine, number),
        "float32 by torch's own library": within(lambda _: matmul("highest")),
        "torch's dropout": within(torch_dropout),
        "logits of all tokens at once": within(whole_logits),
        "with gradient checkpointing": within(checkpointing),
        "one sample a forward": lambda number: step(engine, number, slots=SAMPLES),
        "padded, 8 samples a forward": lambda number: step(engine, number, packed=False),
    }


def measure(dtype: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each lever."""
    with tempfile.TemporaryDirectory() as folder:
        shape = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8}
        shape |= {"intermediate_size": 1408, "vocab_size": VOCABULARY}
        LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
        engine = engine_of(folder, dtype)
    steps = levers(engine)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    tokens: list[int] = []
    for number in range(rounds + 1):  # the first is for memory and caches
        for name, take in steps.items():
            began = time.process_time()
            tokens.append(take(number))
            seconds[name].append((time.process_time() - began) / tokens[-1])
    shipped = seconds["as shipped"][1:]
    rows = []
    for name, found in seconds.items():
        ratios = sorted(one / other for one, other in zip(found[1:], shipped, strict=True))
        row = {"dtype": dtype, "lever taken back": name, "rounds": rounds}
        row["real_tokens_per_cpu_second"] = round(1 / statistics.median(found[1:]), 1)
        row["times_as_long"] = round(statistics.median(ratios), 3)
        row["spread"] = [round(ratios[0], 3), round(ratios[-1], 3)]
        rows.append(row)
    return rows


def main() -> None:
    """Measure both precisions, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    words = parser.parse_args()
    hush_libraries()
    keep_memory(os.environ)
    torch.set_num_threads(1)
    found = probe()
    rows: list[dict[str, Any]] = []
    for dtype in words.dtypes:
        AcceleratorState._reset_state(reset_partial_state=True)
        with matmul("medium"):
            rows += measure(dtype, words.rounds)
    say(f"{'':36}{'tokens/CPU s':>14}{'times as long':>15}   least and most")
    for row in rows:
        label = f"{row['dtype']:9} {row['lever taken back']}"
        low, high = row["spread"]
        speed, ratio = row["real_tokens_per_cpu_second"], row["times_as_long"]
        say(f"{label:42}{speed:>8.0f}{ratio:>11.2f}        {low:.2f} {high:.2f}")
    kept = load("levers") or {"rows": ()}  # the other precision's stay
    rows = [row for row in kept["rows"] if row["dtype"] not in words.dtypes] + rows
    save("levers", {"matmul": vars(found), "rows": rows})


if __name__ == "__main__":
    main()
