"""A run is merged into the weights that it began with, or into those that somebody names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from crossfoot.cli import main
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")


def test_a_base_whose_weights_have_changed(
    room: Room, trains: Callable[..., Watched], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, kept = tmp_path / "base", tmp_path / "kept"
    for folder in (base, kept):
        shutil.copytree(room.values["model"]["path"], folder)
    config = room.config(
        model={"path": str(base)},
        lora={"r": 2, "alpha": 4, "modules_to_save": ["embed_tokens", "lm_head"]},
        cluster={"num_nodes": 1, "gpus_per_node": 1},
        batch={"micro_batch_size": 2, "global_batch_size": 2},
        lr={"reference": 0.1},
        train={"max_steps": 1},
        checkpoint={"every_steps": 1},
    )
    run = trains(config)
    assert run.exit_code == 0
    tensors = load_file(base / "model.safetensors")
    save_file({name: 1.01 * value for name, value in tensors.items()}, base / "model.safetensors")

    def said(out: str, *words: str) -> str:
        code = main(["merge", str(run.run_dir), str(tmp_path / out), *words])
        told = "".join(capsys.readouterr())
        assert (code == 0) is (tmp_path / out).exists() is ("error[" not in told)
        return told

    told = said("changed")
    assert f"error[CF785]: {base} does not have the weights" in told and "model.safetensors" in told
    assert "warning[CF785]" in said("named", "--base", str(base))
    assert "CF785" not in said("moved", "--base", str(kept)), "the same weights in another folder"

    values = json.loads((kept / "config.json").read_text())
    (kept / "config.json").write_text(json.dumps({**values, "hidden_size": 2 * values["hidden_size"]}))
    told = said("larger", "--base", str(kept))
    assert "error[CF772]" in told and "in the checkpoint, and" in told
    told = said("gone", "--base", str(tmp_path / "gone"))
    assert "error[CF769]" in told and f"--base names {tmp_path / 'gone'}" in told
