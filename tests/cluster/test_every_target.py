"""Two nodes with two ranks each, by every way to start: the losses of the dry run, and a footing receipt."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.lab import HEAD, Lab
from support.launching import ledger, receipt, small_config

pytestmark = [pytest.mark.distributed, pytest.mark.cluster]

STEPS = 3
LAUNCH = ("python", "-m", "crossfoot", "launch")
SLOTS = {"2 + 2": (2, 2), "2 + 1": (2, 1)}


SLOW = pytest.mark.slow
"""What `make test` leaves out, and CI does not."""


@pytest.fixture(scope="module", params=["2 + 2", pytest.param("2 + 1", marks=SLOW)])
def config(lab: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A run on two nodes, its hostfile, and its dry run."""
    slots = SLOTS[request.param]
    folder = tmp_path_factory.mktemp("runs")
    config = small_config(folder, cluster={"num_nodes": 2, "gpus_per_node": list(slots)})
    hosts = zip(lab.nodes, slots, strict=True)
    (folder / "hosts").write_text("".join(f"{node} slots={count}\n" for node, count in hosts))
    done = lab.run(HEAD, *LAUNCH, config, "--to", "accelerate", "--dry-run", "--steps", str(STEPS))
    assert done.returncode == 0, done.stdout
    assert f"{sum(slots)} ranks folded into this process" in done.stdout
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
        codes = {node: one.wait(timeout=600) for node, one in started.items()}
    except subprocess.TimeoutExpired:
        codes = {}
    told = "\n".join(f"---- {node}\n{file.read_text()}" for node, file in said.items())
    assert codes == dict.fromkeys(lab.nodes, 0), told
    return said["node1"].read_text()


HOSTS = ("--hostfile", "HOSTS")
WAYS = {
    "deepspeed": (from_head, ("--to", "deepspeed", *HOSTS)),
    "deepspeed-no-ssh": (from_each_node, ("--to", "deepspeed", "--no-ssh", *HOSTS)),
    "torchrun": (from_each_node, ("--to", "torchrun", *HOSTS)),
    "accelerate": (from_each_node, ("--to", "accelerate", *HOSTS)),
    "slurm": (from_head, ("--to", "slurm")),
    "slurm-torchrun": (from_head, ("--to", "slurm", "--tasks", "node")),
}
EVEN_ONLY = {"accelerate": "accelerate deals ranks out evenly", "slurm-torchrun": "on each node"}
UNEVEN_SHOWS = ("deepspeed-no-ssh", "torchrun")
"""Started by hand on each node, whose count it is told: that nodes differ is the harder case."""


@pytest.mark.parametrize(
    "way", [way if way in ("deepspeed", "slurm") else pytest.param(way, marks=SLOW) for way in WAYS]
)
def test_every_way_to_start_trains_what_the_dry_run_trained(lab: Lab, config: Path, way: str) -> None:
    start, told = WAYS[way]
    folder = config.parent
    is_uneven = "slots=1" in (folder / "hosts").read_text()
    if way in UNEVEN_SHOWS and not is_uneven:
        pytest.skip("shown on nodes that differ")
    run_dir, dry_dir = folder / way, folder / "run-dryrun"
    (folder / f"{way}-dryrun").symlink_to(dry_dir.name)
    words = (f"run.dir={run_dir}", *(word.replace("HOSTS", str(folder / "hosts")) for word in told))
    if is_uneven and way in EVEN_ONLY:
        done = lab.run("node1", *LAUNCH, config, *words)
        assert done.returncode == 1 and "error[CF496]" in done.stdout, done.stdout
        return
    said = start(lab, config, *words)
    assert f"dry run: the first {STEPS} steps agree with the dry run " in said
    assert receipt(run_dir)["foots"] is True, said
    lines, dry = ledger(run_dir), ledger(dry_dir)
    assert [line["samples_sha256"] for line in lines[:STEPS]] == [line["samples_sha256"] for line in dry]
    for real, folded in zip(lines, dry, strict=False):
        assert real["loss"] == pytest.approx(folded["loss"], rel=1e-5)
    attempt = json.loads((run_dir / "attempt-001" / "attempt.json").read_text())
    assert sorted(attempt["hosts"]) == list(lab.nodes)
    assert (attempt["job_id"] is not None) == way.startswith("slurm")
    for node in lab.nodes:
        assert lab.processes(node) == {}
