"""The kinds of LoRA, trained by the loop and by plain torch with peft; what is saved, loaded by peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from crossfoot.merging.merge import merge
from crossfoot.models.export import export
from support import plain_torch
from support.loop_room import Room
from support.plain_torch import Step
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

TABLES = {"modules_to_save": ["embed_tokens", "lm_head"]}
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"scaling": "rslora", "target_modules": "all-linear", **TABLES},
    "dora": {"dora": True, "target_modules": ["q_proj", "down_proj"], **TABLES},
    "pissa": {"init": "pissa", "target_modules": "all-linear", **TABLES},
    "olora": {"init": "olora", "dora": True, "scaling": "rslora", "target_modules": ["q_proj", "down_proj"]}
    | TABLES,
    "rows": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 66, 256, 257, 258, 259]},
    "both": {"dora": True, "scaling": "rslora", "target_modules": "all-linear", **TABLES},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_trained_as_by_plain_torch(
    kind: str, room: Room, trains: Callable[..., Watched], tmp_path: Path
) -> None:
    values = room.config(
        lora={"r": 4, "alpha": 6, **KINDS[kind]},
        deepspeed=None,
        batch={"micro_batch_size": 2, "global_batch_size": 5},
        lr={"reference": 0.2, "schedule": "constant"},
        train={"max_steps": 4},
        checkpoint={"every_steps": 2},
    )
    seen = trains(values)
    assert seen.exit_code == 0
    model, start, steps = plainly(values, room)
    for name, value in start.items():
        assert (seen.start[name] - value).abs().max() <= 1e-6 * value.abs().max() * ("init" in KINDS[kind])
    before = start
    for after, step in zip(seen.after, steps, strict=True):
        shares = plain_torch.apart(after, step.after, before)
        assert max(shares.values()) < 1e-3, shares
        before = step.after
    for line, step in zip(seen.ledger, steps, strict=True):
        assert line["loss"] == pytest.approx(step.loss, rel=1e-5)

    ids = torch.arange(1, 40).reshape(1, -1)
    with torch.no_grad():
        wanted = model.eval()(ids).logits
        for folder in (seen.run_dir / "adapter", exported(seen.run_dir, tmp_path / "again")):
            base = AutoModelForCausalLM.from_pretrained(values["model"]["path"])
            base.resize_token_embeddings(plain_torch.PIECES, mean_resizing=False)
            loaded = PeftModel.from_pretrained(base, folder).eval()(ids).logits
            assert (loaded - wanted).abs().max() < 1e-5 * wanted.abs().max()
        assert merge(str(seen.run_dir), str(tmp_path / "merged")) == 0
        alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(ids).logits
        assert (alone - wanted).abs().max() < 1e-5 * wanted.abs().max()
    told = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert told["tokenizer"]["proven"] and told["logits"]["adapter"] > 0.01


@pytest.mark.parametrize("kind", ["both", "pissa", "rows"])
def test_a_stopped_run_goes_on_bitwise(kind: str, room: Room, trains: Callable[..., Watched]) -> None:
    values = room.config(
        lora={"r": 4, "alpha": 6, **KINDS[kind]},
        deepspeed=None,
        batch={"micro_batch_size": 2, "global_batch_size": 5},
        optimizer={"name": "adamw"},
        lr={"reference": 0.01},
        train={"max_steps": 4},
    )
    whole = trains(values, "whole")
    first = trains(values, "parts", stop_after=2)
    second = trains(values, "parts", continues=True)
    after = [*first.after, *second.after]
    assert len(after) == len(whole.after) == 4
    assert all(torch.equal(whole.after[-1][name], after[-1][name]) for name in whole.start)


def plainly(values: dict[str, Any], room: Room) -> tuple[Any, plain_torch.Tensors, list[Step]]:
    """The model after the steps in plain torch, its trained tensors before them, and the steps."""
    model = plain_torch.fresh_model(values)
    start = plain_torch.trained_of(model)
    return model, start, list(plain_torch.train(model, values, room.samples(values)))


def exported(run_dir: Path, out: Path) -> Path:
    assert export(str(run_dir), str(out)) == 0
    return out
