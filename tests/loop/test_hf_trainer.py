"""Where the HF Trainer is exact, the same recipe gives the same losses: twenty steps over five epochs, each
with a short last step, clipped, decayed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import hf_trainer, plain_torch
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

STEPS = 20


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    return room.config(
        deepspeed=None,
        batch={"micro_batch_size": 2, "grad_accum_steps": 4, "global_batch_size": 8},
        cluster={"num_nodes": 1, "gpus_per_node": 1},
        lr={"reference": 0.01, "schedule": "cosine"},
        lora={"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
        | {"modules_to_save": ["embed_tokens", "lm_head"]},
        optimizer={"name": "adamw", "betas": [0.9, 0.95], "eps": 1e-6, "weight_decay": 0.1}
        | {"max_grad_norm": 0.5},
        train={"max_steps": STEPS},
    )


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_losses_are_the_hf_trainers(
    schedule: str, values: dict[str, Any], room: Room, trains: Callable[..., Watched], tmp_path: Path
) -> None:
    values["lr"]["schedule"] = schedule
    samples = room.samples(values)
    run = trains(values)
    assert run.exit_code == 0 and len(run.ledger) == STEPS
    steps = plain_torch.steps_of(values, len(samples))
    epochs = [[number for step in steps for epoch, number in step if epoch == this] for this in range(STEPS)]
    model, optimizer = plain_torch.fresh_model(values), values["optimizer"]
    model.config.vocab_size = plain_torch.PIECES
    theirs = hf_trainer.trained(
        model, samples, [epoch for epoch in epochs if epoch], tmp_path / "hf",
        per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=STEPS,
        learning_rate=values["lr"]["reference"], lr_scheduler_type=schedule, optim="adamw_torch",
        adam_beta1=optimizer["betas"][0], adam_beta2=optimizer["betas"][1], adam_epsilon=optimizer["eps"],
        weight_decay=optimizer["weight_decay"], max_grad_norm=optimizer["max_grad_norm"],
    )  # fmt: skip
    assert [line["lr"] for line in run.ledger] == pytest.approx([rate for _, rate in theirs], rel=1e-12)
    assert [line["loss"] for line in run.ledger] == pytest.approx([loss for loss, _ in theirs], rel=1e-5)
    assert run.ledger[-1]["loss"] < run.ledger[0]["loss"] / 2
