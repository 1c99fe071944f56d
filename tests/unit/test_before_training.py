"""What stands around the training: the run folder's claim and release, signals by phase, lines while
tokenising.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossfoot.findings.finding import Refused
from crossfoot.index import tokenising_line
from crossfoot.index.tokenising_line import TokenisingLine
from crossfoot.liveness.signals import ENDING, SignalWatch
from crossfoot.liveness.stopping import Stop, Stopped, StopRequest
from crossfoot.runs.attempts import LEDGER_FILE, LOCK_FILE
from crossfoot.runs.run_folder import (
    ATTEMPT_NAME,
    forget_attempt,
    make_folder,
    refuse_links,
    refuse_used_folder,
    release_folder,
)
from crossfoot.written.run_file import RunFile, load_run
from support.launching import environment, small_config


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    return load_run(str(small_config(tmp_path)), [f"run.dir={tmp_path}/runs/one"])


def _code(refused: pytest.ExceptionInfo[Refused]) -> str:
    return refused.value.findings[0].code


def test_looking_at_a_free_folder_leaves_nothing_behind(run: RunFile) -> None:
    refuse_used_folder(run)
    assert not Path(run.run_dir).parent.exists()


def test_a_claimed_folder_is_refused_to_others_until_released(run: RunFile) -> None:
    make_folder(run)
    with pytest.raises(Refused) as early:
        refuse_used_folder(run)
    with pytest.raises(Refused) as late:  # both looked while it was free
        make_folder(run)
    assert (_code(early), _code(late)) == ("CF011", "CF011")
    folder = Path(run.run_dir)
    (folder / LOCK_FILE).write_text("{}", encoding="utf-8")
    (folder / LEDGER_FILE).touch()
    release_folder(run)
    assert not folder.exists()
    refuse_used_folder(run)


def test_a_folder_that_the_server_says_is_there_already_is_its_makers(
    run: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS asks again when an answer is lost, and the second answer to mkdir is EEXIST."""
    real = os.mkdir

    def asked_twice(path: str, *rest: int) -> None:
        real(path, *rest)
        if Path(path).name == ATTEMPT_NAME:
            real(path, *rest)

    monkeypatch.setattr(os, "mkdir", asked_twice)
    make_folder(run)
    with pytest.raises(Refused):
        make_folder(run)
    release_folder(run)
    assert not Path(run.run_dir).exists()


@pytest.mark.parametrize(
    "name",
    (
        *("receipt.json", "checkpoint-now", "checkpoints/step-000001/w.bin", "heartbeat/ecg.csv"),
        *("adapter/adapter_model.safetensors", "model/config.json"),
    ),
)
def test_somebody_elses_files_under_names_of_a_run_are_refused(run: RunFile, name: str) -> None:
    theirs = Path(run.run_dir, name)
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine", encoding="utf-8")
    with pytest.raises(Refused) as refused:
        refuse_used_folder(run)
    assert _code(refused) == "CF752" and name.split("/")[0] in refused.value.findings[0].title
    assert theirs.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["adapter", "checkpoints", "heartbeat", "model", "receipt.json"])
def test_a_link_under_a_name_of_a_run_is_refused(run: RunFile, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Path(run.run_dir).mkdir(parents=True)
    Path(run.run_dir, name).symlink_to(elsewhere)
    for refuse in (refuse_used_folder, refuse_links):
        with pytest.raises(Refused) as refused:
            refuse(run)
        assert _code(refused) == "CF752"


def test_a_folder_with_other_names_is_free(run: RunFile) -> None:
    folder = Path(run.run_dir)
    for name in ("checkpoints", "launch", "snapshot"):  # an empty one, and what `crossfoot launch` makes
        (folder / name).mkdir(parents=True)
    (folder / "slurm-12.log").write_text("...", encoding="utf-8")
    refuse_used_folder(run)


def test_only_heartbeats_are_cleared_away_and_never_through_a_link(run: RunFile, tmp_path: Path) -> None:
    theirs, ours = ("ecg.csv", "rank-1.json"), ("rank-00000.json", ".rank-00001.json.ab12.partial")
    folder = Path(run.run_dir, "heartbeat")
    elsewhere = tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        each.mkdir(parents=True)
        for name in (*theirs, *ours, "verdict-attempt-001.json", "verdict-attempt-002.json"):
            (each / name).write_text("{}", encoding="utf-8")
    forget_attempt(run.run_dir, 2)
    assert sorted(path.name for path in folder.iterdir()) == [*theirs, "verdict-attempt-001.json"]
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(elsewhere)
    forget_attempt(run.run_dir, 2)
    assert len(list(elsewhere.iterdir())) == 6


def test_a_release_keeps_a_ledger_with_a_line_and_what_is_not_ours(run: RunFile) -> None:
    folder = Path(run.run_dir)
    make_folder(run)
    (folder / LEDGER_FILE).write_text("{}\n", encoding="utf-8")
    release_folder(run)
    assert (folder / ATTEMPT_NAME).exists()
    (folder / LEDGER_FILE).write_text("", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    release_folder(run)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_preparation_at_once_and_a_step_when_it_is_done(number: signal.Signals) -> None:
    with pytest.raises(Stopped) as stopped, StopRequest():
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == (130 if number == signal.SIGINT else 75)
    with StopRequest() as stop:
        stop.begin()
        os.kill(os.getpid(), number)
        assert stop.reason is (Stop.INTERRUPTED if number == signal.SIGINT else Stop.TERMINATED)


@pytest.mark.parametrize(
    ("signals", "exit_code"),
    [
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR1), None),
        ((signal.SIGUSR1, signal.SIGTERM), None),
        ((signal.SIGINT, signal.SIGTERM), None),
        ((signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGXCPU, signal.SIGXCPU, signal.SIGHUP, signal.SIGHUP), None),
    ],
)
@pytest.mark.parametrize("seconds_apart", [0.5, 2.0])
def test_the_same_signal_again_stops_at_once_and_an_echo_does_not(
    monkeypatch: pytest.MonkeyPatch,
    signals: tuple[signal.Signals, ...],
    exit_code: int | None,
    seconds_apart: float,
) -> None:
    now, ended, first = [100.0], list[int](), list[int]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "_exit", ended.append)
    watch = SignalWatch(first.append)
    for number in signals:
        watch.hear(number)
        now[0] += seconds_apart
    assert ended == ([exit_code] if exit_code is not None and seconds_apart > 1 else [])
    assert first == [signals[0]]


def test_what_nohup_ignores_stays_ignored_and_a_profilers_timer_is_its_own() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGPROF)}
    heard = list[int]()
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPROF, lambda number, frame: heard.append(number))
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGPROF)
        assert (stop.reason, heard) == (Stop.NO, [signal.SIGPROF])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


LONG_STEP = """\
import hashlib
from crossfoot.liveness import signals
from crossfoot.liveness.stopping import StopRequest
signals.PATIENT_SECONDS = 0.0
with StopRequest() as stop:
    stop.begin()
    print("in a step", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # as torch: no handler runs for minutes
"""


def test_a_signal_in_a_long_step_is_answered_at_once() -> None:
    command = [sys.executable, "-c", LONG_STEP]
    with subprocess.Popen(command, env=environment(), stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "in a step\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == (
            "SIGINT: this step is finished, a checkpoint is written, and the run stops; "
            "the same again stops it at once\n"
        )
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


def test_a_wish_for_a_checkpoint_ends_nothing_and_is_over_when_it_is_written() -> None:
    stop = StopRequest()
    stop.ask(Stop.SAVE)
    stop.begin()
    assert not stop.reason.ends
    stop.saved()
    assert stop.reason is Stop.NO
    stop.ask(Stop.TERMINATED)
    stop.ask(Stop.SAVE)
    stop.saved()
    assert stop.reason is Stop.TERMINATED
    assert [wish for wish in Stop if wish.ends] == list(Stop)[2:]


def test_a_swallowed_signal_ends_the_run_before_its_first_step() -> None:
    with StopRequest() as stop:
        with contextlib.suppress(BaseException):  # as a library might
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # the launcher's echo: said once is enough
        with pytest.raises(KeyboardInterrupt):
            stop.begin()


def test_lines_while_tokenising(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(tokenising_line.time, "monotonic", lambda: now[0])
    line = TokenisingLine()
    for at, done in ((100.0, 1000), (101.0, 2000), (102.0, 3000), (103.0, 4000), (107.0, 8000)):
        now[0] = at
        line(done, lambda: 100_000)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "tokenising   3,000 records of about 100,000   1,000 records/s   1:37 left",
        "tokenising   8,000 records of about 100,000   1,000 records/s   1:32 left",
    ]
    now[0] = 120.0
    line(9000, lambda: None)
    line(9001, lambda: None)
    assert capsys.readouterr().err == "tokenising   9,000 records\n"
