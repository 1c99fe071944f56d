"""`crossfoot prove` under the real launchers: PROVEN, and NOT PROVEN and named with a planted mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossfoot.probing.compare import BOUNDS
from support.launching import ROOT, SCRIPTS, deepspeed, free_port, small_config, start

pytestmark = pytest.mark.distributed

BATCH = {"micro_batch_size": 2, "grad_accum_steps": 3, "global_batch_size": 12}
PADDED, RECOMPUTED = "data.layout=padded", "model.gradient_checkpointing=true"
RSLORA, DORA = "lora.scaling=rslora", "lora.dora=true"
ZERO = [f"deepspeed=ds_configs/zero{stage}.json" for stage in range(4)]
HONEST = {
    "zero0": [ZERO[0], RECOMPUTED],
    "zero0 padded": [ZERO[0], PADDED],
    "zero1": [ZERO[1]],
    "zero1 padded": [ZERO[1], PADDED, RECOMPUTED, DORA],
    "zero2": [ZERO[2], RECOMPUTED],
    "zero2 padded": [ZERO[2], PADDED, RSLORA],
    "zero3": [ZERO[3], "lora=null"],
    "zero3 padded": [ZERO[3], PADDED, RECOMPUTED, DORA],
    "bfloat16 zero1": [ZERO[1], "model.dtype=bfloat16", DORA, RSLORA],
    "bfloat16 zero2": [ZERO[2], "model.dtype=bfloat16"],
}
"""Every engine with both layouts and with and without checkpointing, and those two with each other; DoRA and
rsLoRA among them.
"""
FAULTS = {
    "sum instead of mean": ("zero2", "dp_degree (a sum over ranks instead of a mean)"),
    "accumulation twice": ("zero2", "1/grad_accum_steps (divided by accumulation twice"),
    "missing dp factor": ("zero3", "1/dp_degree (the missing dp factor"),
    "mean of means": ("bfloat16 zero2", "mean of means over forwards"),
    "dropped tail": ("zero0", "the tail is dropped: the last slot"),
    "attention crosses": (
        "zero1",
        "attention crosses samples: in a packed row each sample sees those before",
    ),
    "positions run on": ("zero2", "attention crosses samples: in a packed row each sample sees those before"),
    "zero group": ("zero2", None),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The honest proofs and those with a mistake, in one launch of two ranks."""
    folder = tmp_path_factory.mktemp("proofs")
    config = small_config(folder, batch=BATCH)
    (folder / "data.jsonl").unlink()
    jobs = [{"name": name, "config": str(config), "overrides": words} for name, words in HONEST.items()]
    jobs += [
        {"name": fault, "config": str(config), "overrides": HONEST[base], "fault": fault}
        for fault, (base, _) in FAULTS.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = deepspeed(2, ROOT / "tests" / "support" / "many_proofs.py", folder / "jobs.json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder


def _page(folder: Path, name: str) -> dict[str, Any]:
    page: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return page


@pytest.mark.parametrize("name", HONEST)
def test_two_deepspeed_ranks_are_proven(pages: Path, name: str) -> None:
    page = _page(pages, name)
    assert page["proven"] is True, page
    assert page["exit_codes"] == [0, 0]
    assert (page["engine"], page["dp_degree"], page["folded"]) == ("deepspeed", 2, False)
    assert page["zero_stage"] == int(HONEST[name][0].removesuffix(".json")[-1])
    assert page["empty_slots"] == 1
    assert page["samples"] < page["capacity_samples"] == 12
    assert {size for _, size in page["slot_sizes"]} == {0, 1, 2}
    bound = BOUNDS[page["dtype"]]
    assert all(0 < group["relative_error"] <= group["bound"] == bound for group in page["groups"])
    assert all(group["reference"] > 0 for group in page["groups"])
    wanted = "q_proj" if name == "zero3" else "q_proj.lora_A"
    assert wanted in {group["name"] for group in page["groups"]}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_mistake_is_not_proven_and_named(pages: Path, fault: str) -> None:
    page = _page(pages, fault)
    assert page["proven"] is False
    assert page["exit_codes"] == [3, 3]
    assert page["finding"]["code"] == "CF750"
    name = FAULTS[fault][1]
    if name is None:
        assert "reference is zero" in page["finding"]["title"]
        assert "q_proj.lora_A" in page["finding"]["title"]
    else:
        assert page["cause"].startswith(name), page["cause"]
        assert name in page["finding"]["title"]


def test_the_run_folder_is_not_touched(pages: Path) -> None:
    assert not (pages / "run").exists()
    assert not (pages / "index").exists()


def test_three_torchrun_ranks_are_proven(tmp_path: Path) -> None:
    config = small_config(tmp_path, batch=BATCH | {"global_batch_size": 17})
    launcher = [SCRIPTS / "torchrun", "--nproc_per_node", "3", "--master_port", str(free_port())]
    words = ["-m", "crossfoot", "prove", config, "deepspeed=ds_configs/zero1.json"]
    done = start([*launcher, *words], TMPDIR=str(_scratch(tmp_path)))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert done.stdout.splitlines()[-1] == "PROVEN"
    assert "1 node x 3 GPUs, ZeRO-1, float32, LoRA r=4" in done.stdout
    assert not list(_scratch(tmp_path).glob("crossfoot-*")), "scratch is left behind"
    assert not (tmp_path / "run").exists()


def test_one_accelerate_process_proves_the_folded_plan(tmp_path: Path) -> None:
    config = small_config(tmp_path, batch=BATCH, cluster={"gpus_per_node": 2, "num_nodes": 1})
    launcher = [SCRIPTS / "accelerate", "launch", "--num_processes", "1", "--num_machines", "1"]
    words = [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "crossfoot",
        "prove",
        config,
        "--json",
    ]
    done = start([*launcher, *words], TMPDIR=str(_scratch(tmp_path)))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    page = json.loads(done.stdout)
    assert page["proven"] is True
    assert (page["engine"], page["folded"], page["dp_degree"]) == ("accelerate", True, 2)
    assert not list(_scratch(tmp_path).glob("crossfoot-*"))


@pytest.mark.slow
def test_the_deepspeed_launcher_takes_the_module(tmp_path: Path) -> None:
    """As the README says it, on the shipped demo."""
    launcher = [SCRIPTS / "deepspeed", "--num_gpus", "2", "--master_port", str(free_port())]
    done = start([*launcher, "--module", "crossfoot", "prove", "configs/demo.yaml"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    lines = done.stdout.splitlines()
    assert "PROVEN" in lines
    assert sum("proof  demo" in line for line in lines) == 1


def _scratch(folder: Path) -> Path:
    """Where temporary folders of a proof are made."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return scratch
