"""A step with a loss that is no number changes no weight: the run stops, or goes on without this update."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossfoot.training import closing, saving, step_hooks
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


def receipt_in(seen: Watched) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((seen.run_dir / "receipt.json").read_text(encoding="utf-8"))
    return document


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


def test_a_run_stops_at_its_first_step(poisoned: dict[str, Any], trains: Callable[..., Watched]) -> None:
    at_once = next(
        one
        for one in ({**poisoned, "run": {"name": "spoiled", "seed": seed}} for seed in range(100))
        if (0, SPOILED) in plain_torch.steps_of(one, 26)[0]
    )
    seen = trains({**at_once, "lr": {"reference": 0.1}, "optimizer": {"name": "sgd"}})
    assert seen.exit_code == 1
    assert all(not line["applied"] for line in seen.ledger) and len(seen.ledger) <= 2
    assert all(same(after, seen.start) for after in seen.after)
    receipt = receipt_in(seen)
    assert not receipt["foots"] and "CF723" in {cause["code"] for cause in receipt["causes"]}


def test_a_run_of_which_every_step_is_skipped_does_not_foot(
    poisoned: dict[str, Any], trains: Callable[..., Watched]
) -> None:
    """The whole data set is every step, and one sample spoils it."""
    whole = {**poisoned, "batch": {"micro_batch_size": 26, "grad_accum_steps": 1}, "train": {"max_steps": 2}}
    seen = trains({**whole, "lr": {"reference": 0.1}, "faults": {"nonfinite": "skip"}})
    assert seen.exit_code == 3
    receipt = receipt_in(seen)
    assert [(cause["code"], cause["step"]) for cause in receipt["causes"]] == [("CF780", -1)]


@pytest.mark.parametrize("every", [None, 1])
def test_weights_that_left_their_range_are_not_saved(
    room: Room,
    trains: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    every: int | None,
) -> None:
    """At the end, where no next loss would show it, and as a checkpoint."""
    real = saving.weights_are_finite

    def spoiled(model: torch.nn.Module) -> bool:
        next(one for one in model.parameters() if one.requires_grad).data.view(-1)[-1] = float("inf")
        return real(model)

    monkeypatch.setattr(closing if every is None else step_hooks, "weights_are_finite", spoiled)
    config = room.config(deepspeed=None, train={"max_steps": 3}, lr={"reference": 0.1})
    config |= {"batch": {"micro_batch_size": 4, "grad_accum_steps": 1}, "checkpoint": {"every_steps": every}}
    seen = trains(config)
    assert seen.exit_code == 1 and capsys.readouterr().out.count("error[CF781]") == 1
    assert len(seen.ledger) == (3 if every is None else 1)
    assert seen.paper(1, "ending.json")["saved_path"] is None
    assert receipt_in(seen)["foots"] is False
    assert not list(seen.run_dir.glob("**/*.safetensors"))


@pytest.mark.parametrize(("every", "policy", "code"), [(1, "stop", 1), (None, "stop", 3), (1, "skip", 3)])
def test_a_validation_loss_that_is_no_number(
    poisoned: dict[str, Any],
    trains: Callable[..., Watched],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    every: int | None,
    policy: str,
    code: int,
) -> None:
    rows = [{"instruction": "x", "output": one} for one in ("ab", "w")]
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held_out.jsonl"
    train.write_text(json.dumps(rows[0]) + "\n")
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {**poisoned["data"], "train": [str(train)], "validation": [str(held_out)]}
    config = {**poisoned, "data": data, "batch": {"micro_batch_size": 1, "grad_accum_steps": 1}}
    config |= {
        "train": {"max_steps": 2},
        "faults": {"nonfinite": policy},
        "validation": {"every_steps": every},
    }
    seen = trains({**config, "lr": {"reference": 0.001}})
    said = capsys.readouterr().out
    assert seen.exit_code == code
    assert ("CF782" in said) == (code == 1)
    receipt = receipt_in(seen)
    assert receipt["foots"] is False
    assert len(seen.ledger) == (1 if code == 1 else 2)


@pytest.mark.parametrize("rank", range(4))
def test_what_a_part_has_beyond_its_parameter_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """ZeRO-3 on four ranks: 5 numbers in parts of 2; the last part holds none, and nobody has written it."""
    monkeypatch.setattr(saving.dist, "get_rank", lambda group: rank)
    model = torch.nn.Linear(5, 1, bias=False)
    weight: Any = model.weight
    weight.ds_numel, weight.ds_process_group = 5, None
    padded = torch.cat([torch.arange(5.0), torch.full((3,), float("nan"))])
    weight.ds_tensor = padded[2 * rank : 2 * rank + 2]
    assert saving.weights_are_finite(model)
    if rank < 3:
        weight.ds_tensor[0] = float("inf")
        assert not saving.weights_are_finite(model)
