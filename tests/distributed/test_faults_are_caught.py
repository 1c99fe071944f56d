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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One 2-rank ZeRO-2 run a fault, and an honest one, in one launch."""
    folder = tmp_path_factory.mktemp("faults")
    batch = {"micro_batch_size": 2, "grad_accum_steps": 3, "global_batch_size": 12}
    config = small_config(folder, batch=batch, train={"max_steps": 5})
    jobs = [
        {"name": name, "config": str(config), "overrides": [f"run.dir={folder / name}"], "fault": fault}
        for name, fault in [("honest", None), *((fault, fault) for fault in FAULTS)]
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = deepspeed(2, ROOT / "tests" / "support" / "many_runs.py", folder / "jobs.json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder


def test_the_honest_run_foots(runs: Path) -> None:
    codes = json.loads((runs / "jobs.codes.json").read_text(encoding="utf-8"))
    assert codes["honest"] == 0
    assert receipt(runs / "honest")["foots"] is True


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_named(runs: Path, fault: str) -> None:
    codes = json.loads((runs / "jobs.codes.json").read_text(encoding="utf-8"))
    found = receipt(runs / fault)
    assert found["foots"] is False
    assert codes[fault] == 3
    causes = [cause for cause in found["causes"] if cause["kind"] in EXPECTED_KINDS[fault]]
    assert causes, found["causes"]
    assert {cause["step"] for cause in found["causes"]} == {STEP}
    if fault != "rate changed":
        assert {cause["rank"] for cause in causes} == {RANK}
