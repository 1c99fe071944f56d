"""README.md lists what crossfoot does not do: each is asked for here, and refused. Nowhere else is it said
that something is missing: such words outlive the gap.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crossfoot.cli import main
from support.launching import ROOT, write_samples
from support.model_folders import write_model

SMALL: dict[str, Any] = {
    "run": {"name": "demo"},
    "model": {"path": "builtin:tiny"},
    "data": {"train": ["a.jsonl"], "max_seq_len": 256},
    "batch": {"micro_batch_size": 4, "grad_accum_steps": 1},
    "cluster": {"num_nodes": 1, "gpus_per_node": 2},
    "lr": {"reference": 1e-4},
    "train": {"epochs": 1},
    "deepspeed": "ds.json",
}
STAGE_2: dict[str, Any] = {"zero_optimization": {"stage": 2}}
ON_DISK = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}
QUANTISED = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
TRIES: dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]] = {
    "packing families with an attention of their own (bloom, falcon, mamba ...; they train padded)": (
        ["model.path=model"],
        STAGE_2,
        {"model_type": "bloom"},
    ),
    "tensor, sequence and expert parallelism": ([], {**STAGE_2, "sequence_parallel_size": 2}, {}),
    "offloading to disks, or with an optimizer of DeepSpeed's own": ([], ON_DISK, {}),
    "base models that are stored quantised (GPTQ, AWQ, bitsandbytes, fp8)": (
        ["model.path=model"],
        STAGE_2,
        QUANTISED,
    ),
    "models that are not causal language models": (["model.path=model"], STAGE_2, {"model_type": "bert"}),
    "bfloat16 and float16 on ZeRO stage 0": (
        ["model.dtype=bfloat16"],
        {"zero_optimization": {"stage": 0}},
        {},
    ),
}
"""name in the list -> overrides, the DeepSpeed file, and what changes a model's config.json."""
LIMITS = (ROOT / "README.md").read_text(encoding="utf-8").split("## Limits today")[1].split("\n## ")[0]
NOT_SUPPORTED = dict(re.findall(r"^- (.*): (CF\d{3})$", LIMITS, re.MULTILINE))
"""What is not there -> the code of the finding that refuses it."""
STALE = re.compile(
    r"in this version|this version|for now\b|later version|future version|supported yet|implemented yet"
    r"|not decided|comes with (checkpoints|a later)|not yet (supported|possible|implemented|done)",
    re.IGNORECASE,
)


def test_each_that_is_listed_is_tried() -> None:
    assert NOT_SUPPORTED.keys() == TRIES.keys()


@pytest.mark.parametrize("name", TRIES)
def test_what_is_said_to_be_missing_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, deepspeed, changes = TRIES[name]
    monkeypatch.chdir(tmp_path)
    write_samples(tmp_path / "a.jsonl", 16)
    Path("run.yaml").write_text(json.dumps(SMALL))
    Path("ds.json").write_text(json.dumps(deepspeed))
    if changes:
        write_model(tmp_path / "model", **changes)
    assert main(["check", "run.yaml", *overrides, "--format", "json"]) in (1, 2)
    errors = [one["code"] for one in json.loads(capsys.readouterr().out) if one["severity"] == "error"]
    assert NOT_SUPPORTED[name] in errors


def test_the_same_run_without_it_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_samples(tmp_path / "a.jsonl", 16)
    Path("run.yaml").write_text(json.dumps(SMALL))
    Path("ds.json").write_text(json.dumps(STAGE_2))
    main(["check", "run.yaml", "--format", "json"])
    found = {one["code"] for one in json.loads(capsys.readouterr().out)}
    assert not found & set(NOT_SUPPORTED.values())


def test_nowhere_else_is_something_said_to_be_missing() -> None:
    folders = ("src", "docs", "configs", "ds_configs", "launch")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    found = []
    for path in [ROOT / "README.md", *files]:
        if path.suffix in (".py", ".md", ".yaml", ".json", ".sh", ".sbatch", ".html"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if STALE.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "the list in README.md is the place for it"
