"""The files of one shape's work, for all stacks: model, data, the samples as crossfoot's index has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossfoot.arithmetic.schedule import Schedule
from workload import LONGEST, SAMPLES_PER_STEP, SHAPES, write_holes, write_work

SAMPLES = 256
SEED = 42


def order_of(count: int) -> np.ndarray:
    """Ids in the order of crossfoot's first epoch, int64; it is the same for every batch."""
    schedule = Schedule(count, SAMPLES_PER_STEP, SEED, "short", epochs=1)
    return np.concatenate([schedule.samples(step) for step in range(schedule.total_steps)])


@dataclass(frozen=True)
class Work:
    """A folder of work, made when it is first asked for."""

    folder: Path

    @classmethod
    def at(cls, folder: Path, shape: str, *, samples: int = SAMPLES, random: bool = False) -> Work:
        """The work of a shape below `folder`. random: the weights are made on the device, and the file is
        a header before a hole.
        """
        work = cls(folder / shape)
        if not (work.model / "model.safetensors").exists():
            write_work(work.folder, SHAPES[shape], order_of(samples))
            if random:
                write_holes(work.model / "model.safetensors", SHAPES[shape])
            else:
                work._write_weights()
        return work

    @property
    def model(self) -> Path:
        """A Hugging Face folder with random float32 weights."""
        return self.folder / "model"

    def samples(self, task: str, *, first_step: bool) -> Path:
        """JSON lines of input_ids and labels, in the order in which crossfoot trains them."""
        file = self.folder / (f"{task}-first.jsonl" if first_step else f"{task}-ordered.jsonl")
        if not file.exists():
            self._order(task, file, SAMPLES_PER_STEP if first_step else None)
        return file

    def write_config(self, folder: Path, job: dict[str, Any]) -> Path:
        """crossfoot's config for a job, as JSON, which is YAML too. One process: the accelerate engine."""
        config: dict[str, Any] = {
            "run": {"name": "benchmark", "dir": str(folder / "run"), "seed": SEED},
            "model": {
                "path": job["model"],
                "dtype": job["dtype"],
                "gradient_checkpointing": job["checkpointing"],
            },
            "data": {
                "task": job["task"],
                "train": [str(self.folder / f"{job['task']}.jsonl")],
                "max_seq_len": LONGEST,
                "layout": "packed" if job["packed"] else "padded",
                "index_dir": str(self.folder / f"index-{job['task']}"),
            },
            "batch": {"micro_batch_size": job["rows"], "grad_accum_steps": job["forwards"]},
            "cluster": {"num_nodes": 1, "gpus_per_node": 1},
            "lr": {"reference": 1e-4},
            "optimizer": {"max_grad_norm": 0.0 if job["gradients"] else 1.0},
            "lora": {"dropout": job["dropout"], "modules_to_save": ["embed_tokens", "lm_head"]},
            "train": {"max_steps": job["steps"]},
            "checkpoint": {"every_steps": None},
        }
        path = folder / "config.yaml"
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        return path

    def _write_weights(self) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(SEED)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.model)).save_pretrained(self.model)

    def _order(self, task: str, file: Path, count: int | None) -> None:
        from crossfoot.cli import main
        from crossfoot.index.store import open_index

        job = {
            "model": str(self.model),
            "dtype": "float32",
            "task": task,
            "rows": 1,
            "forwards": SAMPLES_PER_STEP,
        }
        job |= {"packed": 1, "checkpointing": False, "gradients": None, "dropout": 0.0, "steps": 1}
        config = self.write_config(self.folder, job)
        if main(["index", str(config)]):
            raise SystemExit("the samples cannot be indexed")
        (folder,) = (self.folder / f"index-{task}").iterdir()
        index = open_index(str(folder))
        with file.open("w", encoding="utf-8") as out:
            for number in order_of(index.num_samples)[:count].tolist():
                ids, trained = index.sample(number)
                labels = np.where(trained, ids, -100)
                row = {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": labels.tolist()}
                out.write(json.dumps(row) + "\n")
