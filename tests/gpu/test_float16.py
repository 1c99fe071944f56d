"""float16 on a GPU: the loss scalers of DeepSpeed and torch as they are, tried again and skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support.launching import ROOT, environment, free_port, ledger, receipt, small_config
from support.number_faults import FIRST_SCALE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

SCRIPT = ROOT / "tests" / "support" / "many_runs.py"
OF_THE_CPU = ("DS_ACCELERATOR", "ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES")


def ran(command: list[str | Path], folder: Path, jobs: list[dict[str, Any]]) -> dict[str, int]:
    """The exit codes of these jobs, in one start."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    surroundings = {name: value for name, value in environment().items() if name not in OF_THE_CPU}
    words = [str(word) for word in [*command, SCRIPT, folder / "jobs.json"]]
    done = subprocess.run(words, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return dict(json.loads((folder / "jobs.codes.json").read_text(encoding="utf-8")))


def job(folder: Path, name: str, *overrides: str) -> dict[str, Any]:
    words = [f"run.dir={folder / name}", "model.dtype=float16", *overrides]
    return {
        "name": name,
        "config": str(folder / "config.yaml"),
        "overrides": words,
    }


def learned(run_dir: Path) -> list[dict[str, Any]]:
    """The ledger of a run whose every step was applied, and that foots."""
    found, lines = receipt(run_dir), ledger(run_dir)
    assert found["foots"] and found["applied_steps"] == found["attempted_steps"] == len(lines)
    assert found["retried"] == sum(line["retries"] for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    return lines


def test_deepspeed_tries_again_or_skips(tmp_path: Path) -> None:
    ranks = min(2, torch.cuda.device_count())
    small_config(tmp_path, batch={"micro_batch_size": 4, "grad_accum_steps": 2}, train={"max_steps": 8})
    jobs = []
    for stage in (1, 2, 3):
        file = tmp_path / f"zero{stage}.json"
        shipped = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text(encoding="utf-8"))
        power = round(FIRST_SCALE).bit_length() - 1
        block = {"enabled": True, "initial_scale_power": power, "hysteresis": 1}
        file.write_text(json.dumps({**shipped, "fp16": block}), encoding="utf-8")
        words = [f"deepspeed={file}", f"batch.global_batch_size={8 * ranks}"]
        jobs.append(job(tmp_path, f"retry{stage}", *words))
        jobs.append(job(tmp_path, f"skip{stage}", *words, "faults.overflow=skip"))
    launcher = Path(sys.executable).parent / "deepspeed"
    codes = ran([launcher, "--num_gpus", str(ranks), "--master_port", str(free_port())], tmp_path, jobs)
    assert set(codes.values()) == {0}
    for stage in (1, 2, 3):
        assert learned(tmp_path / f"retry{stage}")[0]["retries"] >= 5
        skipped = receipt(tmp_path / f"skip{stage}")
        assert skipped["foots"] and skipped["skips"][0]["why"] == "overflow"
        assert ledger(tmp_path / f"skip{stage}")[0]["applied"] is False


def test_accelerate_scales_and_foots(tmp_path: Path) -> None:
    batch = {"micro_batch_size": 4, "grad_accum_steps": 2, "global_batch_size": 8}
    small_config(tmp_path, batch=batch, train={"max_steps": 8}, deepspeed=None)
    codes = ran([sys.executable], tmp_path, [job(tmp_path, "alone")])
    assert codes == {"alone": 0}
    learned(tmp_path / "alone")
