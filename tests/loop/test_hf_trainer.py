"""Where the HF Trainer is exact, the same recipe gives the same losses: twenty steps over five epochs, each
with a short last step, clipped, decayed. Conversations of several turns are rendered and masked by
transformers there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import chat_cases
from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from support import hf_trainer, plain_torch
from support.launching import WORDS
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
    rows = [
        hf_trainer.row_of(one.ids, [at >= one.first_target for at in range(len(one.ids))])
        for one in room.samples(values)
    ]
    hold_against_the_trainer(trains(values), values, rows, tmp_path)


def test_the_losses_of_several_turns_are_the_hf_trainers(
    values: dict[str, Any], trains: Callable[..., Watched], tmp_path: Path
) -> None:
    marked = (chat_cases.TEMPLATES / "llama2.jinja").read_text(encoding="utf-8")
    (tmp_path / "t.jinja").write_text(chat_cases.without_marks(marked), encoding="utf-8")
    told = conversations(26)
    lines = [json.dumps({"messages": one}, ensure_ascii=False) for one in told]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines), encoding="utf-8")
    values["data"] |= {"train": [str(tmp_path / "chat.jsonl")], "template": str(tmp_path / "t.jinja")}
    values["data"] |= {"max_seq_len": 256}
    tokenizer = AutoTokenizer.from_pretrained(write_tiny_tokenizer(str(tmp_path)))
    rendered = [
        tokenizer.apply_chat_template(
            one, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
        )
        for one in told
    ]
    rows = [hf_trainer.row_of(one["input_ids"], one["assistant_masks"]) for one in rendered]
    parts = [sum(a < b for a, b in zip([0, *one], one, strict=False)) for one in tokens_trained(rows)]
    assert set(parts) == {1, 2, 3} and max(len(row["labels"]) for row in rows) <= 256
    hold_against_the_trainer(trains(values), values, rows, tmp_path)


def conversations(count: int) -> list[list[dict[str, str]]]:
    """Of one to three questions, and a system prompt in a third of them."""
    draw = random.Random(3)
    found = []
    for number in range(count):
        turns = [{"role": "system", "content": "be kind"}] if not number % 3 else []
        for _ in range(1 + number % 3):
            for role in ("user", "assistant"):
                turns.append({"role": role, "content": " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))})
        found.append(turns)
    return found


def tokens_trained(rows: Sequence[hf_trainer.Row]) -> list[list[bool]]:
    return [[label != -100 for label in row["labels"]] for row in rows]


def hold_against_the_trainer(
    run: Watched, values: dict[str, Any], rows: Sequence[hf_trainer.Row], folder: Path
) -> None:
    assert run.exit_code == 0 and len(run.ledger) == STEPS
    steps = plain_torch.steps_of(values, len(rows))
    epochs = [[number for step in steps for epoch, number in step if epoch == this] for this in range(STEPS)]
    model, optimizer = plain_torch.fresh_model(values), values["optimizer"]
    model.config.vocab_size = plain_torch.PIECES
    theirs = hf_trainer.trained(
        model, rows, [epoch for epoch in epochs if epoch], folder / "hf",
        per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=STEPS,
        learning_rate=values["lr"]["reference"], lr_scheduler_type=values["lr"]["schedule"],
        optim="adamw_torch", adam_beta1=optimizer["betas"][0], adam_beta2=optimizer["betas"][1],
        adam_epsilon=optimizer["eps"], weight_decay=optimizer["weight_decay"],
        max_grad_norm=optimizer["max_grad_norm"],
    )  # fmt: skip
    assert [line["lr"] for line in run.ledger] == pytest.approx([rate for _, rate in theirs], rel=1e-12)
    assert [line["loss"] for line in run.ledger] == pytest.approx([loss for loss, _ in theirs], rel=1e-5)
    assert run.ledger[-1]["loss"] < run.ledger[0]["loss"] / 2
