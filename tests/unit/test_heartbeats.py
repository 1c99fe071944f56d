"""A heartbeat's file: whole or not there, also on a full disk; who is lost, judged from changes alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from crossfoot.findings.render import render
from crossfoot.liveness.findings import finding_of
from crossfoot.liveness.heartbeats import (
    LARGEST_BYTES,
    Heartbeat,
    Phase,
    heartbeat_path,
    read_heartbeats,
    write_heartbeat,
)
from crossfoot.liveness.judging import Judge, Kind, LastSeen, Verdict
from crossfoot.liveness.processes import is_there, supervisors_above
from crossfoot.liveness.verdicts import read_verdict, write_verdict
from crossfoot.processes import State, state_of, this_machine
from crossfoot.runs.run_folder import forget_attempt, verdict_path

TIMEOUT, PERIOD = 100.0, 10.0


def beat(rank: int = 0, beats: int = 1, **more: object) -> Heartbeat:
    """A heartbeat in step 4 on node1."""
    one = Heartbeat(1, rank, "node1", 4_700 + rank, "training", 4, beats, 1.5e9, PERIOD)
    return replace(one, **more)  # type: ignore[arg-type]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "heartbeat").mkdir()
    return tmp_path


def test_what_is_written_is_read(run_dir: Path) -> None:
    beats = (beat(0, progress=3), beat(3, where="f (a/b.py:1)", is_waiting=True, machine="m"))
    for one in reversed(beats):
        write_heartbeat(run_dir, one)
    assert read_heartbeats(run_dir) == beats
    assert heartbeat_path(run_dir, 3) == run_dir / "heartbeat" / "rank-00003.json"
    assert sorted(os.listdir(run_dir / "heartbeat")) == ["rank-00000.json", "rank-00003.json"]


def test_without_a_folder_there_is_none(tmp_path: Path) -> None:
    assert read_heartbeats(tmp_path / "nowhere") == ()


@pytest.mark.parametrize(
    "text",
    (
        b"",
        b'{"format": 1, "attempt": 1, "ra',
        b"[]",
        b"\xff\xfe",
        json.dumps({"format": 2, **asdict(beat())}).encode(),
        json.dumps({"format": 1, **asdict(beat()), "step": "4"}).encode(),
        json.dumps({"format": 1, **asdict(beat()), "step": True}).encode(),
        json.dumps({"format": 1, **asdict(beat()), "phase": "dancing"}).encode(),
        json.dumps({"format": 1, "attempt": 1, "rank": 0}).encode(),
    ),
)
def test_a_file_that_says_something_else_is_left_out(run_dir: Path, text: bytes) -> None:
    write_heartbeat(run_dir, beat(1))
    heartbeat_path(run_dir, 0).write_bytes(text)
    assert [one.rank for one in read_heartbeats(run_dir)] == [1]


def test_every_file_has_one_size(run_dir: Path) -> None:
    write_heartbeat(run_dir, beat(0, where="x" * 5_000 + "é" * 500))
    write_heartbeat(run_dir, beat(1))
    assert {path.stat().st_size for path in (run_dir / "heartbeat").iterdir()} == {LARGEST_BYTES}
    assert read_heartbeats(run_dir)[0].where.startswith("xxx")


def test_a_heart_beats_on_a_full_disk(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_heartbeat(run_dir, beat(0, 1))

    def is_full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", is_full)
    write_heartbeat(run_dir, beat(0, 2, where="longer than before"))
    assert read_heartbeats(run_dir) == (beat(0, 2, where="longer than before"),)
    with pytest.raises(OSError):
        write_heartbeat(run_dir, beat(1))


def test_another_refusal_is_an_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(source: object, target: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", refuses)
    with pytest.raises(OSError):
        write_heartbeat(run_dir, beat())
    assert os.listdir(run_dir / "heartbeat") == []


class Watch:
    """A judge of rank 0, and what it is shown; time passes by `after`, in periods."""

    def __init__(self, world_size: int = 3, machine: str = "", **states: State) -> None:
        self.states = {int(name[4:]): state for name, state in states.items()}
        self.judge = Judge(1, 0, world_size, TIMEOUT, PERIOD, machine, self._state)
        self.now = 0.0
        self.ranks = {rank: beat(rank, machine=machine) for rank in range(world_size)}
        self.judge.look(self.now, list(self.ranks.values()))

    def _state(self, pid: int) -> State:
        return self.states.get(pid - 4_700, "running")

    def after(
        self,
        periods: int,
        *,
        silent: tuple[int, ...] = (),
        still: tuple[int, ...] = (),
        is_broken: bool = False,
    ) -> Verdict | None:
        """Look once a period; all hearts beat but the `silent`, all main threads move but the `still`."""
        for _ in range(periods):
            self.now += PERIOD
            for rank, one in self.ranks.items():
                if rank not in silent:
                    moved = 0 if rank in still else 1
                    self.ranks[rank] = replace(one, beats=one.beats + 1, progress=one.progress + moved)
            verdict = self.judge.look(self.now, list(self.ranks.values()), is_broken)
            if verdict is not None:
                return verdict
        return None

    def put(self, rank: int, phase: Phase, **more: int) -> None:
        self.ranks[rank] = replace(self.ranks[rank], phase=phase, **more)


def _told(verdict: Verdict | None) -> tuple[Kind, list[int]] | None:
    return None if verdict is None else (verdict.kind, [seen.rank for seen in verdict.lost])


def test_nobody_is_lost_while_all_beat_and_move() -> None:
    assert Watch().after(50) is None


def test_a_heart_that_is_silent_for_the_timeout() -> None:
    watch = Watch()
    assert watch.after(9, silent=(2,)) is None
    verdict = watch.after(2, silent=(2,))
    assert _told(verdict) == ("silent", [2])
    assert verdict is not None and verdict.lost[0].step == 4 and verdict.lost[0].silent_seconds >= TIMEOUT


def test_a_heart_that_comes_back_in_time_is_not_lost() -> None:
    watch = Watch()
    assert watch.after(9, silent=(2,)) is None
    assert watch.after(1) is None
    assert watch.after(9, silent=(2,)) is None


def test_a_node_is_lost_as_a_whole() -> None:
    watch = Watch(5)
    assert watch.after(1, silent=(3,)) is None
    assert _told(watch.after(11, silent=(3, 4))) == ("silent", [3, 4])


def test_a_rank_that_was_never_seen() -> None:
    watch = Watch(3)
    watch.judge = Judge(1, 0, 3, TIMEOUT, PERIOD)
    watch.ranks.pop(1)
    watch.judge.look(0.0, list(watch.ranks.values()))
    verdict = watch.after(11)
    assert _told(verdict) == ("silent", [1])
    assert verdict is not None and verdict.lost[0].host == ""


def test_heartbeats_of_an_earlier_attempt_are_stale() -> None:
    watch = Watch(2)
    watch.judge = Judge(2, 0, 2, TIMEOUT, PERIOD)
    watch.ranks[0] = replace(watch.ranks[0], attempt=2)
    assert _told(watch.after(12)) == ("silent", [1])


def test_time_in_which_the_judge_did_not_run_does_not_count() -> None:
    watch = Watch()
    assert watch.after(3, silent=(1, 2)) is None
    watch.now += 100 * TIMEOUT
    assert watch.after(3, silent=(1, 2)) is None
    assert _told(watch.after(4, silent=(1, 2))) == ("silent", [1, 2])


def test_a_process_that_is_gone_is_lost_at_the_second_look() -> None:
    watch = Watch(3, "here", rank1="gone")
    assert _told(watch.after(1, silent=(1,))) == ("gone", [1])


def test_a_process_that_ended_in_order_is_not_lost_at_once() -> None:
    watch = Watch(3, "here")
    watch.put(1, "ended")
    watch.after(1, silent=(1,))
    watch.states[1] = "gone"
    assert watch.after(8, silent=(1,)) is None
    assert _told(watch.after(3, silent=(1,))) == ("ended", [1])


def test_processes_of_another_machine_are_not_looked_at() -> None:
    watch = Watch(3, "here", rank1="gone")
    watch.ranks[1] = replace(watch.ranks[1], machine="there")
    assert watch.after(9, silent=(1,)) is None


def test_a_stopped_process_is_lost_by_its_silence_and_said_to_be_stopped() -> None:
    watch = Watch(3, "here", rank1="stopped")
    verdict = watch.after(11, silent=(1,))
    assert _told(verdict) == ("silent", [1])
    assert verdict is not None and verdict.lost[0].state == "stopped"


def test_the_rank_that_came_least_far_is_named() -> None:
    watch = Watch()
    assert watch.after(1, still=(1,)) is None
    verdict = watch.after(12, still=(0, 1, 2))
    assert _told(verdict) == ("stuck", [1])
    assert verdict is not None and verdict.lost_ranks == frozenset(), "it lives, and says it itself"


def test_where_all_stand_at_one_place_nobody_is_named() -> None:
    assert _told(Watch().after(12, still=(0, 1, 2))) == ("stuck", [])


def test_who_waits_in_a_collective_is_not_to_blame() -> None:
    watch = Watch()
    for rank in (0, 2):
        watch.ranks[rank] = replace(watch.ranks[rank], is_waiting=True)
    assert _told(watch.after(12, still=(0, 1, 2))) == ("stuck", [1])


def test_one_that_moves_keeps_all_alive() -> None:
    assert Watch().after(50, still=(0, 1)) is None


@pytest.mark.parametrize("phase", ("loading", "saving", "closing", "validating"))
def test_what_takes_its_time_is_not_timed(phase: Phase) -> None:
    watch = Watch()
    watch.put(1, phase, progress=0)
    assert watch.after(50, still=(0, 1, 2)) is None


def test_a_validation_that_says_how_far_it_is_is_timed() -> None:
    watch = Watch()
    for rank in watch.ranks:
        watch.put(rank, "validating", progress=0)
    watch.after(1)
    assert _told(watch.after(12, still=(0, 1, 2))) == ("stuck", [])


def test_a_rank_alone_waits_for_nobody() -> None:
    assert Watch(1).after(50, still=(0,)) is None


def test_an_end_in_order_is_no_loss() -> None:
    watch = Watch(2)
    watch.put(0, "closing")
    watch.put(1, "ended")
    assert watch.after(50, silent=(1,), still=(0, 1)) is None


def test_where_a_connection_broke_a_short_silence_is_enough() -> None:
    assert _told(Watch().after(4, silent=(2,), still=(0, 1, 2), is_broken=True)) == ("silent", [2])
    assert Watch().after(9, still=(0, 1, 2), is_broken=True) is None


def _verdict(kind: Kind, *lost: LastSeen, seconds: float = 600.0, said: str = "") -> Verdict:
    others = (LastSeen(0, "node1", 4_700, "training", 12, 3, "wait (c10d.py:7)", 0.0, 601.0),)
    return Verdict(1, kind, 0, lost, others, seconds, said)


LOST = LastSeen(1, "node2", 4_711, "training", 12, 3, "", 601.2, 601.2)


def test_the_first_verdict_is_everyones(run_dir: Path) -> None:
    first, second = _verdict("silent", LOST), replace(_verdict("gone", LOST), by=2)
    assert read_verdict(run_dir, 1) is None
    assert write_verdict(run_dir, first) == first
    assert write_verdict(run_dir, second) == first
    assert read_verdict(run_dir, 1) == first
    assert read_verdict(run_dir, 2) is None
    assert os.listdir(run_dir / "heartbeat") == ["verdict-attempt-001.json"]


def test_a_file_system_without_links_takes_a_verdict(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    first = _verdict("silent", LOST)
    assert write_verdict(run_dir, first) == first
    assert write_verdict(run_dir, _verdict("gone", LOST)) == first


def test_without_a_folder_a_verdict_is_ones_own(tmp_path: Path) -> None:
    mine = _verdict("silent", LOST)
    assert write_verdict(tmp_path / "nowhere", mine) == mine


@pytest.mark.parametrize("text", ("", "[]", "{}", '{"format": 1, "attempt": 1, "kind": "silent", "lost": 3}'))
def test_a_verdict_that_cannot_be_read_is_none(run_dir: Path, text: str) -> None:
    verdict_path(run_dir, 1).write_text(text)
    assert read_verdict(run_dir, 1) is None


def test_an_attempt_is_forgotten_and_what_was_judged_before_stays(run_dir: Path) -> None:
    write_heartbeat(run_dir, beat())
    for attempt in (1, 2):
        write_verdict(run_dir, replace(_verdict("silent", LOST), attempt=attempt))
    forget_attempt(run_dir, 2)
    assert os.listdir(run_dir / "heartbeat") == ["verdict-attempt-001.json"]
    forget_attempt(run_dir, 1)
    assert not (run_dir / "heartbeat").exists()
    forget_attempt(run_dir, 1)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    (
        (
            _verdict("silent", LOST),
            """\
error[CF773]: rank 1 on node2 is lost: silent for 601 s, last seen in step 13
  = note: rank 1 on node2: last seen in step 13, 601 s before
  = note: noticed by rank 0 on node1; all ranks end
  = help: look for the last log lines of rank 1; and the system log of node2
  = help: go on from the last checkpoint: crossfoot train CONFIG --continue RUN
  = help: if it was only slow, raise faults.timeout_seconds

1 error""",
        ),
        (
            _verdict("gone", replace(LOST, state="gone", silent_seconds=8.0, phase="saving"), said="torch X"),
            """\
error[CF773]: rank 1 on node2 is gone: it was last seen writing a checkpoint after 12 steps
  = note: torch X
  = note: rank 1 on node2: last seen writing a checkpoint after 12 steps, 8 s before
  = note: rank 1 on node2: its process 4711 is gone
  = note: noticed by rank 0 on node1; all ranks end
  = help: look for the last log lines of rank 1; and the system log of node2
  = help: go on from the last checkpoint: crossfoot train CONFIG --continue RUN

1 error""",
        ),
        (
            _verdict("failed", LOST, said="out of memory"),
            """\
error[CF773]: rank 1 on node2 failed in step 13
  = note: it says: out of memory
  = note: rank 1 on node2: last seen in step 13, 601 s before
  = help: look for the last log lines of rank 1
  = help: go on from the last checkpoint: crossfoot train CONFIG --continue RUN

1 error""",
        ),
        (
            _verdict("stuck", replace(LOST, where="f (a/b.py:3)")),
            """\
error[CF774]: no rank has done anything for 600 s; least far is rank 1 on node2, in step 13
  = note: rank 0 on node1: in step 13, in wait (c10d.py:7), still for 601 s
  = note: rank 1 on node2: in step 13, in f (a/b.py:3), still for 601 s, its heart silent for 601 s
  = help: look at what rank 1 on node2 hangs in
  = help: look at the network between node1, node2
  = help: if a step may take longer than that, raise faults.timeout_seconds
  = help: go on from the last checkpoint: crossfoot train CONFIG --continue RUN

1 error""",
        ),
    ),
)
def test_what_is_said(verdict: Verdict, expected: str) -> None:
    assert render([finding_of(verdict, "RUN")]) == expected


def test_many_ranks_are_named_by_host() -> None:
    lost = [replace(LOST, rank=rank) for rank in (4, 5)] + [LastSeen(6, silent_seconds=600.0)]
    finding = finding_of(_verdict("silent", *lost), "RUN")
    assert finding.title == "3 ranks are silent: rank 6, never seen; rank 4, 5 on node2"


def test_a_broken_connection_with_nobody_lost_says_where_all_are() -> None:
    finding = finding_of(_verdict("broken", said="Connection reset"), "RUN")
    assert finding.code == "CF423"
    assert finding.notes[:2] == (
        "torch.distributed says: Connection reset",
        "rank 0 on node1: in step 13, in wait (c10d.py:7), still for 601 s",
    )


def _process(proc: Path, pid: int, parent: int, words: str, state: str = "S", began: int = 7) -> None:
    (proc / str(pid)).mkdir()
    fields = [state, str(parent), *["0"] * 17, str(began), *["0"] * 30]
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b) c) {' '.join(fields)}\n")
    (proc / str(pid) / "cmdline").write_text("\0".join(words.split()) + "\0")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """systemd > slurmstepd > bash > deepspeed > deepspeed.launcher.launch > a rank."""
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    _process(tmp_path, 1, 0, "/sbin/init")
    _process(tmp_path, 20, 1, "slurmstepd: [12.0]")
    _process(tmp_path, 30, 20, "/bin/bash job.sh")
    _process(tmp_path, 40, 30, "/venv/bin/python3 /venv/bin/deepspeed --num_gpus 2 train.py")
    _process(tmp_path, 50, 40, "/venv/bin/python3 -u -m deepspeed.launcher.launch train.py")
    _process(tmp_path, 60, 50, "/venv/bin/python3 -u train.py")
    _process(tmp_path, os.getpid(), 1, "this one")
    return tmp_path


def test_the_launchers_above_are_found_and_no_shell(proc: Path) -> None:
    above = supervisors_above(60)
    assert [(one.name, one.pid) for one in above] == [
        ("deepspeed", 50),
        ("deepspeed", 40),
        ("slurmstepd", 20),
    ]
    assert all(is_there(one) for one in above)


def test_a_launcher_is_gone_when_its_number_is_another_process(proc: Path) -> None:
    launcher = supervisors_above(60)[0]
    assert is_there(launcher)
    shutil.rmtree(proc / "50")
    _process(proc, 50, 1, "/bin/sleep 9", began=99)
    assert not is_there(launcher)
    shutil.rmtree(proc / "50")
    assert not is_there(launcher)


@pytest.mark.parametrize(
    ("state", "expected"), (("R", "running"), ("D", "running"), ("T", "stopped"), ("Z", "gone"))
)
def test_the_state_of_a_process(proc: Path, state: str, expected: str) -> None:
    _process(proc, 70, 1, "x", state)
    assert state_of(70) == expected
    assert state_of(71) == "gone"


def test_where_there_is_no_proc_nothing_is_concluded(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above = supervisors_above(60)
    assert len(above) == 3
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(proc / "nowhere"))
    assert state_of(1) == ""
    assert this_machine() == ""
    assert supervisors_above(1) == ()
    shutil.rmtree(proc)
    assert all(is_there(one) for one in above)
