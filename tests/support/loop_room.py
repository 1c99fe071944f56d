"""One small model and one set of files for all tests of the loop; the indexes are made once too."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import plain_torch
from support.launching import ROOT, write_samples
from support.plain_torch import Sample

LONGEST = 165
"""data.max_seq_len: all questions fit, and one answer does not."""


@dataclass(frozen=True)
class Room:
    """What all runs share. values: of a config whose run has no folder yet."""

    values: dict[str, Any]

    def config(self, **sections: Any) -> dict[str, Any]:
        """The values with these sections laid over them; None leaves a section out."""
        values = copy.deepcopy(self.values)
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
        return {name: section for name, section in values.items() if section is not None}

    def validated(self, **sections: Any) -> dict[str, Any]:
        """One rank, 4 samples a step, LoRA and both tables, validation data; then these sections in place of
        those.
        """
        validation = str(self.values["data"]["train"][0]).replace("questions", "validation")
        common = {
            "data": {"validation": [validation]},
            "batch": {"micro_batch_size": 4, "global_batch_size": 4},
            "cluster": {"num_nodes": 1, "gpus_per_node": 1},
            "lr": {"reference": 0.01},
            "lora": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
            "checkpoint": {"every_steps": 1, "keep": 3},
        }
        return self.config(**{**common, **sections})

    def samples(self, config: dict[str, Any], part: str = "train") -> list[Sample]:
        """The samples of a config's data, made by the plain road."""
        lines = Path(config["data"][part][0]).read_text(encoding="utf-8").splitlines()
        make = {"sft": plain_torch.instructions, "pretrain": plain_torch.blocks}
        task = config["data"].get("task", "sft")
        return make[task]([json.loads(line) for line in lines], config["data"]["max_seq_len"])


def furnish(folder: Path) -> Room:
    """26 questions of which one is cut, 5 more to validate on, 4 texts, and the model."""
    questions = write_samples(folder / "questions.jsonl", 25)
    long = {
        "instruction": "count",
        "input": "",
        "output": "one two three four five six seven eight nine ten eleven twelve",
    }
    with questions.open("a", encoding="utf-8") as file:
        file.write(json.dumps(long) + "\n")
    write_samples(folder / "validation.jsonl", 5, seed=1)
    texts = [{"text": text * 7} for text in ("red river. ", "月山水。", "seven eight nine. ", "花鸟")]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)) + "\n", encoding="utf-8")
    return Room(
        {
            "run": {"name": "loop", "seed": 7},
            "model": {
                "path": str(plain_torch.tiny_llama(folder / "llama")),
                "dtype": "float32",
                "matmul": "highest",
            },
            "tokenizer": {"path": "builtin:tiny"},
            "data": {"train": [str(questions)], "max_seq_len": LONGEST, "index_dir": str(folder / "index")},
            "deepspeed": str(ROOT / "ds_configs" / "zero2.json"),
            "optimizer": {"name": "sgd", "max_grad_norm": 0.0},
            "checkpoint": {"every_steps": None},
        }
    )
