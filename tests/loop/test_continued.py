"""Stopped and continued is undisturbed, to the bit; a resume position that was not written is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from crossfoot.finding import Refused
from crossfoot.ledger.attempts import read_attempts
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

Trains = Callable[..., Watched]


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    """Everything that a continued run must take up: moments, rates after a warm-up, dropout draws."""
    return room.config(
        lora={"r": 4, "alpha": 8, "dropout": 0.2, "target_modules": ["q_proj", "v_proj"]}
        | {"modules_to_save": ["embed_tokens", "lm_head"]},
        cluster={"num_nodes": 1, "gpus_per_node": 2},
        batch={"micro_batch_size": 2, "global_batch_size": 7},
        lr={"reference": 0.01, "warmup_steps": 1},
        optimizer={"name": "adamw", "weight_decay": 0.1, "max_grad_norm": 1.0},
        checkpoint={"every_steps": 1},
        train={"max_steps": 3},
    )


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the ledger without what differs between attempts."""
    return {name: line[name] for name in line if name not in ("seconds", "pause_seconds", "attempt")}


def test_stopped_and_continued_is_undisturbed_to_the_bit(values: dict[str, Any], trains: Trains) -> None:
    whole = trains(values, "whole")
    stopped = trains(values, stop_after=2)
    assert (whole.exit_code, stopped.exit_code) == (0, 0)
    ending = stopped.paper(1, "ending.json")
    assert (ending["reason"], ending["step"], ending["planned_steps"]) == ("stop_after", 2, 2)
    assert len(stopped.after) == len(stopped.ledger) == 2
    shutil.copytree(stopped.run_dir, stopped.run_dir.with_name("killed"))
    equal(stopped.after, whole.after[:2])

    going = trains(values, continues=True)
    assert going.exit_code == 0
    equal([going.start, *going.after], whole.after[1:])
    equal(list(going.kept.values()), list(whole.kept.values()))
    assert going.forwards == whole.forwards[2:]
    assert [line["attempt"] for line in going.ledger] == [1, 1, 2]
    assert [timeless(line) for line in going.ledger] == [timeless(line) for line in whole.ledger]
    (first, second) = read_attempts(str(going.run_dir))
    assert (first.first_step, first.from_checkpoint) == (0, None)
    assert (second.first_step, second.from_checkpoint) == (2, "step-000002")

    killed = going.run_dir.with_name("killed")
    checkpoints = killed / "checkpoints"
    shutil.rmtree(checkpoints / "step-000002")
    (checkpoints / "step-000001").rename(checkpoints / "step-000002")
    with pytest.raises(Refused, match="CF760") as caught:
        trains(values, "killed", continues=True)
    assert "its manifest is of step 1" in str(caught.value.findings)
    (checkpoints / "step-000002").rename(checkpoints / "step-000001")

    again = trains(values, "killed", continues=True)
    assert again.exit_code == 0
    equal([again.start, *again.after], whole.after)
    equal(list(again.kept.values()), list(whole.kept.values()))
    assert [(line["attempt"], line["step"]) for line in again.ledger] == [(1, 0), (1, 1), (2, 1), (2, 2)]
    assert [timeless(line) for line in again.ledger[2:]] == [timeless(line) for line in whole.ledger[1:]]


def equal(mine: list[dict[str, torch.Tensor]], theirs: list[dict[str, torch.Tensor]]) -> None:
    """The same names and bits, one by one."""
    for one, other in zip(mine, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
