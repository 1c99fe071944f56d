"""Two ranks under DeepSpeed, stopped and continued to the bit: float16 with DeepSpeed's own loss scaler,
lowered by overflows and grown again, and a base in 4 and in 8 bits.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from support.launching import ROOT, ledger, receipt, small_config, warm_ranks
from support.number_faults import FIRST_SCALE

pytestmark = pytest.mark.distributed

SCRIPT = ROOT / "tests" / "support" / "many_runs.py"
FLOAT16 = {
    "enabled": True,
    "initial_scale_power": round(FIRST_SCALE).bit_length() - 1,
    "loss_scale_window": 2,
}
Kinds = dict[str, tuple[int, str, str]]
SMALL: Kinds = {"float16 zero1": (1, "float16", "none"), "nf4 zero2": (2, "bfloat16", "nf4")}
OTHERS: Kinds = {
    "float16 zero2": (2, "float16", "none"),
    "float16 zero3": (3, "float16", "none"),
    "float16 nf4 zero2": (2, "float16", "nf4"),
    "nf4 zero1": (1, "float32", "nf4"),
    "int8 zero2": (2, "bfloat16", "int8"),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(SMALL, id="small"), pytest.param(OTHERS, id="others", marks=pytest.mark.slow)],
)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kinds]:
    """Every kind three times: undisturbed, and stopped after 3 of 5 steps and continued."""
    folder = tmp_path_factory.mktemp("precision")
    batch = {"micro_batch_size": 2, "grad_accum_steps": 2, "global_batch_size": 7}
    small_config(folder, batch=batch, train={"max_steps": 5}, checkpoint={"every_steps": 1, "keep": 9})
    jobs: list[dict[str, Any]] = []
    for kind, (stage, dtype, quantization) in request.param.items():
        shipped = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text(encoding="utf-8"))
        file = folder / f"{kind}.json"
        block = {"fp16": FLOAT16} if dtype == "float16" else {}
        file.write_text(json.dumps({**shipped, **block}), encoding="utf-8")
        words = [f"deepspeed={file}", f"model.dtype={dtype}", f"model.quantization={quantization}"]
        common = {"config": str(folder / "config.yaml"), "fault": "float16" if block else None}
        for name, how in (("whole", {}), ("stopped", {"stop_after": 3}), ("going", {"continues": True})):
            run_dir = folder / kind / ("whole" if name == "whole" else "stopped")
            overrides = [f"run.dir={run_dir}", *words]
            jobs.append({"name": f"{kind} {name}", "overrides": overrides, **common, **how})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = warm_ranks(2, SCRIPT, folder / "jobs.json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    codes = json.loads((folder / "jobs.codes.json").read_text(encoding="utf-8"))
    assert set(codes.values()) == {0}, codes
    return folder, request.param


def test_stopped_and_continued_is_undisturbed_to_the_bit(runs: tuple[Path, Kinds]) -> None:
    folder, kinds = runs
    for kind in kinds:
        is_undisturbed(folder, kind)


def is_undisturbed(folder: Path, kind: str) -> None:
    whole, going = folder / kind / "whole", folder / kind / "stopped"
    assert receipt(whole)["foots"] and receipt(going)["foots"]
    for name in ("loss", "grad_norm", "retries", "applied"):
        assert [line[name] for line in ledger(going)] == [line[name] for line in ledger(whole)], name
    weights = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (whole, going)]
    assert hashlib.sha256(weights[0]).digest() == hashlib.sha256(weights[1]).digest()
    manifests = [
        json.loads((run / "checkpoints" / "step-000005" / "manifest.json").read_text(encoding="utf-8"))
        for run in (whole, going)
    ]
    assert manifests[0]["files"] == manifests[1]["files"], "moments and masters too"
    scales = [manifest.get("loss_scale") for manifest in manifests]
    assert scales[0] == scales[1] and (scales[0] is not None) == kind.startswith("float16")
    if scales[0] is not None:
        assert ledger(whole)[0]["retries"] >= 5 and scales[0]["scale"] < FIRST_SCALE
