"""What goes wrong on clusters when a run is started: each is said with its cause and its repair, before or
instead of a traceback.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from crossfoot.liveness.heartbeats import read_heartbeats
from support.lab import HEAD, Lab, wait_for
from support.launching import SCRIPTS, receipt, small_config
from support.slurm_lab import job_field
from support.steering import Steering, wait_until_held

pytestmark = [pytest.mark.distributed, pytest.mark.cluster]

LAUNCH = ("python", "-m", "crossfoot", "launch")
IN_TIME = 600.0


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    """A run on 2 x 1 ranks, and its hostfile."""
    (folder / "hosts").write_text("node1 slots=1\nnode2 slots=1\n")
    return small_config(
        folder,
        cluster={"num_nodes": 2, "gpus_per_node": 1},
        batch={"global_batch_size": 28},
        faults={"timeout_seconds": 10.0},
    )


def refused(lab: Lab, config: Path, *words: str | Path, **environ: str) -> str:
    """`crossfoot launch` on head, which must refuse. What it said; nothing of the run is there."""
    run_dir = config.parent / "refused"
    done = lab.run(HEAD, *LAUNCH, config, f"run.dir={run_dir}", *words, **environ)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    assert not (run_dir / "attempt-001").exists()
    return done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (
            ("--partition", "gpus"),
            ("error[CF487]: SLURM has no partition gpus", "help: name one that exists: --partition NAME"),
        ),
        (
            ("cluster.num_nodes=5",),
            ("error[CF487]: SLURM has no nodes for this job: 5 nodes x 1 CPU rank = 5 ranks", "sinfo -o"),
        ),
        (
            ("--cpus-per-task", "64"),
            ("error[CF487]: SLURM has no nodes for this job: 2 nodes x 1 CPU rank", "64 CPUs for each"),
        ),
    ),
    ids=("partition", "nodes", "cpus"),
)
def test_what_slurm_does_not_have(
    lab: Lab, config: Path, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    told = refused(lab, config, "--to", "slurm", *words)
    for part in said:
        assert part in told
    assert "note: sbatch says: " in told


def test_more_gpus_than_a_node_has(lab: Lab, config: Path) -> None:
    told = refused(lab, config, "--to", "slurm", "cluster.gpus_per_node=4", DS_ACCELERATOR="")
    assert "error[CF487]: SLURM has no " in told
    assert "4 on each node are asked for" in told or "2 nodes x 4 GPUs = 8 ranks" in told


def test_slurm_that_does_not_answer(lab: Lab, config: Path, tmp_path: Path) -> None:
    conf = (lab.folder / "slurm" / "slurm.conf").read_text()
    (tmp_path / "slurm.conf").write_text(conf.replace("10.77.0.254", "10.77.0.99") + "MessageTimeout=3\n")
    elsewhere = str(tmp_path / "slurm.conf")
    told = refused(lab, config, "--to", "slurm", SLURM_CONF=elsewhere)
    assert "error[CF493]: sbatch gets no answer from SLURM" in told
    assert "scontrol ping" in told


def test_no_slurm_here(lab: Lab, config: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {SCRIPTS / "python"} "$@"\n')
    python.chmod(0o755)
    told = refused(lab, config, "--to", "slurm", PATH=str(tmp_path))
    for program in ("sbatch", "srun", "squeue", "scontrol"):
        assert f"error[CF482]: {program} is not here, and --to slurm starts with it" in told
    assert "start from a login node of the cluster" in told


def test_a_job_that_waits_says_why_and_one_that_is_cancelled_says_so(
    lab: Lab, folder: Path, config: Path
) -> None:
    blocker = lab.popen(
        HEAD, "srun", "--nodes=2", "--exclusive", "sleep", "3000", said=folder / "blocker.txt"
    )
    wait_for(lambda: "R" in lab.run(HEAD, "squeue", "-h", "-o", "%t").stdout, IN_TIME, "it never ran")
    said = folder / "waiting.txt"
    run_dir = folder / "waiting"
    job = lab.popen(HEAD, *LAUNCH, config, "--to", "slurm", f"run.dir={run_dir}", said=said)
    wait_for(lambda: "is pending: " in said.read_text(), IN_TIME, said.read_text)
    assert re.search(r"job \d+ is pending: Resources, waits for nodes to become free", said.read_text())
    number = re.search(r"submitted job (\d+)", said.read_text())
    assert number
    again = lab.run(HEAD, *LAUNCH, config, "--to", "slurm", f"run.dir={run_dir}")
    assert f"error[CF488]: job {number[1]} for {run_dir} is still in the queue (PENDING)" in again.stdout
    lab.run(HEAD, "scancel", number[1])
    assert job.wait(timeout=IN_TIME) == 1, said.read_text()
    assert f"error[CF492]: job {number[1]} ended (CANCELLED), and the run has not begun" in said.read_text()
    lab.run(HEAD, "scancel", "--user=root")
    blocker.wait(timeout=IN_TIME)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_job_which_goes_on_with_one_node(
    lab: Lab, folder: Path, config: Path
) -> None:
    run_dir, said = folder / "killed", folder / "killed.txt"
    steps = ("train.max_steps=12", "checkpoint.every_steps=5")
    steering = Steering(folder / "steering-killed")
    hold = steering.hold("step", 8)
    words = (*LAUNCH, config, "--to", "slurm", f"run.dir={run_dir}", *steps)
    job = lab.popen(HEAD, *words, said=said, **steering.variables)
    wait_until_held(hold, 2, job, said.read_text)
    beats = [beat for beat in read_heartbeats(run_dir) if beat.rank == 1]
    lab.kill(beats[0].host, beats[0].pid)
    hold.go()
    assert job.wait(timeout=IN_TIME) == 1, said.read_text()
    assert f"error[CF773]: rank 1 on {beats[0].host} is lost" in said.read_text()
    number = json.loads((run_dir / "attempt-001" / "attempt.json").read_text())["job_id"]
    assert job_field(lab, number, "JobState") == "FAILED"
    assert job_field(lab, number, "Restarts") == "0", "a job that failed is not queued again by itself"
    wait_for(lambda: not any(map(lab.processes, lab.nodes)), IN_TIME, "something still runs")
    less = ("cluster.num_nodes=1", "--continue", run_dir)
    done = lab.run(HEAD, *LAUNCH, config, *steps, "--to", "slurm", *less)
    assert done.returncode == 0, done.stdout
    document = receipt(run_dir)
    assert document["foots"] is True
    assert document["applied_steps"] == 12


def test_a_node_that_cannot_be_reached(lab: Lab, folder: Path, config: Path) -> None:
    lab.cut("node2")
    try:
        told = refused(lab, config, "--to", "deepspeed", "--hostfile", folder / "hosts")
    finally:
        lab.mend("node2")
    assert re.search(r"error\[CF400\]: node2 .*", told), told
    assert "No route to host" in told or "timed out" in told, told
    assert "help: look whether node2 is up, and at the network and firewall in between" in told


def test_a_name_that_is_no_node(lab: Lab, folder: Path, config: Path) -> None:
    (folder / "typo").write_text("node1 slots=1\nnoode2 slots=1\n")
    told = refused(lab, config, "--to", "deepspeed", "--hostfile", folder / "typo")
    assert "error[CF400]: noode2 " in told
    assert "ould not resolve hostname noode2" in told


def test_a_package_that_is_missing_on_one_node(lab: Lab, folder: Path, config: Path) -> None:
    """The folder of the package is covered on node2, in its own view of the disk."""
    import peft

    package = Path(peft.__file__).parent
    covered = [package, *package.parent.glob("peft-*.dist-info")]
    for path in covered:
        assert lab.run("node2", "mount", "-t", "tmpfs", "tmpfs", path).returncode == 0
    try:
        told = refused(lab, config, "--to", "deepspeed", "--hostfile", folder / "hosts")
    finally:
        for path in covered:
            lab.run("node2", "umount", path)
    assert "error[CF401]: peft is not installed on node2" in told, told
    assert "help: pip install" in told


def test_other_code_on_one_node(lab: Lab, folder: Path, config: Path, tmp_path: Path) -> None:
    import crossfoot

    file = Path(crossfoot.__file__)
    (tmp_path / "edited.py").write_text(file.read_text() + "# edited\n")
    assert lab.run("node2", "mount", "--bind", tmp_path / "edited.py", file).returncode == 0
    try:
        told = refused(lab, config, "--to", "deepspeed", "--hostfile", folder / "hosts")
    finally:
        lab.run("node2", "umount", file)
    assert "error[CF402]: the nodes have different crossfoot's code" in told


@pytest.mark.slow
def test_a_port_that_is_taken(lab: Lab, folder: Path, config: Path) -> None:
    listen = "import socket, time; s = socket.socket(); s.bind(('', 29500)); s.listen(); time.sleep(3000)"
    holder = lab.popen("node1", "python", "-c", listen, said=folder / "holder.txt")
    wait_for(
        lambda: ":29500" in lab.run("node1", "ss", "-ltn").stdout, IN_TIME, (folder / "holder.txt").read_text
    )
    try:
        told = refused(lab, config, "--to", "deepspeed", "--hostfile", folder / "hosts")
    finally:
        holder.kill()
        holder.wait()
    assert "error[CF434]: port 29500 on node1, where the ranks are to meet, cannot be had" in told
    assert "help: take another port" in told
