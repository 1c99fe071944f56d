"""Three steps of the loop itself against plain torch: every trained tensor, every number of the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crossfoot.checkpoints.store import list_checkpoints
from crossfoot.ledger.entry import LEDGER_FORMAT
from support import plain_torch
from support.loop_room import LONGEST, Room
from support.plain_torch import Sample, Step, Tensors
from support.watched_run import HOUR_SECONDS, Watched

pytestmark = pytest.mark.xdist_group("loop")

LORA = {
    "r": 4,
    "alpha": 6,
    "target_modules": ["q_proj", "v_proj"],
    "modules_to_save": ["embed_tokens", "lm_head"],
}
TIMES = ("seconds", "pause_seconds", "median_seconds", "fastest_seconds", "slowest_rank")
FOUR_RANKS = {"num_nodes": 2, "gpus_per_node": 2}


def folded_ranks(room: Room) -> dict[str, Any]:
    """Steps of 11, 11 and 4 samples in 8 slots of 2, all uneven; the last one needs only 4 of them."""
    return room.config(
        lora=LORA,
        cluster=FOUR_RANKS,
        batch={"micro_batch_size": 2, "global_batch_size": 11},
        lr={"reference": 0.5, "schedule": "linear", "min_ratio": 0.25},
        train={"epochs": 1},
    )


def padded(room: Room) -> dict[str, Any]:
    """The same, one row a sample; the last step leaves 4 slots empty."""
    values = folded_ranks(room)
    return {**values, "data": {**values["data"], "layout": "padded"}}


def by_tokens(room: Room) -> dict[str, Any]:
    """The same with room for 330 tokens: samples of 100 to 165 on 4 ranks, 4 or 8 slots, at most 24."""
    return {**folded_ranks(room), "batch": {"micro_batch_tokens": 2 * LONGEST, "global_batch_size": 11}}


def own_rates(room: Room) -> dict[str, Any]:
    """The same by adamw, with rates of their own for two kinds of tensors, a rate that falls in the last step
    alone, and a second beta that follows the batch.
    """
    optimizer = {"name": "adamw", "betas": [0.8, 0.9], "eps": 1e-3, "weight_decay": 0.2}
    lr = {"reference": 0.01, "schedule": "wsd", "decay_fraction": 0.6, "decay_shape": "sqrt"}
    return {
        **folded_ranks(room),
        "optimizer": {**optimizer, "beta2_reference_batch": 5},
        "lr": {**lr, "groups": {"lora_B": 4, "embed_tokens": 0.25}},
    }


def one_rank(room: Room) -> dict[str, Any]:
    """Three forwards a step, clipped, decayed, all weights; the last 5 samples of the epoch are dropped. The
    weights are judged and saved after each step.
    """
    validation = str(room.values["data"]["train"][0]).replace("questions", "validation")
    optimizer = {"name": "adamw", "betas": [0.8, 0.9], "eps": 1e-3, "weight_decay": 0.2, "max_grad_norm": 0.7}
    return room.config(
        deepspeed=None,
        data={"validation": [validation], "last_step": "drop"},
        batch={"micro_batch_size": 3, "global_batch_size": 7},
        lr={"reference": 0.01, "reference_batch": 14, "rule": "linear", "warmup_steps": 2},
        optimizer=optimizer,
        validation={"every_steps": 1},
        checkpoint={"every_steps": 1, "keep": 3},
        train={"epochs": 1},
    )


def blocks_of_text(room: Room) -> dict[str, Any]:
    """Pretraining; the third step begins in one epoch and ends in the next."""
    texts = str(room.values["data"]["train"][0]).replace("questions", "texts")
    return room.config(
        data={"task": "pretrain", "train": [texts], "max_seq_len": 24, "last_step": "carry"},
        cluster={"num_nodes": 1, "gpus_per_node": 2},
        batch={"micro_batch_size": 2, "global_batch_size": 6},
        lr={"reference": 0.2, "reference_batch": 4, "rule": "sqrt", "schedule": "constant"},
        optimizer={"max_grad_norm": 0.5},
        train={"max_steps": 3},
    )


CASES = [folded_ranks, padded, by_tokens, own_rates, one_rank, blocks_of_text]


@pytest.mark.parametrize("case", CASES)
def test_weights_and_ledger_are_those_of_plain_torch(
    case: Callable[[Room], dict[str, Any]], room: Room, trains: Callable[..., Watched]
) -> None:
    config = case(room)
    samples = room.samples(config)
    seen = trains(config)
    assert seen.exit_code == 0
    model = plain_torch.fresh_model(config)
    before = plain_torch.trained_of(model)
    assert same(seen.start, before)
    asked = room.samples(config, "validation") if "validation" in config["data"] else []
    steps, judged = [], []
    for step in plain_torch.train(model, config, samples):
        steps.append(step)
        judged += [plain_torch.mean_loss(model, asked)] if asked else []
    assert len(steps) == len(seen.after) == 3
    for step, after in zip(steps, seen.after, strict=True):
        assert max(plain_torch.apart(after, step.after, before).values()) < 2e-5
        before = step.after
    dealt = [plain_torch.slots_of(config, [i for _, i in step.samples], samples) for step in steps]
    for slots, forwards in zip(dealt, seen.forwards, strict=True):
        assert forwards == [[samples[i].ids for i in ids] or [(0, 0)] for ids in slots]
    lines = seen.ledger
    trained: list[tuple[int, int]] = []
    is_packed = case is not padded
    for number, (step, slots) in enumerate(zip(steps, dealt, strict=True)):
        took, paused, *others = (lines[number].pop(name) for name in TIMES)
        assert others == [round(took, 6), round(took, 6), 0]
        assert 0.0 < took < HOUR_SECONDS and (paused > 0.0) == (bool(asked) and number > 0)
        if ratios := config["lr"].get("groups"):
            rates = {kind: pytest.approx(step.rate * ratio, rel=1e-12) for kind, ratio in ratios.items()}
            assert lines[number].pop("group_lrs") == lines[number].pop("planned_group_lrs") == rates
        assert lines[number] == line_of(number, step, slots, samples, trained, is_packed)
        trained += step.samples
    assert len(lines) == 3
    ending = seen.paper(1, "ending.json")
    assert (ending["reason"], ending["step"], ending["planned_steps"]) == ("finished", 3, 3)
    losses = [checkpoint.manifest.validation_loss for checkpoint in list_checkpoints(seen.run_dir)]
    assert losses == pytest.approx(judged, rel=1e-6)
    assert seen.judging == 3 * -(-len(asked) // config["batch"].get("micro_batch_size", 1))
    assert ending["validation_loss"] == (losses[-1] if losses else None)
    assert same(saved_by(seen), seen.after[-1])


def saved_by(seen: Watched) -> Tensors:
    """The trained tensors in the folder that the run leaves, by the names they have in training."""
    if (seen.run_dir / "model").exists():
        return load_file(seen.run_dir / "model" / "model.safetensors")
    stored = load_file(seen.run_dir / "adapter" / "adapter_model.safetensors")
    named = {}
    for name in seen.after[-1]:
        short = name.replace(".default", "").replace(".modules_to_save", "")
        named[name] = stored.pop(short)
    assert not stored
    return named


def same(one: Tensors, other: Tensors) -> bool:
    """The same names, and the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def line_of(
    number: int,
    step: Step,
    slots: Sequence[Sequence[int]],
    samples: Sequence[Sample],
    trained: Sequence[tuple[int, int]],
    is_packed: bool,
) -> dict[str, Any]:
    """The line of the ledger, its times aside. trained: (epoch, id) in the steps before."""
    ids = [sample for _, sample in step.samples]
    seen = {sample for _, sample in trained}
    fresh = len(set(ids) - seen)
    real = sum(len(samples[i].ids) for i in ids)
    targets = sum(samples[i].targets for i in ids)
    lengths = [[len(samples[i].ids) for i in slot] for slot in slots]
    if is_packed:  # rows are filled up to a multiple of 16 tokens
        computed = sum(-(-sum(slot) // 16) * 16 for slot in lengths)
    else:
        computed = sum(max(1, len(slot)) * max([2, *slot]) for slot in lengths)
    digests = [sorted(digest_of(samples[i]) for i in slot) for slot in slots]
    in_slots = [(number, 0, len(inside), *inside) for number, inside in enumerate(digests)]
    digest = sha256_of(sorted(chain(*digests)))
    return {
        "format": LEDGER_FORMAT,
        "step": number,
        "attempt": 1,
        "epoch": step.samples[0][0],
        "lr": pytest.approx(step.rate, rel=1e-12),
        "planned_lr": pytest.approx(step.rate, rel=1e-12),
        "planned_samples": len(ids),
        "real_samples": len(ids),
        "distinct_samples": len(set(ids)),
        "repeated_samples": 0,
        "planned_first_seen_samples": fresh,
        "first_seen_samples": fresh,
        "planned_real_tokens": real,
        "real_tokens": real,
        "planned_trained_tokens": targets,
        "trained_tokens": targets,
        "token_slots": computed,
        "planned_forwards": len(slots),
        "real_forwards": len(slots),
        "loss": pytest.approx(step.loss, rel=2e-6),
        "grad_norm": pytest.approx(step.grad_norm, rel=2e-5),
        "applied": True,
        "skipped": None,
        "retries": 0,
        "planned_samples_sha256": digest,
        "samples_sha256": digest,
        "slots_sha256": sha256_of(list(chain(*in_slots))),
        "wrong_rate_ranks": 0,
        "wrong_weight_forwards": 0,
        "cause_count": 0,
        "not_finite": [],
        "causes": [],
        "per_rank": {
            "ranks": 1,
            "sha256": sha256_of([0, len(ids), real, targets, len(slots)]),
            "columns": {
                "rank": [0],
                "samples": [len(ids)],
                "real_tokens": [real],
                "trained_tokens": [targets],
                "token_slots": [computed],
                "forwards": [len(slots)],
            },
        },
    }


def digest_of(sample: Sample) -> int:
    """Of its ids and label mask: 64 bits."""
    mask = bytes(position >= sample.first_target for position in range(len(sample.ids)))
    content = np.array(sample.ids, dtype="<i4").tobytes() + mask
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def sha256_of(words: Sequence[int]) -> str:
    """16 hex digits over 64-bit words."""
    return hashlib.sha256(b"".join(word.to_bytes(8, "little") for word in words)).hexdigest()[:16]
