"""A signal at the head of a cluster reaches the ranks past their launchers: they save and end."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.checkpoints.store import newest_good
from crossfoot.liveness.heartbeats import read_heartbeats
from support.lab import HEAD, Lab
from support.launching import ledger, small_config
from support.steering import Steering, wait_until_held

pytestmark = [pytest.mark.distributed, pytest.mark.cluster, pytest.mark.slow]

LAUNCH = ("python", "-m", "crossfoot", "launch")
IN_TIME = 600.0


@pytest.mark.parametrize(("name", "code"), (("INT", 130), ("USR1", 75)))
def test_over_ssh(lab: Lab, tmp_path: Path, name: str, code: int) -> None:
    """`.deepspeed_env` of the user reaches the ranks as well. TERM goes the way of USR1; on one machine all
    three are tried (tests/unit/test_launch_started.py).
    """
    config = small_config(tmp_path, cluster={"num_nodes": 2, "gpus_per_node": 1}, train={"max_steps": 8})
    (tmp_path / "hosts").write_text("node1 slots=1\nnode2 slots=1\n")
    Path(lab.environ["HOME"], ".deepspeed_env").write_text("CROSSFOOT_TEST_WORD=forwarded\n")
    run_dir, said = tmp_path / "run", tmp_path / "said.txt"
    steering = Steering(tmp_path / "steering")
    hold = steering.hold("step", 3)
    words = (*LAUNCH, config, "--to", "deepspeed", "--hostfile", tmp_path / "hosts")
    job = lab.popen(HEAD, *words, said=said, **steering.variables)
    wait_until_held(hold, 2, job, said.read_text)
    for beat in read_heartbeats(run_dir):
        environ = lab.run(beat.host, "cat", f"/proc/{beat.pid}/environ").stdout
        assert "CROSSFOOT_TEST_WORD=forwarded" in environ.split("\0")
    lab.kill(HEAD, lab.find(HEAD, "crossfoot launch"), name)
    assert job.wait(timeout=IN_TIME) == code, said.read_text()
    steps = len(ledger(run_dir))
    newest, warnings = newest_good(str(run_dir), checksums=True)
    assert newest is not None and newest.step == steps and not warnings
    assert 3 < steps < 8
    assert f"stopped after {steps} of 8 steps" in said.read_text()
    assert [lab.processes(machine) for machine in (HEAD, *lab.nodes)] == [{}, {}, {}]
