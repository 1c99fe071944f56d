"""A run whose first step is not as planned stops there; one whose checkpoint holds what is no number says so
before it trains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crossfoot.digests import sha256_of_document, sha256_of_file
from crossfoot.findings.finding import Refused
from crossfoot.training import loop
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

Trains = Callable[..., Watched]


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    return room.config(
        batch={"micro_batch_size": 4, "global_batch_size": 4},
        cluster={"num_nodes": 1, "gpus_per_node": 1},
        lr={"reference": 0.01},
        lora={"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        optimizer={"name": "adamw"},
        checkpoint={"every_steps": 1, "keep": 3},
        train={"max_steps": 4},
    )


@contextmanager
def a_sample_dropped(in_step: int) -> Iterator[None]:
    """The collator leaves out a sample of one step, counted from 0."""
    real, forwards = loop.collate, iter(range(1_000))

    def collate(index: Any, ids: Any, **how: Any) -> Any:
        return real(index, ids[1:] if next(forwards) == in_step else ids, **how)

    with mock.patch.object(loop, "collate", collate):
        yield


def test_it_stops_at_the_first_step(
    values: dict[str, Any], trains: Trains, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_sample_dropped(in_step=0):
        astray = trains(values)
    ending = astray.paper(1, "ending.json")
    assert (astray.exit_code, ending["reason"], ending["step"], ending["exit_code"]) == (3, "fault", 1, 3)
    assert (len(astray.after), len(astray.ledger)) == (1, 1)
    assert ending["saved_path"] is None and not (astray.run_dir / "adapter").exists()
    assert not list((astray.run_dir / "checkpoints").glob("step-*"))
    said = capsys.readouterr().out
    assert "error[CF770]: step 1, the first of this attempt, was not trained as planned" in said
    assert "foots: no" in said


def test_it_stops_at_the_first_step_of_an_attempt(values: dict[str, Any], trains: Trains) -> None:
    trains(values, stop_after=2)
    with a_sample_dropped(in_step=0):
        astray = trains(values, continues=True)
    assert (astray.exit_code, len(astray.after), astray.paper(2, "ending.json")["step"]) == (3, 1, 3)


def test_a_later_step_does_not_end_the_run(values: dict[str, Any], trains: Trains) -> None:
    with a_sample_dropped(in_step=1):
        astray = trains(values)
    assert (astray.exit_code, len(astray.after)) == (3, 4)
    assert (astray.run_dir / "adapter").exists()


def poison(folder: Path, moment: str) -> None:
    """One number of what the optimizer keeps becomes NaN, and the manifest's sums are made anew."""
    manifest = json.loads((folder / "manifest.json").read_text())
    name = next(name for name in manifest["tensors"] if name.endswith(moment))
    file = folder / manifest["tensors"][name]["file"]
    tensors = {stored: np.array(value) for stored, value in load_file(file).items()}
    tensors[name].reshape(-1)[0] = np.nan
    save_file(tensors, file)
    for entry in manifest["files"]:
        entry.update(
            bytes=(folder / entry["name"]).stat().st_size, sha256=sha256_of_file(folder / entry["name"])
        )
    del manifest["sha256"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": sha256_of_document(manifest)}))


def test_a_nan_in_the_optimizers_state_is_the_checkpoints_fault(
    values: dict[str, Any], trains: Trains, capsys: pytest.CaptureFixture[str]
) -> None:
    calm = trains(values, "calm")
    run = trains(values, stop_after=3)
    poison(run.run_dir / "checkpoints" / "step-000003", "exp_avg_sq")
    capsys.readouterr()
    going = trains(values, continues=True)
    said = capsys.readouterr().out
    assert "a checkpoint is damaged" in said and "exp_avg_sq holds NaN or infinity" in said
    assert going.exit_code == 0 and len(going.after) == 2, "the one before it is used"
    for name, value in calm.after[-1].items():
        assert value.equal(going.after[-1][name]), name


def test_where_all_hold_nan_nothing_is_trained(values: dict[str, Any], trains: Trains) -> None:
    run = trains(values, stop_after=1)
    poison(run.run_dir / "checkpoints" / "step-000001", "exp_avg")
    with pytest.raises(Refused) as refused:
        trains(values, continues=True)
    assert [finding.code for finding in refused.value.findings] == ["CF760", "CF761"]
    assert len(run.ledger) == 1
