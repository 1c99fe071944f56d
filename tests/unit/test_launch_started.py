"""A start on this machine: signals reach the ranks, and the exit code is the contract's, whatever launchers
say.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from crossfoot.arithmetic.batch import Topology
from crossfoot.launch import outcome, start
from crossfoot.launch.job import Job, LaunchOptions, Rendered
from crossfoot.launch.outcome import ended_with, outcome_of
from crossfoot.launch.ranks_here import is_rank, rank_processes, signal_over_ssh
from crossfoot.launch.verb import who_speaks
from crossfoot.liveness.heartbeats import Heartbeat, write_heartbeat
from crossfoot.processes import this_machine
from crossfoot.runs.ending import Ending
from ledger_cases import Job as Told
from ledger_cases import six_samples
from support.steering import until

STEPS = [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
RANK = """\
import json, os, signal, sys, time
from pathlib import Path
run, rank = Path(sys.argv[1]), sys.argv[2]
ends = {signal.SIGUSR1: 75, signal.SIGTERM: 75, signal.SIGINT: 130}
def end(number, frame):
    (run / f"rank-{rank}-got").write_text(signal.Signals(number).name)
    if rank == "0":
        folder = run / "attempt-001"
        folder.mkdir(parents=True, exist_ok=True)
        said = {"format": 1, "reason": "signal", "step": 1, "exit_code": ends[number], "planned_steps": 2}
        said |= {"validation_loss": None, "saved_path": None}
        (folder / "ending.json").write_text(json.dumps(said))
    os._exit(ends[number])
for number in ends:
    signal.signal(number, end)
(run / f"rank-{rank}-began").write_text("")
time.sleep(600)
"""
LAUNCHER = """\
import subprocess, sys
from pathlib import Path
ranks = [subprocess.Popen([sys.executable, "-u", "train.py", sys.argv[1], str(rank)]) for rank in range(2)]
sys.exit(1 if any([rank.wait() for rank in ranks]) else 0)  # all of them, whichever ends first
"""


def _job(run_dir: Path, **more: object) -> Job:
    job = Job("small", "config.yaml", (), str(run_dir), Topology(2, 1), "x", LaunchOptions("torchrun"))
    return Job(**{**vars(job), **more})


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_signal_goes_to_the_ranks_and_not_to_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, exit_code: int
) -> None:
    """This launcher would die of SIGUSR1 and SIGTERM, and makes 1 of every code."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    Path("train.py").write_text(RANK)
    Path("launcher.py").write_text(LAUNCHER)

    def interrupt() -> None:
        until(lambda: all((run / f"rank-{rank}-began").exists() for rank in range(2)))
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    rendered = Rendered((), (sys.executable, "launcher.py", str(run)), ())
    ended = start.start(rendered, _job(run))
    assert ended.exit_code == exit_code
    assert ended.findings == ()
    for rank in range(2):
        assert (run / f"rank-{rank}-got").read_text() == number.name
    assert signal.getsignal(number) != start.Signals._keep


def test_before_there_are_ranks_the_launcher_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "began"
    command = ("bash", "-c", f"touch '{mark}'; sleep 600 & sleep 600")

    def interrupt() -> None:
        until(mark.exists)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    ended = start.start(Rendered((), command, ()), _job(tmp_path / "run"))
    assert time.monotonic() - began < 600
    assert ended.exit_code == 75


def test_the_third_ctrl_c_kills_a_launcher_that_does_not_hear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "began"
    command = ("bash", "-c", f"trap '' TERM INT; touch '{mark}'; while true; do sleep 0.1; done")
    handed_on: list[int] = []

    def hand_on(number: int, *rest: object) -> None:
        real(number, *rest)
        handed_on.append(number)

    real = start.hand_on
    monkeypatch.setattr(start, "hand_on", hand_on)

    def interrupt() -> None:
        until(mark.exists)
        for count in (1, 2, 3):
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda count=count: len(handed_on) == count)  # signals that come together would be one

    threading.Thread(target=interrupt).start()
    assert start.start(Rendered((), command, ()), _job(tmp_path / "run")).exit_code == 130
    assert handed_on == [signal.SIGINT] * 3


@pytest.mark.parametrize(
    ("reason", "exit_code"), [("signal", 75), ("orphaned", 75), ("interrupt", 130), ("fault", 1)]
)
@pytest.mark.parametrize("returncode", [0, 1, 15, -9])
def test_what_rank_0_has_written_is_the_exit_code(
    tmp_path: Path, reason: str, exit_code: int, returncode: int
) -> None:
    told = Told(tmp_path / "run", six_samples(), STEPS)
    told.run(1, ending=Ending(reason, 1, exit_code, 2))
    assert outcome_of(str(told.folder), [], returncode).exit_code == exit_code
    assert outcome_of(str(told.folder), [], returncode).findings == ()


@pytest.mark.parametrize("returncode", [0, 1])
def test_a_finished_run_is_judged_by_its_receipt(tmp_path: Path, returncode: int) -> None:
    told = Told(tmp_path / "foots", six_samples(), STEPS)
    told.run(2, ending=Ending("finished", 2, 0, 2))
    assert outcome_of(str(told.folder), [], returncode) == outcome.Outcome(0)
    told = Told(tmp_path / "does not", six_samples(), STEPS)
    told.run(1, ending=Ending("finished", 2, 0, 2))
    assert outcome_of(str(told.folder), [], returncode) == outcome.Outcome(3)


def test_a_run_without_a_last_word_ends_with_1_and_says_so(tmp_path: Path) -> None:
    """deepspeed says 0 when the part of it that starts the ranks was killed."""
    told = Told(tmp_path / "run", six_samples(), STEPS)
    told.run(1)
    ended = outcome_of(str(told.folder), [], 0, starter="local launcher")
    assert ended.exit_code == 1
    assert [finding.code for finding in ended.findings] == ["CF489"]
    assert ended.findings[0].title.startswith(
        "the local launcher ended with exit code 0, and the run has not"
    )


def test_earlier_attempts_say_nothing_about_this_one(tmp_path: Path) -> None:
    told = Told(tmp_path / "run", six_samples(), STEPS)
    told.run(1, ending=Ending("signal", 1, 75, 2))
    run_dir = str(told.folder)
    assert outcome_of(run_dir, [1], 1) == outcome.Outcome(1)
    assert outcome_of(run_dir, [1], 2) == outcome.Outcome(2)
    assert outcome_of(run_dir, [1], 1, signal.SIGINT) == outcome.Outcome(130)
    assert outcome_of(run_dir, [1], 1, signal.SIGTERM) == outcome.Outcome(75)
    for returncode in (0, -11, 247):
        ended = outcome_of(run_dir, [1], returncode)
        assert ended.exit_code == 1
        assert "no rank has begun" in ended.findings[0].notes
    told.run(2, first_step=1, ending=Ending("finished", 2, 0, 2))
    assert outcome_of(run_dir, [1], 1) == outcome.Outcome(0)


def test_a_damaged_ending_is_told(tmp_path: Path) -> None:
    told = Told(tmp_path / "run", six_samples(), STEPS)
    told.run(1)
    (told.folder / "attempt-001" / "ending.json").write_text("{")
    ended = outcome_of(str(told.folder), [], 0)
    assert ended.exit_code == 1
    assert [finding.code for finding in ended.findings] == ["CF707"]


def test_how_a_launcher_ended_is_said_in_words() -> None:
    assert ended_with(1) == "with exit code 1"
    assert ended_with(-9) == ended_with(137) == "by SIGKILL"
    assert ended_with(255) == "with exit code 255"


@pytest.mark.parametrize(
    "words",
    [
        ["/v/bin/python", "-u", "-m", "crossfoot", "--local_rank=0", "train", "c.yaml"],
        ["python3.11", "-W", "ignore", "-m", "crossfoot", "train", "c.yaml"],
        ["python", "-u", "runs/x/snapshot/train.py", "c.yaml"],
    ],
)
def test_a_rank_is_known_by_its_words(words: list[str]) -> None:
    assert is_rank(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bash", "-c", "python train.py c.yaml"],
        ["python", "/v/bin/deepspeed", "--num_gpus", "2", "--module", "crossfoot", "train", "c.yaml"],
        ["python", "-u", "-m", "deepspeed.launcher.launch", "--module", "crossfoot", "train", "c.yaml"],
        ["python", "/v/bin/torchrun", "--standalone", "-m", "crossfoot", "train", "c.yaml"],
        ["python", "-m", "torch.distributed.run", "train.py"],
        ["python", "/v/bin/accelerate", "launch", "train.py"],
        ["python", "-c", "import train"],
    ],
)
def test_a_launcher_is_no_rank(words: list[str]) -> None:
    assert not is_rank(words)


def test_ranks_are_found_below_their_launcher_only(tmp_path: Path) -> None:
    text = """\
        import os, time
        from pathlib import Path
        if not os.fork():
            Path(f"forked-{os.getpid()}").touch()
        time.sleep(600)
    """
    (tmp_path / "train.py").write_text(dedent(text))
    inner = f"{sys.executable} train.py & {sys.executable} train.py & wait"
    with subprocess.Popen(["bash", "-c", inner], cwd=tmp_path, start_new_session=True) as shell:
        until(lambda: len(list(tmp_path.glob("forked-*"))) == 2)
        found = rank_processes(shell.pid)
        elsewhere = rank_processes(found[0])
        os.killpg(shell.pid, signal.SIGKILL)
    assert len(found) == 2
    assert len(elsewhere) == 1  # its own child


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ssh to any machine but `gone` leads to this one. Returns the file of what it was asked."""
    said, program = tmp_path / "said", tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {said}\nwhile [ "$1" != -- ]; do shift; done\n'
        '[ "$2" = gone ] && exit 255\nshift 2\nexec sh -c "$*"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return said


@contextmanager
def sleeping(**variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these variables that does nothing."""
    with subprocess.Popen(["sleep", "60"], env={**os.environ, **variables}) as process:
        try:
            yield process
        finally:
            process.kill()


def test_signals_over_ssh_reach_what_this_launch_has_started(ssh: Path) -> None:
    with sleeping(CROSSFOOT_LAUNCH="abc") as own, sleeping(CROSSFOOT_LAUNCH="abcd") as other:
        assert signal_over_ssh({"n1": [other.pid, own.pid]}, "USR1", "abc")
        assert own.wait() == -signal.SIGUSR1
        assert other.poll() is None
        assert " -- n1 sh -c " in ssh.read_text()
        assert not signal_over_ssh({"n1": [other.pid]}, "TERM", "abc"), "a number that a stranger wrote"
        assert not signal_over_ssh({"gone": [other.pid]}, "TERM", "abcd")
        assert not signal_over_ssh({}, "TERM", "abc")
        assert other.poll() is None


def test_processes_here_are_signalled_only_if_they_are_ranks_of_this_launch(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "heartbeat").mkdir(parents=True)
    code = "import sys, time; print(flush=True); time.sleep(60)"
    (tmp_path / "train.py").write_text(code)
    rank = [sys.executable, str(tmp_path / "train.py")]
    started = []
    for number, (words, mark) in enumerate(
        ((rank, "abc"), (rank, "other"), ([*rank[:1], "-c", code], "abc"))
    ):
        process = subprocess.Popen(
            words, env={**os.environ, "CROSSFOOT_LAUNCH": mark}, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline()
        beat = Heartbeat(1, number, "node1", process.pid, "training", 0, 1, 1.0, 1.0, machine=this_machine())
        write_heartbeat(run_dir, beat)
    try:
        assert start._ranks_left(str(run_dir), [], "abc") == [started[0].pid]
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("options", "cluster", "said"),
    (
        (LaunchOptions("local"), Topology(2, 1), ""),
        (LaunchOptions("deepspeed", hostfile="hosts"), Topology(2, 2), ""),
        (LaunchOptions("accelerate", dry_run=True), Topology(2, 2), ", folded into one process"),
        (LaunchOptions("torchrun"), Topology(2, 2), "; the machine with rank 0 prints the run"),
        (
            LaunchOptions("accelerate", node_rank=1),
            Topology(2, 2),
            "; this is node 1; the machine with rank 0 prints the run",
        ),
    ),
    ids=str,
)
def test_who_starts_hears_where_the_run_speaks(options: LaunchOptions, cluster: Topology, said: str) -> None:
    assert who_speaks(_job(Path("run"), options=options, cluster=cluster)) == said
