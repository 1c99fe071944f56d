"""Every way of starting a run wrongly, with real processes: refused with exit code 1, the code of the finding
and both sides of it, before anything is tokenised or a weight is loaded. Several nodes are several folders.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from support.launching import (
    ROOT,
    SCRIPTS,
    environment,
    free_port,
    small_config,
    start,
    together,
    write_samples,
)
from support.steering import Hold, Steering, until
from support.warm import Running

pytestmark = pytest.mark.distributed

MISTAKEN = ROOT / "tests" / "support" / "mistaken_train.py"
TRAIN = ROOT / "train.py"
ZERO2 = {"zero_optimization": {"stage": 2}}
Done = subprocess.CompletedProcess[str]


def node(folder: Path, zero: Mapping[str, object] = ZERO2, seed: int = 0) -> Path:
    """A node's own disk: the same names as on the others, and what this one has under them."""
    folder.mkdir()
    write_samples(folder / "data.jsonl", 40, seed)
    (folder / "zero.json").write_text(json.dumps(zero), encoding="utf-8")
    small_config(
        folder,
        run={"dir": "run"},
        data={"train": ["data.jsonl"], "index_dir": str(folder.parent / "index")},
        deepspeed="zero.json",
    )
    return folder


def torchrun_like(rank: int, port: int, **more: str) -> dict[str, str]:
    """What torchrun tells rank 0 or 1 of 2 on one machine."""
    told = {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    return {**told, **more}


def srun_like(task: int, layout: str, tasks: int, nodes: int, **more: str) -> dict[str, str]:
    """What srun tells a task, the last node's last; nothing says where to meet but the node list."""
    told = {
        "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task if nodes == 1 else 0),
        "SLURM_NODEID": str(0 if nodes == 1 else nodes - 1), "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_STEP_TASKS_PER_NODE": layout, "SLURM_NTASKS": str(tasks),
        "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": str(free_port()),
    }  # fmt: skip
    return {**told, **more}


def started(
    processes: Sequence[tuple[Path, Sequence[str], Mapping[str, str]]], hold: Hold | None = None
) -> list[Done]:
    """Start one process for each (folder, words, variables), at once, and wait for all. hold: where each of
    them is let go when all are there.
    """

    def let_go(running: Sequence[Running]) -> None:
        if hold is not None:
            until(lambda: set(hold.processes()) == {process.pid for process in running})
            hold.go()

    mistaken = [
        (folder, [MISTAKEN, "config.yaml", *words], environment() | variables)
        for folder, words, variables in processes
    ]
    return together(mistaken, timeout=300, meanwhile=let_go)


def said(done: Done) -> str:
    return done.stdout + done.stderr


def refused(done: Done, *words: str) -> None:
    """Exit code 1, every word, no traceback, and no weight was loaded."""
    assert done.returncode == 1, said(done)[-4000:]
    for word in words:
        assert word in done.stdout, f"{word!r} is not in:\n{said(done)[-4000:]}"
    assert "Traceback" not in said(done)
    assert "trained parameters" not in done.stderr


def nothing_was_tokenised(folder: Path) -> None:
    assert not any((folder / "index").glob("*/header.json"))
    assert not list(folder.glob("*/run"))


# --- what variables and the system show, before torch


@pytest.mark.lie("B17", answer="CF417")
def test_srun_without_a_place_to_meet(tmp_path: Path) -> None:
    here = node(tmp_path / "node1")
    variables = srun_like(1, "2", 2, 1)
    del variables["SLURM_JOB_ID"]
    (done,) = started([(here, [], variables)])
    refused(done, "error[CF417]: MASTER_PORT is not known", "SLURM_JOB_ID is not set")
    nothing_was_tokenised(tmp_path)


@pytest.mark.lie("U9", answer="CF435")
def test_unequal_tasks_on_two_nodes(tmp_path: Path) -> None:
    """As many ranks as planned, and nodes that nobody has planned."""
    here = node(tmp_path / "node1")
    words = ["cluster.num_nodes=1", "cluster.gpus_per_node=3"]
    (done,) = started([(here, words, srun_like(2, "2,1", 3, 2))])
    title = "the plan is for 1 node x 3 GPUs, but srun started 2 + 1 ranks on 2 nodes"
    refused(done, f"error[CF435]: {title}", "set cluster.gpus_per_node to [2, 1]", "srun --ntasks-per-node")
    assert done.stdout.count("error[") == 1
    nothing_was_tokenised(tmp_path)


def test_a_taken_port_and_an_unknown_address(tmp_path: Path) -> None:
    here = node(tmp_path / "node1")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        lost = torchrun_like(1, taken, MASTER_ADDR="no-such-node.invalid")
        holder, stranger = started([(here, [], torchrun_like(0, taken)), (here, [], lost)])
    refused(holder, f"error[CF434]: port {taken} on {socket.gethostname()}", "in use", "--master_port N")
    refused(stranger, "error[CF433]", "rank 1 on", "cannot look up MASTER_ADDR no-such-node.invalid")
    nothing_was_tokenised(tmp_path)


def test_variables_of_two_launchers(tmp_path: Path) -> None:
    here = node(tmp_path / "node1")
    both = torchrun_like(0, free_port(), LOCAL_SIZE="2", CROSS_RANK="0", CROSS_SIZE="1")
    (done,) = started([(here, [], both)])
    refused(done, "error[CF444]", "the deepspeed launcher: LOCAL_SIZE=2 CROSS_RANK=0 CROSS_SIZE=1")
    assert "torchrun: GROUP_RANK=0 GROUP_WORLD_SIZE=1" in done.stdout


def test_accelerate_inside_torchrun(tmp_path: Path) -> None:
    """Their variables fit together: only the chain of parents shows it."""
    here = node(tmp_path / "node1")
    torchrun = [SCRIPTS / "torchrun", "--nproc-per-node", "1", "--master-port", str(free_port())]
    accelerate = ["--no-python", SCRIPTS / "accelerate", "launch", "--cpu", "--num_processes", "1"]
    done = start([*torchrun, *accelerate, TRAIN, here / "config.yaml"])
    assert done.returncode == 1
    assert "error[CF444]: accelerate was started inside torchrun" in done.stdout, said(done)[-3000:]
    assert "launchers above this process: torchrun > accelerate" in done.stdout
    nothing_was_tokenised(tmp_path)


@pytest.mark.lie("U8", answer="CF442")
def test_accelerate_with_two_machines_starts_one_process(tmp_path: Path) -> None:
    """It sets no rank at all: each machine would train everything. (lie U8)"""
    here = node(tmp_path / "node1")
    absolute = [f"data.train=[{here}/data.jsonl]", f"deepspeed={here}/zero.json", f"run.dir={here}/run"]
    machines = ["--cpu", "--num_machines", "2", "--num_processes", "2", "--machine_rank", "0"]
    point = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    done = start(
        [SCRIPTS / "accelerate", "launch", *machines, *point, TRAIN, here / "config.yaml", *absolute]
    )
    assert done.returncode == 1
    assert "error[CF442]: this process has no rank, and by " in done.stdout, said(done)[-3000:]
    assert not (here / "run").exists()


# --- the preflight check


def test_another_node_has_another_everything(tmp_path: Path) -> None:
    """Config, DeepSpeed file, data, code, torch and device: each is named, with both values, in one go."""
    one, two = node(tmp_path / "node1"), node(tmp_path / "node2", {"zero_optimization": {"stage": 1}}, seed=1)
    package = tmp_path / "patched" / "crossfoot"
    shutil.copytree(ROOT / "src" / "crossfoot", package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "training" / "loss.py").open("a", encoding="utf-8") as file:
        file.write("\n# patched\n")
    metadata = tmp_path / "patched" / "torch-9.9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n", "utf-8")
    port = free_port()
    paths = os.pathsep.join([str(tmp_path / "patched"), str(ROOT / "tests")])
    mistake = {"CROSSFOOT_TEST_MISTAKE": "one gpu"}
    first, second = started(
        [
            (one, [], torchrun_like(0, port, **mistake)),
            (two, ["lr.reference=2e-3"], torchrun_like(1, port, PYTHONPATH=paths, **mistake)),
        ]
    )
    host = socket.gethostname()
    refused(
        first,
        f"error[CF424]: different config on rank 1 on {host}",
        f"lr.reference: 0.001 on rank 0 on {host}, 0.002 on rank 1",
        "error[CF425]: different DeepSpeed file",
        f"zero_optimization.stage: 2 on rank 0 on {host}, 1 on rank 1",
        "error[CF426]: different data",
        "same names, other content",
        "error[CF427]: different code",
        "training/loss.py: ",
        str(package),
        "error[CF428]: different torch",
        "9.9.9 on rank 1",
        "error[CF436]: ranks 0 and 1",
        "H100 uuid GPU-77",
    )
    assert second.returncode == 1 and second.stdout == "", "rank 0 speaks for all"
    nothing_was_tokenised(tmp_path)


def test_srun_tasks_without_variables_find_each_other(tmp_path: Path) -> None:
    """No MASTER_ADDR, no RANK: they meet at the step's first host, and are not a world each. (lie B17)"""
    one, two = node(tmp_path / "node1"), node(tmp_path / "node2", seed=1)
    job = {"SLURM_JOB_ID": str(free_port())}
    first, second = started(
        [(one, [], srun_like(0, "2", 2, 1, **job)), (two, [], srun_like(1, "2", 2, 1, **job))]
    )
    refused(first, "error[CF426]: different data on rank 1", "data.jsonl: ")
    assert first.stdout.count("error[") == 1
    assert second.returncode == 1 and second.stdout == ""
    nothing_was_tokenised(tmp_path)


@pytest.mark.lie("U2", "U9", answer="CF439")
@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (
            {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"},
            ("torchrun says 2 ranks on 1 node", "torchrun says 2 ranks on 2 nodes"),
        ),
        (
            {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"},
            ("torchrun says 2 ranks on 1 node", "torchrun says 3 ranks on 1 node"),
        ),
    ],
    ids=["another local size", "another world size"],
)
def test_ranks_that_were_told_different_worlds(
    tmp_path: Path, theirs: dict[str, str], words: tuple[str, ...]
) -> None:
    here, port = node(tmp_path / "node1"), free_port()
    size = ["cluster.gpus_per_node=2", "cluster.num_nodes=1"]
    other = [f"cluster.gpus_per_node={theirs['WORLD_SIZE']}", size[1]] if "WORLD_SIZE" in theirs else size
    first, second = started(
        [(here, size, torchrun_like(0, port)), (here, other, torchrun_like(1, port, **theirs))]
    )
    refused(first, "error[CF439]: the ranks were told different numbers of ranks or nodes", *words)
    assert second.returncode == 1
    nothing_was_tokenised(tmp_path)


def test_a_rank_that_never_comes(tmp_path: Path) -> None:
    here, port = node(tmp_path / "node1"), free_port()
    (alone,) = started([(here, [], torchrun_like(0, port, CROSSFOOT_TEST_PATIENCE="1"))])
    refused(alone, "error[CF432]: 1 of 2 ranks did not come within 1 s: 1", f"127.0.0.1:{port}")
    assert f"rank 0 on {socket.gethostname()}" in alone.stdout
    nothing_was_tokenised(tmp_path)


def test_rank_0_that_never_comes(tmp_path: Path) -> None:
    here, port = node(tmp_path / "node1"), free_port()
    (alone,) = started([(here, [], torchrun_like(1, port, CROSSFOOT_TEST_PATIENCE="1"))])
    refused(alone, "error[CF448]: rank 1 on", f"found nobody at 127.0.0.1:{port}", "connection refused")
    nothing_was_tokenised(tmp_path)


def test_two_processes_that_are_one_rank(tmp_path: Path) -> None:
    here, port = node(tmp_path / "node1"), free_port()
    steering = Steering(tmp_path / "steering")
    other = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "CROSSFOOT_TEST_PATIENCE": "3"}
    other |= steering.variables
    words = ["cluster.gpus_per_node=3"]
    mistaken = [(here, words, torchrun_like(rank, port, **other)) for rank in (0, 1, 1)]
    done = started(mistaken, steering.hold("meeting"))
    assert [one.returncode for one in done] == [1, 1, 1]
    refused(
        max(done[1:], key=lambda one: "CF446" in one.stdout),
        "error[CF446]: more than one process is rank 1",
        "(process ",
    )
    nothing_was_tokenised(tmp_path)


def test_a_run_folder_on_each_nodes_own_disk(tmp_path: Path) -> None:
    """On the second node it does not even exist."""
    one, two, port = node(tmp_path / "node1"), node(tmp_path / "node2"), free_port()
    first, second = started([(one, [], torchrun_like(0, port)), (two, [], torchrun_like(1, port))])
    refused(first, "error[CF421]", "rank 1 on", "does not see the run folder run that rank 0")
    assert second.returncode == 1 and "error[" not in second.stdout
    assert not (one / "run").exists() and not (two / "run").exists(), "free again"


# --- the read-back


@pytest.mark.lie("U1", "U3", answer="CF431")
def test_deepspeed_that_is_silently_absent(tmp_path: Path) -> None:
    """deepspeed.initialize gives back the bare model: nobody shards, nobody adds up gradients. (lie U1)"""
    here = node(tmp_path / "node1")
    alone = {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "CROSSFOOT_TEST_MISTAKE": "no deepspeed"}
    (done,) = started([(here, [], torchrun_like(0, free_port(), **alone))])
    assert done.returncode == 1, said(done)[-3000:]
    assert "error[CF431]: the engine is crossfoot.SummedLoss, not deepspeed.DeepSpeedEngine" in done.stdout
    assert "Traceback" not in said(done)
    assert not (here / "run").exists()


@pytest.mark.lie("B10", "B11", "B14/15", answer="CF430")
def test_numbers_that_deepspeed_believes_otherwise(tmp_path: Path) -> None:
    """Without crossfoot's own number in its config DeepSpeed clips at 1.0, and counts what it was told."""
    here = node(tmp_path / "node1")
    alone = {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "CROSSFOOT_TEST_MISTAKE": "numbers left out"}
    words = ["optimizer.max_grad_norm=0.25"]
    (done,) = started([(here, words, torchrun_like(0, free_port(), **alone))])
    assert done.returncode == 1, said(done)[-3000:]
    for believed in (
        "deepspeed believes gradient_clipping is 1.0, the plan says 0.25",
        "deepspeed believes gradient_accumulation_steps is 3, the plan says 4",
        "deepspeed believes train_batch_size is 6, the plan says 8",
    ):
        assert f"error[CF430]: {believed}" in done.stdout, said(done)[-3000:]
    assert "Traceback" not in said(done)
