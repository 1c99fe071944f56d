"""Faults injected from outside: the receipt does not foot, and names the step, the rank and the cause."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.faults import FAULTS, RANK, STEP
from support.launching import ROOT, deepspeed, receipt, small_config

pytestmark = pytest.mark.distributed

EXPECTED_KINDS = {
    "slot dropped": {"missing sample"},
    "sample twice": {"trained twice"},
    "backward skipped": {"missing sample"},
    "rate changed": {"rate differs"},
    "label mask lost": {"label mask differs"},
    "token altered": {"tokens altered"},
    "positions run on": {"not placed by itself"},
    "borders lost": {"not placed by itself"},
    "sample cut": {"tokens altered"},
    "token altered in model": {"tokens altered"},
    "loss weight wrong": {"token weight differs"},
}


PACKED_ALONE = ("positions run on", "borders lost")
CASES = [
    (layout, fault)
    for layout in ("packed", "padded")
    for fault in FAULTS
    if layout == "packed" or fault not in PACKED_ALONE
]
HOW = {
    "packed": ("data.layout=packed", f"deepspeed={ROOT / 'ds_configs' / 'zero2.json'}"),
    "padded": (
        "data.layout=padded",
        f"deepspeed={ROOT / 'ds_configs' / 'zero1.json'}",
        "model.gradient_checkpointing=true",
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-rank run for each layout and fault, and an honest one, in one launch."""
    folder = tmp_path_factory.mktemp("faults")
    batch = {"micro_batch_size": 2, "grad_accum_steps": 3, "global_batch_size": 12}
    config = small_config(folder, batch=batch, train={"max_steps": 4})
    jobs = [
        {
            "name": f"{layout} {fault}",
            "config": str(config),
            "overrides": [f"run.dir={folder / f'{layout} {fault}'}", *HOW[layout]],
            "fault": fault if fault != "honest" else None,
        }
        for layout, fault in [*((layout, "honest") for layout in HOW), *CASES]
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = deepspeed(2, ROOT / "tests" / "support" / "many_runs.py", folder / "jobs.json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder


@pytest.mark.parametrize("layout", HOW)
def test_the_honest_run_foots(runs: Path, layout: str) -> None:
    codes = json.loads((runs / "jobs.codes.json").read_text(encoding="utf-8"))
    assert codes[f"{layout} honest"] == 0
    assert receipt(runs / f"{layout} honest")["foots"] is True


@pytest.mark.parametrize(("layout", "fault"), CASES)
def test_the_fault_is_named(runs: Path, layout: str, fault: str) -> None:
    codes = json.loads((runs / "jobs.codes.json").read_text(encoding="utf-8"))
    found = receipt(runs / f"{layout} {fault}")
    assert found["foots"] is False
    assert codes[f"{layout} {fault}"] == 3
    causes = [cause for cause in found["causes"] if cause["kind"] in EXPECTED_KINDS[fault]]
    assert causes, found["causes"]
    assert {cause["step"] for cause in found["causes"]} == {STEP}
    if fault != "rate changed":
        assert {cause["rank"] for cause in causes} == {RANK}
