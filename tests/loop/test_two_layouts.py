"""The same run packed and padded: the same sample sets, and losses equal over twenty steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.launching import ledger, receipt
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

STEPS = 20


@pytest.mark.parametrize("recomputes", [False, True], ids=["kept", "recomputed"])
def test_twenty_steps_packed_and_padded(
    room: Room, trains: Callable[..., Watched], tmp_path: Path, recomputes: bool
) -> None:
    runs = {}
    for layout in ("packed", "padded"):
        values: dict[str, Any] = room.config(
            lora={"r": 4, "alpha": 8, "modules_to_save": ["embed_tokens", "lm_head"]},
            model={"gradient_checkpointing": recomputes},
            data={"layout": layout},
            cluster={"num_nodes": 2, "gpus_per_node": 2},
            batch={"micro_batch_size": 2, "global_batch_size": 11},
            lr={"reference": 2e-3},
            optimizer={"name": "adamw", "max_grad_norm": 1.0},
            train={"max_steps": STEPS},
        )
        trains(values, layout)
        runs[layout] = tmp_path / layout
    packed, padded = (ledger(run) for run in runs.values())
    assert len(packed) == len(padded) == STEPS
    for one, other in zip(packed, padded, strict=True):
        assert one["samples_sha256"] == other["samples_sha256"]
        for number in ("loss", "grad_norm"):
            assert one[number] == pytest.approx(other[number], rel=1e-5)
    assert packed[-1]["loss"] < packed[0]["loss"]
    plans = [
        json.loads((run / "plan.lock.json").read_text(encoding="utf-8"))["plan"] for run in runs.values()
    ]
    assert plans[0]["batches_sha256"] == plans[1]["batches_sha256"]
    assert plans[0]["layout_sha256"] != plans[1]["layout_sha256"]
    assert all(receipt(run)["foots"] for run in runs.values())
