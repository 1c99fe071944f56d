"""A cable is pulled, a rank or a launcher is killed, under the real launchers: the job ends in time, says
where it happened, leaves nothing running, and goes on with the node that is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossfoot.liveness.heartbeats import Heartbeat, read_heartbeats
from support.lab import HEAD, Lab, lab_of, wait_for
from support.launching import ledger, receipt, small_config
from support.steering import Steering, wait_until_asked, wait_until_held

pytestmark = [pytest.mark.distributed, pytest.mark.cluster, pytest.mark.slow]

LAUNCH = ("python", "-m", "crossfoot", "launch")
STEPS = 30
TIMEOUT_SECONDS = 10.0
IN_TIME = 12 * TIMEOUT_SECONDS
"""Far more than is needed on a busy machine, and far less than any library's own limit."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Machines of its own for each fault: afterwards they are not as they were."""
    with lab_of(tmp_path / "lab") as lab:
        yield lab


def pull_the_cable(lab: Lab, beats: dict[int, Heartbeat]) -> None:
    lab.cut("node2")


def kill_a_rank(lab: Lab, beats: dict[int, Heartbeat]) -> None:
    lab.kill("node2", beats[1].pid)


def kill_the_launcher_there(lab: Lab, beats: dict[int, Heartbeat]) -> None:
    lab.kill("node2", lab.find("node2", "deepspeed.launcher.launch"))


def kill_the_launcher_here(lab: Lab, beats: dict[int, Heartbeat]) -> None:
    lab.kill(HEAD, lab.find(HEAD, "bin/deepspeed"))


FAULTS: dict[str, tuple[Any, ...]] = {
    "a cable": (
        *(pull_the_cable, (), 1),
        *("rank 1 on node2: in step ", "look at the network between node1, node2"),
    ),
    "a rank": (kill_a_rank, (), 1, "error[CF773]: rank 1 on node2 is lost"),
    "the launcher on a node": (
        *(kill_the_launcher_there, (1,), 75),
        "rank 1 on node2 ends: its launcher",
    ),
    "the launcher on head": (
        *(kill_the_launcher_here, (0, 1), 75),
        "the launcher was killed; its ranks are asked to save",
    ),
}
"""What is done; the ranks that are then asked to stop; the exit code; what is said."""
GOES_ON = ("a cable", "the launcher on a node")
"""What is continued afterwards: a run that lost steps, and one that saved before it ended."""


@pytest.mark.parametrize("fault", FAULTS)
def test_the_job_ends_in_time_and_goes_on_with_the_node_that_is_left(
    lab: Lab, tmp_path: Path, fault: str
) -> None:
    inject, asked, expected, *named = FAULTS[fault]
    config = small_config(
        tmp_path,
        cluster={"num_nodes": 2, "gpus_per_node": 1},
        train={"max_steps": STEPS},
        checkpoint={"every_steps": 10},
        faults={"timeout_seconds": TIMEOUT_SECONDS},
    )
    run_dir, said = tmp_path / "run", tmp_path / "said.txt"
    (tmp_path / "hosts").write_text("node1 slots=1\nnode2 slots=1\n")
    (tmp_path / "host").write_text("node1 slots=1\n")
    steering = Steering(tmp_path / "steering")
    hold = steering.hold("step", 15)
    words = (*LAUNCH, config, "--to", "deepspeed", "--hostfile", tmp_path / "hosts")
    job = lab.popen(HEAD, *words, said=said, **steering.variables)
    wait_until_held(hold, 2, job, said.read_text)
    inject(lab, {beat.rank: beat for beat in read_heartbeats(run_dir)})
    wait_until_asked(hold, asked, said.read_text)
    hold.go()
    assert job.wait(timeout=IN_TIME) == expected, said.read_text()
    wait_for(lambda: not everything_that_runs(lab), IN_TIME, lambda: str(everything_that_runs(lab)))
    for words in named:
        assert words in said.read_text()
    done_before = len(ledger(run_dir))
    if fault not in GOES_ON:
        return

    words = ("--to", "deepspeed", "--hostfile", tmp_path / "host", "--continue", run_dir)
    done = lab.run(HEAD, *LAUNCH, config, "cluster.num_nodes=1", *words)
    assert done.returncode == 0, done.stdout
    assert "CONTINUING: attempt 2, from step-000" in done.stdout
    document = receipt(run_dir)
    assert document["foots"] is True, done.stdout
    assert document["applied_steps"] == STEPS
    assert document["lost_steps"] <= 10, "what was trained after the last checkpoint"
    assert document["attempted_steps"] == STEPS + document["lost_steps"] >= done_before


def everything_that_runs(lab: Lab) -> list[str]:
    return [line for machine in (HEAD, *lab.nodes) for line in lab.processes(machine).values()]
