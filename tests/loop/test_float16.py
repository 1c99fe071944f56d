"""float16 on a CPU, in one process, by torch's own loss scaler: stopped and continued to the bit, also where
an overflow has lowered the scale; tried again with the same samples, or left out and counted.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from crossfoot.checkpoints.manifest import LossScale, read_manifest
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

Trains = Callable[..., Watched]
FIRST_SCALE, INTERVAL = 2.0**32, 2
"""A scale at which gradients overflow for certain, which then grows again after every second step."""


@pytest.fixture
def values(room: Room, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run with trained tables, on torch's scaler as it is, but for where it begins and when it grows."""
    scaler = torch.amp.GradScaler
    begins = functools.partialmethod(scaler.__init__, init_scale=FIRST_SCALE, growth_interval=INTERVAL)
    monkeypatch.setattr(scaler, "__init__", begins)
    return room.config(
        model={"dtype": "float16", "matmul": "auto"},
        lora={"r": 4, "alpha": 8, "modules_to_save": ["embed_tokens", "lm_head"]},
        deepspeed=None,
        batch={"micro_batch_size": 2, "grad_accum_steps": 4, "global_batch_size": 7},
        lr={"reference": 0.01, "warmup_steps": 1},
        optimizer={"name": "adamw", "max_grad_norm": 1.0},
        checkpoint={"every_steps": 1, "keep": 20},
        train={"max_steps": 5},
    )


def scale_of(run: Watched, step: int) -> LossScale | None:
    return read_manifest(run.run_dir / "checkpoints" / f"step-{step:06d}").loss_scale


def receipt(run: Watched) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.run_dir / "receipt.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.lie("U10", answer="impossible")
@pytest.mark.parametrize("policy", ["retry", "skip"])
def test_stopped_and_continued_is_undisturbed_to_the_bit(
    values: dict[str, Any], trains: Trains, policy: str
) -> None:
    values["faults"] = {"overflow": policy}
    steps, stop = 5, 3
    if policy == "skip":  # until the scale has come down from where it begins
        steps, stop = 20, 16
    values["train"] = {"max_steps": steps}
    whole = trains(values, "whole")
    stopped = trains(values, stop_after=stop)
    going = trains(values, continues=True)
    assert (whole.exit_code, stopped.exit_code, going.exit_code) == (0, 0, 0)
    assert [scale_of(going, step) for step in range(1, steps + 1)] == [
        scale_of(whole, step) for step in range(1, steps + 1)
    ]
    assert scale_of(stopped, stop) != LossScale(FIRST_SCALE, 0), (
        "an attempt that began anew would begin there"
    )
    for name in ("loss", "grad_norm", "applied", "retries", "skipped"):
        each = [[str(line[name]) for line in run.ledger] for run in (going, whole)]
        assert each[0] == each[1], name
    assert receipt(whole)["foots"] and receipt(going)["foots"]
    mine, theirs = going.after[-1], whole.after[-1]
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_it_is_tried_again_with_the_same_samples(values: dict[str, Any], trains: Trains) -> None:
    run = trains(values)
    first = run.ledger[0]
    assert first["applied"] and first["retries"] >= 5
    tries = run.forwards[0]
    once = len(tries) // (first["retries"] + 1)
    assert [tries[start : start + once] for start in range(0, len(tries), once)] == [tries[:once]] * (
        first["retries"] + 1
    )
    assert (first["real_samples"], first["distinct_samples"], first["repeated_samples"]) == (7, 7, 0)
    assert receipt(run)["retried"] == sum(line["retries"] for line in run.ledger)
    told = scale_of(run, 1)
    assert told is not None and told == LossScale(FIRST_SCALE / 2.0 ** first["retries"], 1)
    assert run.ledger[-1]["loss"] < first["loss"]


def test_it_is_left_out_and_counted(values: dict[str, Any], trains: Trains) -> None:
    run = trains({**values, "faults": {"overflow": "skip"}, "train": {"max_steps": 20}})
    (struck, *_), found = run.ledger, receipt(run)
    assert (struck["applied"], struck["retries"], struck["skipped"]) == (False, 0, "overflow")
    assert found["foots"] and found["skips"][0]["why"] == "overflow"
    assert found["applied_steps"] == sum(line["applied"] for line in run.ledger) < found["attempted_steps"]
