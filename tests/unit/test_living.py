"""Whether the last attempt lives: by its process here, by its heartbeat elsewhere, soon after its start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crossfoot.environment.world import read_world
from crossfoot.liveness.findings import run_lives
from crossfoot.liveness.heartbeats import Heartbeat, write_heartbeat
from crossfoot.liveness.living import STARTING_SECONDS, living
from crossfoot.processes import start_of, this_machine
from crossfoot.training.rank_job import TrainOptions, _look_alone
from crossfoot.written.run_file import load_run
from support.launching import small_config

PERIOD = 10.0


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "heartbeat").mkdir()
    (tmp_path / "attempt-001").mkdir()
    (tmp_path / "attempt-001/attempt.json").write_text("{}", encoding="utf-8")
    return tmp_path


def beat(run_dir: Path, rank: int = 0, beats: int = 1, **more: object) -> Heartbeat:
    one = Heartbeat(1, rank, "node1", os.getpid(), "training", 4, beats, 1.5e9, PERIOD)
    one = replace(one, **more)  # type: ignore[arg-type]
    write_heartbeat(run_dir, one)
    return one


class Clock:
    """Stands for sleep: after so many seconds something happens."""

    def __init__(self, at: float = 1e9, then: Callable[[], object] = lambda: None) -> None:
        self.seconds, self._at, self._then = 0.0, at, then

    def __call__(self, seconds: float) -> None:
        before, self.seconds = self.seconds, self.seconds + seconds
        if before < self._at <= self.seconds:
            self._then()


def here(**more: object) -> dict[str, object]:
    return {"machine": this_machine(), "started": start_of(os.getpid()), **more}


def test_a_process_of_this_machine_is_looked_up(run_dir: Path) -> None:
    clock = Clock()
    mine = beat(run_dir, **here())
    assert living(str(run_dir), clock) == (mine,)
    beat(run_dir, **here(phase="ended"))
    assert living(str(run_dir), clock) == ()
    beat(run_dir, **here(started="1"))  # another process has its number now
    assert living(str(run_dir), clock) == ()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        started = start_of(gone.pid)
    beat(run_dir, **here(pid=gone.pid, started=started))
    assert living(str(run_dir), clock) == ()
    assert clock.seconds == 0.0, "nothing is waited for"


def test_an_older_version_does_not_say_when_its_process_was_started(run_dir: Path) -> None:
    (mine,) = (beat(run_dir, machine=this_machine(), started=""),)
    assert living(str(run_dir), Clock()) == (mine,)


def test_a_rank_of_another_machine_lives_when_it_beats_again(run_dir: Path) -> None:
    beat(run_dir, 0, machine="other")
    beat(run_dir, 1, machine="")
    silent = Clock()
    assert living(str(run_dir), silent) == ()
    assert PERIOD < silent.seconds < 2 * PERIOD
    beats = Clock(7.0, lambda: beat(run_dir, 1, beats=2, machine=""))
    (moved,) = living(str(run_dir), beats)
    assert (moved.rank, moved.beats, beats.seconds) == (1, 2, 7.0)


def test_only_the_newest_attempt_counts(run_dir: Path) -> None:
    beat(run_dir, **here())
    (run_dir / "attempt-002").mkdir()
    (run_dir / "attempt-002/attempt.json").write_text("{}", encoding="utf-8")
    assert living(str(run_dir), Clock()) == ()


def test_an_attempt_that_has_just_made_its_folder_is_waited_for(run_dir: Path) -> None:
    (run_dir / "attempt-002").mkdir()
    starts = Clock(2.0, lambda: beat(run_dir, attempt=2, **here()))
    (begun,) = living(str(run_dir), starts)
    assert (begun.attempt, starts.seconds) == (2, 2.0)
    (run_dir / "heartbeat/rank-00000.json").unlink()
    given_back = Clock(2.0, (run_dir / "attempt-002").rmdir)
    assert living(str(run_dir), given_back) == () and given_back.seconds == 2.0
    (run_dir / "attempt-002").mkdir()
    killed = Clock()
    assert living(str(run_dir), killed) == () and killed.seconds == STARTING_SECONDS
    os.utime(run_dir / "attempt-002", (1e9, 1e9))
    old = Clock()
    assert living(str(run_dir), old) == () and old.seconds == 0.0


def test_nothing_can_be_taken_over_where_a_run_begins(tmp_path: Path) -> None:
    run = load_run(str(small_config(tmp_path)), [f"run.dir={tmp_path}/run"])
    alone = replace(read_world({}), rank=0)
    for options, codes in (
        (TrainOptions(takes_over=True), ["CF035"]),
        (TrainOptions(takes_over=True, is_repeated=True), []),
    ):
        _, refused, _ = _look_alone(run, alone, options)
        assert [finding.code for finding in refused] == codes


def test_it_is_said_with_host_and_process_and_how_to_insist(run_dir: Path) -> None:
    ranks = [beat(run_dir, rank, host=f"node{rank}", pid=70 + rank) for rank in range(6)]
    finding = run_lives("runs/a", "a.yaml", 3, ranks)
    assert finding.title == "attempt 3 at runs/a is still at work: rank 0 on node0, process 70"
    assert finding.notes == (*(f"rank {n} on node{n}, process {70 + n}" for n in (1, 2, 3)), "and 2 more")
    assert finding.helps[-1].endswith("crossfoot train a.yaml --continue runs/a --take-over")
