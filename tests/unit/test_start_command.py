"""How a run was started is told by the launcher above it, else by what its ranks know."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from crossfoot.environment import start_command as module
from crossfoot.environment.start_command import start_command
from crossfoot.environment.world import Launcher, World
from crossfoot.runs.attempts import Attempt, write_attempt
from crossfoot.runs.resume_command import resume_command

PYTHON = "/no/such/bin/python"


def world(launcher: Launcher, ranks: int = 2, nodes: int = 1) -> World:
    each = divmod(ranks, nodes)[0]
    return World(0, ranks, 0, each, 0, nodes, launcher, (), (each,) * nodes)


def started(
    monkeypatch: pytest.MonkeyPatch, place: World, above: str = "", own: str = f"{PYTHON} train.py my.yaml"
) -> str:
    """The command of a process that was started so. above: its parents' command lines, the nearest first."""
    lines = [line.split() for line in above.splitlines()]
    monkeypatch.setattr(module, "above", lambda: range(len(lines)))
    monkeypatch.setattr(module, "words_of", lambda number: lines[number])
    monkeypatch.setattr(module, "called", lambda program: program.rpartition("/")[2])
    monkeypatch.setattr(sys, "orig_argv", own.split())
    return " ".join(start_command(place, "my.yaml", ["train.epochs=2"]))


@pytest.mark.parametrize(
    ("launcher", "above", "command"),
    [
        (
            "deepspeed",
            f"{PYTHON} -u -m deepspeed.launcher.launch --world_info=x train.py my.yaml\n"
            f"{PYTHON} /no/such/bin/deepspeed --num_gpus 2 train.py my.yaml --stop-after 3\nbash",
            "deepspeed --num_gpus 2 train.py my.yaml train.epochs=2",
        ),
        (
            "deepspeed",
            f"{PYTHON} /no/such/bin/deepspeed --hostfile hosts --module crossfoot train my.yaml",
            "deepspeed --hostfile hosts --module crossfoot train my.yaml train.epochs=2",
        ),
        (
            "torchrun",
            f"{PYTHON} /no/such/bin/torchrun --nnodes 2 --node-rank 0 train.py --allow x my.yaml",
            "torchrun --nnodes 2 --node-rank 0 train.py my.yaml train.epochs=2",
        ),
        (
            "torchrun",
            f"{PYTHON} -m torch.distributed.run --nproc-per-node 2 -m crossfoot train my.yaml",
            "python -m torch.distributed.run --nproc-per-node 2 -m crossfoot train my.yaml train.epochs=2",
        ),
        (
            "accelerate",
            f"{PYTHON} /no/such/bin/accelerate launch --cpu train.py my.yaml",
            "accelerate launch --cpu train.py my.yaml train.epochs=2",
        ),
    ],
)
def test_a_launcher_that_is_seen(
    launcher: Launcher, above: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(monkeypatch, world(launcher), above) == command


@pytest.mark.parametrize(
    ("place", "command"),
    [
        (world("deepspeed"), "deepspeed --num_gpus 2 train.py"),
        (world("deepspeed", 4, 2), "deepspeed --hostfile HOSTFILE --num_nodes 2 train.py"),
        (world("torchrun"), "torchrun --nproc-per-node 2 train.py"),
        (world("srun", 4, 2), "srun --nodes 2 --ntasks 4 --ntasks-per-node 2 python train.py"),
        (world("plain", 1), "python train.py"),
        (world("accelerate", 1), "python train.py"),
    ],
)
def test_a_launcher_that_is_not_seen(place: World, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over ssh, as a task of SLURM, in another container."""
    assert started(monkeypatch, place) == f"{command} my.yaml train.epochs=2"


def test_another_run_above_is_not_taken_for_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    above = f"{PYTHON} /no/such/bin/torchrun --nproc-per-node 4 sweep.py other.yaml"
    assert started(monkeypatch, world("plain", 1), above) == "python train.py my.yaml train.epochs=2"


def test_a_call_from_python_is_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    said = started(monkeypatch, world("plain", 1), own=f"{PYTHON} -c call()")
    assert said == "crossfoot train my.yaml train.epochs=2"


@pytest.mark.parametrize(
    ("command", "nodes", "resumed"),
    [
        (
            "deepspeed --num_gpus 2 train.py my.yaml",
            1,
            "deepspeed --num_gpus 2 train.py my.yaml --continue {}",
        ),
        (
            "torchrun --nnodes 2 --node-rank 0 train.py c.yaml",
            2,
            "torchrun --nnodes 2 --node-rank 0 train.py c.yaml --continue {}   "
            "# on each node, with its own --node-rank",
        ),
        (
            "torchrun --nnodes 2 --rdzv-endpoint a:1 train.py c.yaml",
            2,
            "torchrun --nnodes 2 --rdzv-endpoint a:1 train.py c.yaml --continue {}   # on each node",
        ),
        ("deepspeed --hostfile h train.py c.yaml", 2, "deepspeed --hostfile h train.py c.yaml --continue {}"),
        (
            "srun python train.py c.yaml",
            2,
            "srun python train.py c.yaml --continue {}   # in the script of the job",
        ),
        ("rm train.py c.yaml", 1, "crossfoot train CONFIG --continue {}"),
        ("", 1, "crossfoot train CONFIG --continue {}"),
    ],
)
def test_it_goes_on_the_same_way(command: str, nodes: int, resumed: str, tmp_path: Path) -> None:
    (tmp_path / "attempt-001").mkdir()
    hosts = tuple(f"n{number}" for number in range(nodes))
    attempt = Attempt(
        *(1, 0, None, 2, nodes, 2, "deepspeed", 2, hosts, None, "2026-01-01T00:00:00+00:00"),
        command=tuple(command.split()),
    )
    write_attempt(str(tmp_path), attempt)
    assert resume_command(str(tmp_path)) == resumed.format(tmp_path)
