"""What the rules say about launch scripts, for CONFIG: 2 nodes with 8 GPUs each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crossfoot.checks.registry import Facts
from crossfoot.checks.rules import run_static_rules
from crossfoot.findings.finding import Finding
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.launch.read import read_launch_file
from crossfoot.written.launch.statement import LaunchFile
from crossfoot.written.run_file import load_run
from launch_scripts import CONFIG, HOSTFILE

ONE_NODE = "cluster.num_nodes=1"
FOUR_GPUS = "cluster.gpus_per_node=4"
NO_CLUSTER = ("cluster.num_nodes=null", "cluster.gpus_per_node=null")
ZERO2 = DeepSpeedFile("zero2.json", {"zero_optimization": {"stage": 2}})
MEET = "--rdzv-backend c10d --rdzv-endpoint node-1:29500"


TORCHRUN = "torchrun --nnodes 2 --nproc-per-node 8"
ACCELERATE = "accelerate launch --multi_gpu --num_machines 2 --machine_rank 0"


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("hosts").write_text(HOSTFILE)
    Path("hosts3").write_text("n1 slots=8\nn2 slots=8\nn3 slots=8\n")

    def _found(*launch: str | LaunchFile, words: tuple[str, ...] = ()) -> list[Finding]:
        files = []
        for position, each in enumerate(launch):
            if isinstance(each, str):
                Path(f"launch{position}").write_text(each, newline="")
                file, findings = read_launch_file(f"launch{position}")
                assert file is not None and findings == ()
                files.append(file)
            else:
                files.append(each)
        run = load_run("config.yaml", words)
        facts = Facts(run, ZERO2 if run.config.deepspeed else None, launch=tuple(files))
        return [finding for finding in run_static_rules(facts) if finding.code.startswith("CF4")]

    return _found


def batch(directives: str, command: str) -> str:
    """A batch script on whole nodes, where it says nothing about GPUs."""
    if not re.search(r"gpu|gres|(^|;)-G", directives):
        directives += " --exclusive"
    lines = [f"#SBATCH {each}" for each in directives.split(";")]
    return "\n".join(["#!/bin/bash", *lines, command, ""])


SRUN = "srun python train.py config.yaml"
RUN = "train.py config.yaml"
