"""Ranks that torchrun starts again, after one of them was killed, go on from the last checkpoint.

By the real launcher: which store the ranks meet in, and what is left in it of those that are gone, is
its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from crossfoot.runs.attempts import read_attempts
from support.launching import ROOT, SCRIPTS, environment, free_port, receipt, small_config, write_samples
from support.steering import Steering, wait_until_held

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.parametrize("meeting", ["static", "c10d"])
def test_torchrun_goes_on_by_itself(tmp_path: Path, meeting: str) -> None:
    write_samples(tmp_path / "data.jsonl", 60)
    config = small_config(
        tmp_path,
        train={"max_steps": 12},
        cluster={"num_nodes": 1, "gpus_per_node": 2},
        checkpoint={"every_steps": 5},
    )
    run_dir, port = tmp_path / "run", free_port()
    where = {
        "static": ["--master-port", str(port)],
        "c10d": ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"],
    }
    steering = Steering(tmp_path / "steering")
    hold = steering.hold("step", 7)
    command = [f"{SCRIPTS}/torchrun", *where[meeting], "--nproc-per-node", "2", "--max-restarts", "1"]
    with subprocess.Popen(
        [*command, "-m", "crossfoot", "train", str(config), f"run.dir={run_dir}"],
        cwd=ROOT,
        env=environment(**steering.variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            ranks = wait_until_held(hold, 2, process)
            os.kill(ranks[1], signal.SIGKILL)
            hold.go()
            output, _ = process.communicate(timeout=400)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert receipt(run_dir)["foots"] and receipt(run_dir)["done_steps"] == 12
    first, second = read_attempts(str(run_dir))
    assert (first.elastic_id, second.from_checkpoint) == (second.elastic_id, "step-000005")
    assert (run_dir / "adapter").is_dir()
