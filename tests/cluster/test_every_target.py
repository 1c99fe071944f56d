"""Two nodes with two ranks each, by every way to start: the losses of the dry run, and a footing receipt."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.lab import HEAD, Lab
from support.launching import ledger, receipt, small_config

pytestmark = [pytest.mark.distributed, pytest.mark.cluster]

STEPS = 3
LAUNCH = ("python", "-m", "crossfoot", "launch")
Ways = dict[str, Callable[[Lab, Path, str], None]]


@pytest.fixture(scope="module")
def config(lab: Lab, folder: Path) -> Path:
    """A run on 2 x 2 ranks, its hostfile, and its dry run."""
    config = small_config(folder, cluster={"num_nodes": 2, "gpus_per_node": 2})
    (folder / "hosts").write_text("".join(f"{node} slots=2\n" for node in lab.nodes))
    done = lab.run(HEAD, *LAUNCH, config, "--to", "accelerate", "--dry-run", "--steps", str(STEPS))
    assert done.returncode == 0, done.stdout
    return config


def from_head(lab: Lab, config: Path, *words: str) -> str:
    """`crossfoot launch` on head. What it printed."""
    done = lab.run(HEAD, *LAUNCH, config, *words)
    assert done.returncode == 0, done.stdout
    return done.stdout


def from_each_node(lab: Lab, config: Path, *words: str) -> str:
    """`crossfoot launch` on each node at once. What node1 printed."""
    said = {node: config.parent / f"said-{node}.txt" for node in lab.nodes}
    started = {node: lab.popen(node, *LAUNCH, config, *words, said=said[node]) for node in lab.nodes}
    try:
        codes = {node: one.wait(timeout=300) for node, one in started.items()}
    except subprocess.TimeoutExpired:
        codes = {}
    told = "\n".join(f"---- {node}\n{file.read_text()}" for node, file in said.items())
    assert codes == dict.fromkeys(lab.nodes, 0), told
    return said["node1"].read_text()


WAYS = {
    "deepspeed": (from_head, ("--to", "deepspeed", "--hostfile", "HOSTS")),
    "deepspeed-no-ssh": (from_each_node, ("--to", "deepspeed", "--no-ssh", "--hostfile", "HOSTS")),
    "torchrun": (from_each_node, ("--to", "torchrun", "--address", "node1")),
    "accelerate": (from_each_node, ("--to", "accelerate", "--hostfile", "HOSTS")),
    "slurm": (from_head, ("--to", "slurm")),
    "slurm-torchrun": (from_head, ("--to", "slurm", "--tasks", "node")),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_start_trains_what_the_dry_run_trained(
    lab: Lab, folder: Path, config: Path, way: str
) -> None:
    start, words = WAYS[way]
    run_dir = folder / way
    (folder / f"{way}-dryrun").symlink_to("run-dryrun")
    said = start(
        lab, config, f"run.dir={run_dir}", *(word.replace("HOSTS", str(folder / "hosts")) for word in words)
    )
    assert receipt(run_dir)["foots"] is True, said
    lines, dry = ledger(run_dir), ledger(folder / "run-dryrun")
    assert [line["samples_sha256"] for line in lines[:STEPS]] == [line["samples_sha256"] for line in dry]
    for real, folded in zip(lines, dry, strict=False):
        assert real["loss"] == pytest.approx(folded["loss"], rel=1e-5)
    assert f"dry run: the first {STEPS} steps agree with the dry run " in said
    attempt = json.loads((run_dir / "attempt-001" / "attempt.json").read_text())
    print(attempt)
    print(said)
    for node in lab.nodes:
        assert lab.processes(node) == {}
