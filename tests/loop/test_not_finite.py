"""A step with a loss that is no number changes no weight: the run stops, or goes on without this update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import plain_torch
from support.loop_room import Room
from support.plain_torch import Tensors
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")


SPOILED = 25
"""The sample with the only w, in "two" and "twelve"."""


@pytest.fixture(scope="module")
def poisoned(room: Room, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A frozen table whose row of one byte is no number, and a seed that puts it into the second step."""
    folder = plain_torch.tiny_llama(tmp_path_factory.mktemp("poisoned"), plain_torch.PIECES)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][plain_torch.tokens("w")] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = room.config(
        model={"path": str(folder)},
        deepspeed=None,
        batch={"micro_batch_size": 3, "global_batch_size": 6},
        lora={"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        train={"max_steps": 4},
    )
    seeds = ({**config, "run": {"name": "spoiled", "seed": seed}} for seed in range(100))
    return next(one for one in seeds if (0, SPOILED) in plain_torch.steps_of(one, 26)[1])


def same(one: Tensors, other: Tensors) -> bool:
    return all(torch.equal(one[name], value) for name, value in other.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_stops_and_its_weights_are_those_of_the_step_before(
    poisoned: dict[str, Any], optimizer: str, trains: Callable[..., Watched]
) -> None:
    seen = trains({**poisoned, "lr": {"reference": 0.1}, "optimizer": {"name": optimizer}})
    assert seen.exit_code == 1
    # The ledger is a step behind: when it says so of the second step, the third is taken, and held.
    assert [line["applied"] for line in seen.ledger] == [True, False, False]
    assert [line["skipped"] for line in seen.ledger] == [None] * 3
    ((found,), ()) = (line["not_finite"] for line in seen.ledger[1:])
    assert found["what"] == "loss" and SPOILED in found["samples"] and len(found["samples"]) == 3
    assert not same(seen.after[0], seen.start)
    assert len(seen.after) == 3 and all(same(after, seen.after[0]) for after in seen.after)
    assert seen.paper(1, "ending.json")["reason"] == "fault"


def test_a_run_that_may_skip_goes_on_without_the_update(
    poisoned: dict[str, Any], trains: Callable[..., Watched]
) -> None:
    skips = {"lr": {"reference": 0.1}, "optimizer": {"name": "adamw"}, "faults": {"nonfinite": "skip"}}
    seen = trains({**poisoned, **skips})
    assert seen.exit_code == 0
    assert [line["applied"] for line in seen.ledger] == [True, False, True, True]
    assert [line["skipped"] for line in seen.ledger] == [None, "not finite", None, None]
    assert same(seen.after[1], seen.after[0]) and not same(seen.after[2], seen.after[1])
    assert {float(kept["step"]) for kept in seen.kept.values()} == {3.0}
