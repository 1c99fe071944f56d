"""What every stack is measured with, in its own process and environment: torch, numpy, the standard library.

Tokens are counted as they enter the embedding, time is taken as the optimizer has stepped, the gradient as it
is about to. No stack is asked for its own numbers.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

PADDING = 0
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TABLES = ["embed_tokens", "lm_head"]
COLUMNS = ("wall_seconds", "cpu_seconds", "real_tokens", "token_slots", "forwards")
PACKAGES = [
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "trl",
    "llamafactory",
    "ms-swift",
    "unsloth",
]


class Job:
    """One run of one stack, as the job file says it (benchmarks/peers.py writes it).

    model: folder. samples: JSON lines of input_ids and labels, in the order of the run. dtype, gemm: of the
    matrices, and "medium" for torch's faster float32. rows, forwards: rows of a forward, forwards of a step.
    steps: optimizer steps. packed: tokens of a packed row; 0: one sample a row. gradients: a file for the
    gradients of the two tables, which are then all that is wanted. device: cpu or cuda. random: weights are
    made on the device, and the model's folder has none. out: the result.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.model: str = values["model"]
        self.folder: str = values["folder"]
        self.task: str = values["task"]
        self.dtype: str = values["dtype"]
        self.gemm: str = values["gemm"]
        self.rows: int = values["rows"]
        self.forwards: int = values["forwards"]
        self.steps: int = values["steps"]
        self.packed: int = values["packed"]
        self.checkpointing: bool = values["checkpointing"]
        self.dropout: float = values["dropout"]
        self.gradients: str | None = values["gradients"]
        self.out: str = values["out"]
        self.device: str = values["device"]
        self.random: bool = values["random"]
        self.config: str | None = values.get("config")
        self._samples: str = values["samples"]

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]

    def samples(self) -> list[dict[str, list[int]]]:
        """Of the whole run, in order."""
        with open(self._samples, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def trainer_arguments(self) -> dict[str, Any]:
        """What every descendant of the HF Trainer is told alike."""
        return {
            "output_dir": self.folder,
            "per_device_train_batch_size": self.rows,
            "gradient_accumulation_steps": self.forwards,
            "max_steps": self.steps,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "cosine",
            "max_grad_norm": 0.0 if self.gradients else 1.0,
            "bf16": self.dtype == "bfloat16",
            "use_cpu": self.device == "cpu",
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
        }

    def lora(self) -> dict[str, Any]:
        """LoRA on all seven matrices, both tables trained: peft's words."""
        named = {"r": 64, "lora_alpha": 128, "lora_dropout": self.dropout, "target_modules": TARGETS}
        return named | {"modules_to_save": TABLES, "task_type": "CAUSAL_LM"}


class Clock:
    """Marks every optimizer step, and writes the result with the last one."""

    def __init__(self, job: Job, *, ends_process: bool) -> None:
        self.job = job
        self._ends_process = ends_process
        self._tokens = torch.zeros((), dtype=torch.int64)
        self._slots = self._forwards = 0
        self._embedding: nn.Parameter | None = None
        self._marks: list[list[float]] = []
        self._plain = nn.Embedding.forward
        nn.Embedding.forward = self._counted(self._plain)
        register_optimizer_step_pre_hook(self._before)
        register_optimizer_step_post_hook(self._after)
        self._mark()

    def _counted(self, plain: Any) -> Any:
        def forward(module: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
            self._embedding = module.weight
            self._tokens = self._tokens.to(ids.device) + torch.count_nonzero(
                ids
            )  # read with the step, not here
            self._slots += ids.numel()
            self._forwards += 1
            return plain(module, ids)

        return forward

    def _mark(self) -> None:
        tokens = int(self._tokens)
        if self.job.device != "cpu":
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        self._marks.append([*now, tokens, self._slots, self._forwards])

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.job.gradients and len(self._marks) == 1:
            trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            tables = {p.shape for p in trained if p is self._embedding}
            found = {
                "embed_tokens" if p is self._embedding else "lm_head": p.grad.float().cpu().numpy()
                for p in trained
                if p.shape in tables
            }
            np.savez(self.job.gradients, **found)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._mark()
        if len(self._marks) == self.job.steps + 1:
            self._write(optimizer)
            if self._ends_process:
                sys.stdout.flush()
                os._exit(0)

    def _write(self, optimizer: torch.optim.Optimizer) -> None:
        trained: dict[str, int] = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = str(parameter.dtype).removeprefix("torch.")
                trained[name] = trained.get(name, 0) + parameter.numel()
        result = {
            "steps": [
                dict(zip(COLUMNS, step, strict=True))
                for step in (
                    [after - before for before, after in zip(*pair, strict=True)]
                    for pair in zip(self._marks, self._marks[1:], strict=False)
                )
            ],
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_device_bytes": torch.cuda.max_memory_allocated() if self.job.device != "cpu" else 0,
            "trained_numbers": trained,
            "gemm": torch.get_float32_matmul_precision(),
            "threads": torch.get_num_threads(),
            "versions": versions(PACKAGES),
        }
        Path(self.job.out).write_text(json.dumps(result, indent=1), encoding="utf-8")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed here."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def begin(*, ends_process: bool = True) -> Job:
    """The job that the command line names, with a clock running; on a CPU with one thread."""
    with open(sys.argv[1], encoding="utf-8") as file:
        job = Job(json.load(file))
    if job.device == "cpu":
        torch.set_num_threads(1)
    if job.random:
        _random_weights(job.device)
    if job.gemm != "highest":
        torch.set_float32_matmul_precision(job.gemm)
    Clock(job, ends_process=ends_process)
    return job


def _random_weights(device: str) -> None:
    """Models are made on the device instead of read: a 7B would be 13 GB through a disk."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def made(path: str, *, config: Any = None, output_loading_info: bool = False, **given: Any) -> Any:
        kept = {name: given[name] for name in ("dtype", "attn_implementation") if name in given}
        torch.manual_seed(42)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config or AutoConfig.from_pretrained(path), **kept)
        info: dict[str, set[str]] = {
            name: set() for name in ("missing_keys", "unexpected_keys", "mismatched_keys")
        }
        return (model, info) if output_loading_info else model

    AutoModelForCausalLM.from_pretrained = made


def in_order(trainer: type) -> None:
    """A Trainer that takes its rows in the order in which they lie: every stack's step has the same ones."""
    from torch.utils.data import SequentialSampler

    trainer._get_train_sampler = lambda self, rows=None: SequentialSampler(rows or self.train_dataset)  # type: ignore[attr-defined]
