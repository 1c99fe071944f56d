"""SLURM takes a job's nodes away, by preemption or by its time limit, and gives them back: one run, one
receipt.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.lab import HEAD, Lab, wait_for
from support.launching import ledger, receipt, small_config
from support.slurm_lab import job_field
from support.steering import Steering, wait_until_held

pytestmark = [pytest.mark.distributed, pytest.mark.cluster, pytest.mark.slow]

LAUNCH = ("python", "-m", "crossfoot", "launch")
IN_TIME = 900.0
STEPS = 12
TASKS = ("rank", "node")


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    """On two nodes; heartbeats come every two seconds."""
    return small_config(
        folder,
        cluster={"num_nodes": 2, "gpus_per_node": 1},
        train={"max_steps": STEPS},
        faults={"timeout_seconds": 20.0},
    )


def submitted(lab: Lab, config: Path, steering: Steering, *words: str) -> str:
    """Submit, and do not wait. The job's id."""
    done = lab.run(HEAD, *LAUNCH, config, "--to", "slurm", "--detach", *words, **steering.variables)
    assert done.returncode == 0, done.stdout
    found = re.search(r"submitted job (\d+)", done.stdout)
    assert found, done.stdout
    return found[1]


def log_of(run_dir: Path, job: str) -> str:
    return (run_dir / f"slurm-{job}.log").read_text()


def until_ended(lab: Lab, run_dir: Path, job: str) -> str:
    """Wait until a job has ended well, after being queued again once. Its log."""
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    wait_for(lambda: job_field(lab, job, "JobState") in over, IN_TIME, lambda: log_of(run_dir, job))
    log = log_of(run_dir, job)
    assert job_field(lab, job, "JobState") == "COMPLETED", log
    assert job_field(lab, job, "Restarts") == "1", log
    return log


def until_restarted(lab: Lab, run_dir: Path, job: str) -> None:
    wait_for(lambda: job_field(lab, job, "Restarts") == "1", IN_TIME, lambda: log_of(run_dir, job))


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(run_dir.glob("attempt-*/attempt.json"))]


def held_jobs(lab: Lab, folder: Path, config: Path, name: str, *words: str) -> dict[str, Path]:
    """A job of each way to share out tasks, whose ranks stand before step 5: id -> run folder. Both are there
    at once, since most of what follows is waiting for SLURM.
    """
    jobs, held = {}, []
    for tasks in TASKS:
        run_dir = folder / f"{name}-{tasks}"
        steering = Steering(folder / f"steering-{name}-{tasks}")
        hold = steering.hold("step", 5)
        job = submitted(lab, config, steering, "--tasks", tasks, f"run.dir={run_dir}", *words)
        jobs[job] = run_dir
        held.append((hold, job))
    for hold, job in held:
        wait_until_held(hold, 2, said=partial(log_of, jobs[job], job))
    return jobs


def test_jobs_that_are_pushed_out_are_queued_again_and_foot(lab: Lab, folder: Path, config: Path) -> None:
    jobs = held_jobs(lab, folder, config, "pushed", "--partition", "low")
    urgent = lab.run(HEAD, "srun", "--partition=main", "--nodes=2", "--exclusive", "true", timeout=IN_TIME)
    assert urgent.returncode == 0, urgent.stdout
    for job, run_dir in jobs.items():
        foots_over_two_attempts(run_dir, job, until_ended(lab, run_dir, job))


def test_jobs_whose_time_is_over_are_queued_again_and_foot(lab: Lab, folder: Path, config: Path) -> None:
    jobs = held_jobs(lab, folder, config, "late", "--time", "30", "--signal-seconds", "100")
    for job in jobs:
        hours, minutes, _ = map(int, (job_field(lab, job, "RunTime") or "").split(":"))
        set_time_limit(lab, job, minutes=60 * hours + minutes + 2)
    for job, run_dir in jobs.items():
        until_restarted(lab, run_dir, job)
        set_time_limit(lab, job, minutes=30)
    for job, run_dir in jobs.items():
        foots_over_two_attempts(run_dir, job, until_ended(lab, run_dir, job))


def set_time_limit(lab: Lab, job: str, minutes: int) -> None:
    """What an administrator may do; it brings the end, and SLURM's warning before it, near."""
    done = lab.run(HEAD, "scontrol", "update", f"jobid={job}", f"timelimit={minutes}")
    assert done.returncode == 0, done.stdout


def foots_over_two_attempts(run_dir: Path, job: str, log: str) -> None:
    first, second = attempts(run_dir)
    assert first["job_id"] == second["job_id"] == job
    assert 5 < second["first_step"] < STEPS
    assert second["from_checkpoint"] == f"step-{second['first_step']:06d}"
    assert "the run was stopped by a signal" in log
    assert f"CONTINUING: attempt 2, from {second['from_checkpoint']}" in log
    document = receipt(run_dir)
    assert document["foots"] is True, log
    lines = ledger(run_dir)
    assert [line["step"] for line in lines] == list(range(STEPS)), "nothing was lost, so nothing twice"
    assert [line["attempt"] for line in lines] == sorted(line["attempt"] for line in lines)


def test_a_node_that_is_lost_and_the_other_one_goes_on(lab: Lab, folder: Path, config: Path) -> None:
    """SLURM queues the job again once the node is down to it; as it is, it would wait for that node."""
    run_dir = folder / "lost"
    steps = ("checkpoint.every_steps=3", "faults.timeout_seconds=10")
    steering = Steering(folder / "steering-lost")
    hold = steering.hold("step", 8)
    job = submitted(lab, config, steering, f"run.dir={run_dir}", *steps)
    wait_until_held(hold, 2, said=lambda: log_of(run_dir, job))
    lab.cut("node2")
    hold.go()
    try:
        wait_for(lambda: "error[CF77" in log_of(run_dir, job), IN_TIME, lambda: log_of(run_dir, job))
        assert "on node2" in log_of(run_dir, job)
        waits_or_ended = ("PENDING", "FAILED", "NODE_FAIL")
        wait_for(
            lambda: job_field(lab, job, "JobState") in waits_or_ended, IN_TIME, lambda: log_of(run_dir, job)
        )
        wait_for(lambda: not any(map(lab.processes, lab.nodes)), IN_TIME, "something still runs")
        lab.run(HEAD, "scancel", job)
        less = ("cluster.num_nodes=1", "--continue", run_dir)
        done = lab.run(HEAD, *LAUNCH, config, *steps, "--to", "slurm", *less)
        assert done.returncode == 0, done.stdout
    finally:
        lab.mend("node2")
    document = receipt(run_dir)
    assert document["foots"] is True, done.stdout
    assert document["applied_steps"] == STEPS
