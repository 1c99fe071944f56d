"""Somebody names what is no run: the run that is meant, or those nearby, and the words to type."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossfoot.cli import main
from crossfoot.runs import nearby
from crossfoot.runs.ending import Ending, write_ending
from crossfoot.runs.nearby import MOST_SHOWN, is_run, runs_near

HOUR, NOW = 3600, time.time()


def make_run(folder: str, ending: Ending | None = None, age_seconds: float = HOUR, foots: str = "") -> Path:
    """What such a run would leave, as far as it is looked at."""
    attempt = Path(folder, "attempt-001")
    (Path(folder) / "checkpoints" / "step-000002").mkdir(parents=True)
    (Path(folder) / "adapter").mkdir()
    attempt.mkdir()
    for name in ("plan.lock.json", "ledger.jsonl", "attempt-001/plan.lock.json"):
        Path(folder, name).write_text("")
    if foots:
        Path(folder, "receipt.json").write_text(f'{{"foots": {foots}}}')
    if ending is not None:
        write_ending(str(attempt / "ending.json"), ending)
    then = NOW - age_seconds
    for path in (attempt, Path(folder, "ledger.jsonl")):
        os.utime(path, (then, then))
    return Path(folder)


@pytest.fixture(autouse=True)
def three_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nearby, "time", SimpleNamespace(time=lambda: NOW))
    make_run("runs/alpaca", Ending("finished", 8, 0, 8), 3 * HOUR, "true")
    make_run("runs/my run", Ending("signal", 3, 75, 8), 2 * HOUR)
    make_run("runs/gone", None)
    Path("runs/.index/0a1b").mkdir(parents=True)


ALL = (
    "runs/gone: killed, or silent, last sign of life 1:00:00 ago",
    "runs/my run: was stopped by a signal after 3 of 8 steps, 2:00:00 ago",
    "runs/alpaca: finished after 8 of 8 steps, foots, 3:00:00 ago",
)


@pytest.mark.parametrize(
    "path", ["nowhere", "runs", ".", "runs/.index", "runs/.index/0a1b", "/", "runs/zzz/"]
)
def test_the_runs_nearby_are_told_the_newest_first(path: str) -> None:
    near = runs_near(path)
    assert near.notes == ALL and near.helps(str) == ()


@pytest.mark.parametrize(
    "below", ["attempt-001", "checkpoints", "checkpoints/step-000002", "adapter", "ledger.jsonl", "heartbeat"]
)
@pytest.mark.parametrize("verb", ["receipt", "watch"])
def test_of_a_part_of_a_run_the_run_is_named(
    verb: str, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, f"runs/my run/{below}"]) == 2
    said = capsys.readouterr().out
    assert f"= note: {ALL[1]}" in said and "runs/gone" not in said
    assert f"= help: name the run itself: crossfoot {verb} 'runs/my run'\n" in said


def test_without_a_word_it_is_this_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch"]) == main(["receipt"]) == 2
    assert capsys.readouterr().out.count(f". holds no run\n  = note: {ALL[0]}") == 2


def test_from_inside_of_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("runs/my run/checkpoints")
    assert runs_near(".").meant == ".." and runs_near("step-000002").meant == ".."


def test_a_config_means_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("run: {name: x, dir: runs/alpaca}\n")  # and much is missing
    assert main(["receipt", "run.yaml"]) == 2
    said = capsys.readouterr().out
    assert "run.yaml is a file, not the folder of a run" in said
    assert "name the run itself: crossfoot receipt runs/alpaca\n" in said


@pytest.mark.parametrize("path", ["runs/alpacca", "alpaca", "runs/Alpaca2"])
def test_a_name_that_is_nearly_one(path: str) -> None:
    near = runs_near(path)
    assert near.notes == ALL and near.helps(shlex.quote) == ("the nearest name: runs/alpaca",)


def test_only_five_are_told_and_the_others_counted() -> None:
    for number in range(4):
        make_run(f"runs/new-{number}", Ending("stop_after", 2, 0, 2), 60.0 + number, "false")
    notes = runs_near("elsewhere").notes
    assert len(notes) == MOST_SHOWN + 1 == 6 and notes[-1] == "and 2 older runs"
    assert notes[0] == "runs/new-0: stopped on purpose after 2 of 2 steps, does not foot, 1:00 ago"


def test_a_run_that_writes_is_told_as_running() -> None:
    make_run("runs/now", None, age_seconds=5)
    assert runs_near("x").notes[0].startswith("runs/now: running, ")


def test_nothing_nearby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b/c/d")
    assert main(["receipt", "runs/x"]) == 2
    assert "name the folder that run.dir says, by default runs/NAME" in capsys.readouterr().out


def test_what_is_a_run() -> None:
    assert is_run("runs/gone") and not is_run("runs/gone/attempt-001") and not is_run("runs")
    Path("attempt-7").mkdir()
    assert not is_run("attempt-7")
    make_run("attempt-7/attempt-8")  # strange names for runs, but runs
    assert is_run("attempt-7/attempt-8")
