"""The page beside what was trained: its script runs as it stands, in a process that has no crossfoot, and
asks the trained model with the ids of the index.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support import plain_torch
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

LORA = {"r": 4, "alpha": 6, "target_modules": ["q_proj"]}
BOTH = {**LORA, "modules_to_save": ["embed_tokens", "lm_head"]}
TEXTS = {"task": "pretrain", "max_seq_len": 24}
CASES: dict[str, dict[str, Any]] = {
    "a grown adapter": {"lora": BOTH},
    "a whole model": {},
    "an adapter of texts": {"lora": BOTH, "data": TEXTS},
    "bfloat16": {"lora": BOTH, "model": {"dtype": "bfloat16"}},
    "an adapter alone": {"lora": LORA, "model": {"path": "builtin:tiny"}, "tokenizer": None},
}
RUNS_ALL = """
import json, sys
told = {}
for page in sys.argv[1:]:
    names = {}
    code = open(page, encoding="utf-8").read()
    exec(compile(code, page, "exec"), names)
    with names["torch"].no_grad():
        logits = names["model"](names["torch"].tensor([names["ids"]])).logits[0, -1]
    told[page] = (names["ids"], names["new"], logits.float().tolist())
assert "crossfoot" not in sys.modules
sys.stderr.write("told: " + json.dumps(told))
"""


def test_every_script_asks_the_trained_model(
    room: Room, trains: Callable[..., Watched], tmp_path: Path
) -> None:
    scripts, trained = {}, {}
    for name, sections in CASES.items():
        config = room.config(
            deepspeed=None,
            batch={"micro_batch_size": 2, "global_batch_size": 4},
            lr={"reference": 0.5},
            train={"max_steps": 2},
            **{**sections, "data": {**texts(room, sections), **sections.get("data", {})}},
        )
        seen = trains(config, name)
        assert seen.exit_code == 0
        folder = seen.run_dir / ("adapter" if "lora" in sections else "model")
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert page.startswith("A LoRA adapter" if "lora" in sections else "A whole model")
        (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        scripts[name] = tmp_path / f"{name}.py"
        scripts[name].write_text(code, encoding="utf-8")
        trained[name] = (config, seen)
    told = run_all(list(scripts.values()), tmp_path)
    for name, (config, seen) in trained.items():
        ids, new, logits = told[str(scripts[name])]
        asked = "今天天气" if config["data"].get("task") else "介绍一下北京。"
        text = asked if config["data"].get("task") else plain_torch.PROMPT.format(question=asked)
        assert ids == [plain_torch.BEGIN, *plain_torch.tokens(text)], name
        assert 0 < len(new) <= 100
        if name != "an adapter alone":  # of which plain torch knows no base
            model = plain_torch.fresh_model(config)
            named = dict(model.named_parameters())
            with torch.no_grad():
                for tensor, value in seen.after[-1].items():
                    named[tensor].copy_(value)
                wanted = model.eval()(torch.tensor([ids])).logits[0, -1].float()
            bound = 0.05 if name == "bfloat16" else 1e-5
            assert (torch.tensor(logits) - wanted).abs().max() <= bound * wanted.abs().max(), name


def texts(room: Room, sections: dict[str, Any]) -> dict[str, Any]:
    questions = room.values["data"]["train"][0]
    is_text = "task" in sections.get("data", {})
    return {"train": [questions.replace("questions", "texts")]} if is_text else {}


def run_all(scripts: list[Path], folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", RUNS_ALL, *map(str, scripts)],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stderr.split("told: ")[-1])
    return told
