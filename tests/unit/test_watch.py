"""`crossfoot watch`: a run seen from its files alone, and told as its receipt tells it."""

from __future__ import annotations

import json
import os
import pty
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from crossfoot.checkpoints.manifest import Manifest, WrittenFile, write_manifest
from crossfoot.checkpoints.store import commit, partial_folder
from crossfoot.findings.finding import Refused
from crossfoot.ledger.skipping import Policies
from crossfoot.ledger.witness import StepWitness
from crossfoot.liveness.heartbeats import Heartbeat, write_heartbeat
from crossfoot.liveness.judging import LastSeen, Verdict
from crossfoot.liveness.verdicts import write_verdict
from crossfoot.phrases import counted
from crossfoot.processes import start_of, this_machine
from crossfoot.receipts.receipt import receipt_of
from crossfoot.runs.ending import Ending
from crossfoot.runs.run_folder import HEARTBEAT_FOLDER
from crossfoot.runs.validations import Validation, append_validation
from crossfoot.watching import watcher as watching
from crossfoot.watching.follow import LedgerFollower
from crossfoot.watching.freshness import Freshness
from crossfoot.watching.lines import Teller
from crossfoot.watching.page import WIDTH, make_page
from crossfoot.watching.state import RankView, RunState
from crossfoot.watching.watch import is_over
from crossfoot.watching.watcher import Watcher
from crossfoot.watching.words import folded
from ledger_cases import Data, Job, without_forward
from support.launching import ROOT, environment

STEPS = 8
DATA = Data(list(range(32)), [100 + i for i in range(32)], [50] * 32)
DONE = Ending("finished", STEPS, 0, STEPS)
NOW = time.time()


def job(folder: Path, **other: Any) -> Job:
    """Eight steps of four samples."""
    pairs = [(0, sample) for sample in range(4 * STEPS)]
    return Job(folder, DATA, [pairs[first : first + 4] for first in range(0, 4 * STEPS, 4)], **other)


def beat(folder: Path, rank: int, beats: int = 1, attempt: int = 1, **other: Any) -> None:
    (folder / HEARTBEAT_FOLDER).mkdir(exist_ok=True)
    known = {"host": f"node{rank}", "pid": 1, "phase": "training", "step": 3, "period_seconds": 1.0}
    seconds = other.pop("beat_seconds", NOW)
    write_heartbeat(
        folder, Heartbeat(attempt=attempt, rank=rank, beats=beats, beat_seconds=seconds, **{**known, **other})
    )


def save(folder: Path, step: int, loss: float | None = None) -> None:
    """A checkpoint without a tensor."""
    partial = partial_folder(folder, step, 1)
    partial.mkdir(parents=True)
    (partial / "tensors.safetensors").write_bytes(b"0123456789")
    file = WrittenFile("tensors.safetensors", 10, "0" * 64)
    lock = json.loads((folder / "plan.lock.json").read_text())
    plan = {"plan_sha256": lock["sha256"], "batches_sha256": lock["plan"]["batches_sha256"]}
    written = {**plan, "attempt": 1, "files": (file,), "tensors": {}}
    more = {"optimizer": "adamw", "optimizer_step": step, "seconds": 0.5, "written": "2026-01-01T00:00:00Z"}
    write_manifest(partial, Manifest(step=step, validation_loss=loss, **written, **more))
    commit(partial)
    if loss is not None:
        validated(folder, step, loss)


def validated(folder: Path, step: int, loss: float) -> None:
    """A validation, as rank 0 notes it."""
    append_validation(str(folder), Validation(step, 1, loss, 0.25, 10, 100))


def dropped(step: int, told: list[StepWitness]) -> list[StepWitness]:
    """The last forward of step 2 is never differentiated."""
    return [told[0], without_forward(told[1], 1)] if step == 2 else told


def shown(state: RunState, **terminal: Any) -> list[str]:
    """The rows of the page."""
    console = Console(width=terminal.pop("width", 200), force_terminal=False, **terminal)
    with console.capture() as capture:
        console.print(make_page(state))
    return capture.get().splitlines()


def row(state: RunState, label: str) -> str:
    (line,) = [line for line in shown(state) if line.startswith(f"  {label} ")]
    return line.removeprefix(f"  {label}").strip()


def command(state: RunState) -> str:
    """What to type next, as a shell reads it that it is pasted into."""
    lines = shown(state)
    (at,) = [number for number, line in enumerate(lines) if line.startswith("  next ")]
    return " ".join(shlex.split("\n".join(lines[at + 1 :]).replace("\\\n", "")))


def age(folder: Path, seconds: float) -> None:
    """Let all files of a run be so old."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (NOW - seconds,) * 2)


def watcher_at_rest(folder: Path) -> Watcher:
    """It is NOW for it, however long the test takes."""
    watcher = Watcher(str(folder))
    watcher._fresh = Freshness(wall=lambda: NOW, steady=lambda: 0.0)
    return watcher


# --- following the ledger


def test_every_line_is_read_once_wherever_the_file_ends_in_between(tmp_path: Path) -> None:
    written = job(tmp_path / "run").run(3)
    whole = (tmp_path / "run" / "ledger.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "ledger.jsonl"
    follower, read = LedgerFollower(str(path)), []
    assert follower.look() == ([], False)
    for size in [*range(0, len(whole), 7), *ends, len(whole)]:
        if size >= (path.stat().st_size if path.exists() else 0):
            path.write_bytes(whole[:size]) if not path.exists() else _grow(path, whole[:size])
            read += follower.look().entries
            assert len(read) == sum(end <= size for end in ends) and follower.is_caught_up
    assert read == written and follower.finding is None


def _grow(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text[path.stat().st_size :])


def test_a_ledger_that_was_cut_back_or_replaced_is_read_anew(tmp_path: Path) -> None:
    run = job(tmp_path)
    written = run.run(4)
    follower = LedgerFollower(str(run.ledger))
    assert follower.look() == (written, False)
    lines = run.ledger.read_bytes().splitlines(keepends=True)
    run.ledger.write_bytes(b"".join(lines[:2]))
    assert follower.look() == (written[:2], True)
    other = replace(written[1], loss=7.0).to_line().encode()
    run.ledger.write_bytes(b"".join([lines[0], other, lines[2]]))  # longer than before, and another line 2
    assert follower.look() == ([written[0], replace(written[1], loss=7.0), written[2]], True)
    run.ledger.unlink()
    assert follower.look() == ([], True)
    assert follower.look() == ([], False)


def test_a_damaged_line_holds_the_reading_up_until_it_is_mended(tmp_path: Path) -> None:
    run = job(tmp_path)
    written = run.run(3)
    whole = run.ledger.read_bytes()
    second = whole.index(b"\n") + 1
    run.ledger.write_bytes(whole[:second] + b"\0" * 40 + whole[second + 40 :])
    follower = LedgerFollower(str(run.ledger))
    assert follower.look() == (written[:1], False)
    assert follower.finding is not None and follower.finding.code == "CF704"
    assert "line 2" in follower.finding.title and not follower.is_caught_up
    state = Watcher(str(tmp_path)).look()
    assert (
        state.footed.foots is None and state.exit_code == 2 and "cannot be said" in row(state, "foots so far")
    )
    run.ledger.write_bytes(whole)
    assert follower.look() == (written[1:], False) and follower.finding is None


def test_a_tail_begins_near_the_end_and_a_look_is_limited_in_time(tmp_path: Path) -> None:
    (entry,) = job(tmp_path).run(1)
    path = tmp_path / "long.jsonl"
    path.write_text("".join(replace(entry, step=step).to_line() for step in range(1500)), encoding="utf-8")
    tail = LedgerFollower(str(path), tail_lines=20)
    steps = [entry.step for entry in tail.look().entries]
    assert 20 <= len(steps) < 1000 and steps == list(range(1500))[-len(steps) :]
    slow = LedgerFollower(str(path))
    assert 0 < len(slow.look(seconds=0).entries) < 1500
    assert 0 < slow.share < 1 and not slow.is_caught_up
    while not slow.is_caught_up:
        slow.look(seconds=0)
    assert slow.share == 1


# --- whether it foots so far


@pytest.mark.parametrize("seed", range(12))
def test_it_foots_so_far_exactly_when_the_receipt_does(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    run, done, watcher = job(tmp_path), 0, None
    watching_receipts = 0.0
    for attempt in range(1, 4):
        first = draw.randint(max(0, done - 2), done) if attempt > 1 else 0
        faulty = draw.random() < 0.4
        done = draw.randint(min(first + 1, STEPS), STEPS)
        ending = draw.choice([None, Ending("signal", done, 75, STEPS)])
        run.run(done, first_step=first, ending=ending, change=dropped if faulty else lambda step, told: told)
        if draw.random() < 0.3:
            _tamper(run.ledger, draw)
        watcher = watcher or Watcher(str(tmp_path))
        watcher._next_receipt = watching_receipts  # no waiting between two of them
        state = watcher.look()
        if state.status == "ended":
            state = watcher.settle(state)
        receipt = receipt_of(str(tmp_path))
        assert state.footed.foots == receipt.foots_so_far
        assert state.footed.cause_count == receipt.cause_count
        assert [(view.written, view.lost) for view in state.attempts] == [
            (past.steps, past.lost) for past in receipt.history
        ]
        done = min(done, _unbroken(run))


def _tamper(ledger: Path, draw: random.Random) -> None:
    """A line goes, comes twice, or says something else."""
    lines = ledger.read_text(encoding="utf-8").splitlines(keepends=True)
    number = draw.randrange(len(lines))
    other = lines[number].replace('"applied":true', '"applied":false')
    lines[number : number + 1] = draw.choice([[], [lines[number]] * 2, [other]])
    ledger.write_text("".join(lines), encoding="utf-8")


def _unbroken(run: Job) -> int:
    from crossfoot.ledger.book import read_readable
    from crossfoot.runs.attempts import read_attempts, vouched_steps

    return vouched_steps(read_readable(str(run.ledger)), read_attempts(str(run.folder)))


def test_what_the_order_of_the_lines_says(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4, ending=Ending("signal", 5, 75, STEPS))
    (tmp_path / "attempt-002").mkdir()  # it goes on, though the ending says one step more than the ledger
    state = Watcher(str(tmp_path)).look()
    assert (
        state.status == "starting" and state.footed.foots is False is receipt_of(str(tmp_path)).foots_so_far
    )
    lock = {**run.lock(2, 2), "expects": {**run.lock(2, 2)["expects"], "total_steps": 3}}
    short = job(tmp_path / "short", lock_changes=lock)
    short.run(4)
    assert Watcher(str(short.folder)).look().footed.causes[0].kind == "step not planned"


def test_skipped_steps_are_counted_and_told(tmp_path: Path) -> None:
    def nothing(step: int, told: list[StepWitness]) -> list[StepWitness]:
        bad = [replace(w, applied=False, nonfinite=True, loss_sum=float("nan")) for w in told]
        return bad if step in (1, 3) else told

    policies = Policies(nonfinite="skip")
    run = job(tmp_path, faults={"nonfinite": "skip", "overflow": "retry"})
    run.run(4, change=nothing, policies=policies)
    watcher, teller = Watcher(str(tmp_path)), Teller()
    state = watcher.look()
    assert state.footed.foots is True is receipt_of(str(tmp_path)).foots_so_far
    assert row(state, "foots so far") == "yes   4 steps, 2 of them skipped"
    told = teller.tell(state)
    assert sum("step 2 was left out on purpose (not finite)" in line for line in told) == 1
    run.run(5, first_step=3)
    assert watcher.look().footed.skipped == 1


def test_a_run_in_order_needs_no_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(run_dir: str) -> None:
        raise AssertionError("the receipt was asked")

    monkeypatch.setattr(watching, "receipt_of", never)
    run = job(tmp_path)
    run.run(3)
    watcher = Watcher(str(tmp_path))
    assert watcher.look().footed.foots is True
    run.run(6, first_step=2, torn_bytes=30)
    run.run(7, first_step=4, topology=(3, 1))
    state = watcher.look()
    assert state.footed.foots is True and state.done_steps == 7 and state.exit_code == 0
    assert [(view.lost, view.how) for view in state.attempts] == [
        (1, "killed"),
        (2, "killed"),
        (0, "running"),
    ]
    run.run(8, first_step=7, topology=(2, 2), change=lambda step, told: told[:1])
    with pytest.raises(AssertionError, match="was asked"):
        watcher.look()


def test_the_first_causes_are_shown_and_go_with_the_lines_that_are_lost(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4, change=dropped)
    watcher = Watcher(str(tmp_path))
    state = watcher.look()
    assert state.footed.foots is False and state.exit_code == 3
    page = "\n".join(shown(state))
    assert "foots so far no, 1 cause\n" in page and "CF710 step 3, rank 1: forward 1" in page
    assert "crossfoot explain CF710" in page
    run.run(5, first_step=2)  # from before the fault
    watcher._next_receipt = 0.0
    state = watcher.look()
    assert state.footed.foots is True and "CF710" not in "\n".join(shown(state))


# --- what the run is doing


def test_a_run_from_its_start_to_its_end(tmp_path: Path) -> None:
    run = job(tmp_path / "run")
    (tmp_path / "run" / "attempt-001").mkdir(parents=True)
    watcher = Watcher(str(tmp_path / "run"))
    state = watcher.look()
    assert (state.status, state.name, state.done_steps, state.asked_steps) == ("starting", "run", 0, None)
    assert "nothing to add up yet" in row(state, "foots so far") and row(state, "step") == "0 of ?"
    (tmp_path / "run" / "attempt-001").rmdir()
    run.run(0)
    state = watcher.look()
    assert (state.status, state.name, state.asked_steps) == ("starting", "job", STEPS)
    assert "from step 1   2 ranks, DeepSpeed ZeRO-2   starting" in row(state, "attempts")
    (tmp_path / "run" / "attempt-001" / "attempt.json").unlink()  # the next call writes this attempt again
    for path in (tmp_path / "run" / "attempt-001").iterdir():
        path.unlink()
    (tmp_path / "run" / "attempt-001").rmdir()
    run.run(5)
    save(tmp_path / "run", 2, loss=1.5)
    save(tmp_path / "run", 4, loss=1.75)
    (tmp_path / "run" / "checkpoints" / ".partial-step-000005-attempt-001-aa").mkdir()
    state = watcher.look()
    assert state.status == "running" and state.done_steps == 5 and state.last is not None
    assert row(state, "step").startswith("5 of 8 ") and " 62 %   about 1 s left" in row(state, "step")
    assert row(state, "rate") == "5.000e-05" and row(state, "loss").startswith(f"{state.last.loss:.4f} ")
    assert "800 trained tokens/s" in row(state, "speed")  # 4 samples of 50 targets in a quarter of a second
    assert row(state, "validation") == ("1.7500        after 4 steps   best 1.5000 after 2 steps")
    assert "after 4 steps " in row(state, "checkpoint") and "took 0.5 s   saving after 5 steps" in row(
        state, "checkpoint"
    )
    validated(tmp_path / "run", 8, 1.25)
    run.run(STEPS, first_step=4, ending=DONE)
    state = watcher.look()
    assert state.status == "ended" and state.footed.foots is None
    state = watcher.settle(state)
    assert state.exit_code == 0 and row(state, "foots") == "yes   8 steps"
    assert row(state, "validation").startswith("1.2500        after 8 steps   perplexity 3.49   25.0% right")
    assert (
        "took 0.5 s   cut off after 5 steps" in row(state, "checkpoint")
        and command(state) == f"crossfoot receipt {run.folder}"
    )


@pytest.mark.parametrize(
    ("ending", "steps", "fault", "exit_code", "words"),
    (
        (DONE, 8, False, 0, "finished"),
        (DONE, 8, True, 3, "finished"),
        (Ending("stop_after", 5, 0, 5), 5, False, 0, "stopped on purpose"),
        (Ending("signal", 5, 75, 8), 5, False, 0, "stopped by a signal"),
        (Ending("interrupt", 5, 130, 8), 5, True, 3, "interrupted"),
        (Ending("fault", 5, 1, 8), 5, False, 3, "stopped on a fault"),
        (Ending("signal", 6, 75, 8), 5, False, 3, "stopped by a signal"),  # a line is missing
    ),
)
def test_how_it_ended(
    tmp_path: Path, ending: Ending, steps: int, fault: bool, exit_code: int, words: str
) -> None:
    job(tmp_path).run(steps, ending=ending, change=dropped if fault else lambda step, told: told)
    watcher = Watcher(str(tmp_path))
    state = watcher.settle(watcher.look())
    assert state.exit_code == exit_code and shown(state)[0].endswith(words)
    os.utime(tmp_path / "attempt-001/ending.json", (NOW, NOW))
    state = watcher.settle(watcher.look())
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW))
    asked = counted(ending.planned_steps, "step")
    assert row(state, "ended") == f"{words} after {ending.step} of {asked}, {when}"
    if exit_code == 0 and ending.reason == "signal":
        assert command(state) == f"crossfoot train CONFIG --continue {tmp_path}"
        assert row(state, "foots") == "not complete: 5 of 8 steps, and those foot"


def test_a_killed_run_gives_no_sign_of_life(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(5, torn_bytes=20)
    age(tmp_path, 200)
    watcher = watcher_at_rest(tmp_path)
    state = watcher.look()
    assert state.status == "silent" and state.exit_code == 0 and state.footed.foots is True
    assert "no sign of life for 3:20" in shown(state)[0] and "--continue" in command(state)
    (tmp_path / "attempt-002").mkdir()
    assert watcher.look().status == "starting"
    (tmp_path / "attempt-002").rmdir()
    run.run(6, first_step=4)
    state = watcher.look()
    assert state.status == "running" and "killed, 1 lost" in row(state, "attempts")


def killed_process() -> dict[str, Any]:
    """What a heartbeat says of a process that was on this machine and is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return {"pid": process.pid, "machine": this_machine(), "started": "long ago"}


def test_a_run_whose_processes_are_gone_is_killed(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(5)
    age(tmp_path, 200)
    for rank in (0, 1):
        beat(tmp_path, rank, **killed_process(), beat_seconds=NOW - 200)
    state = watcher_at_rest(tmp_path).look()
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW - 200))
    assert (state.status, state.exit_code) == ("killed", 0) and shown(state)[0].endswith("killed")
    assert row(state, "foots so far") == "yes   5 steps"
    assert row(state, "ended") == f"killed after 5 of 8 steps, {when}"
    assert command(state) == f"crossfoot train CONFIG --continue {tmp_path}"
    lines = Teller().tell(state)
    assert f"attempt 1 was killed, {when}" in lines and is_over(state)
    assert lines[-1] == f"continue it: {command(state)}"
    beat(tmp_path, 0, pid=os.getpid(), machine=this_machine(), started=start_of(os.getpid()))
    assert watcher_at_rest(tmp_path).look().status == "running", "its process is there"
    beat(tmp_path, 0, **{**killed_process(), "machine": "elsewhere"})
    assert watcher_at_rest(tmp_path).look().status == "running", "nobody here can tell"
    beat(tmp_path, 0, **killed_process())
    (tmp_path / "attempt-002").mkdir()
    assert watcher_at_rest(tmp_path).look().status == "starting", "another attempt has begun"


def test_a_command_on_many_lines_can_be_pasted() -> None:
    command = "crossfoot train 'my run/config.yaml' --continue 'runs/my run' data.train='[a.json, b.json]'"
    for width in (10, 40, 60, 200):
        lines = folded(command, width)
        assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
        assert all(len(line) <= max(width, 34) for line in lines)


def test_an_ended_run_is_over_unless_a_new_attempt_has_begun(tmp_path: Path) -> None:
    job(tmp_path).run(5, ending=Ending("signal", 5, 75, 8))
    watcher = Watcher(str(tmp_path))
    assert watcher.look().status == "ended"
    (tmp_path / "attempt-002").mkdir()
    state = watcher.look()
    assert state.status == "starting" and state.ending is None
    assert [view.how for view in state.attempts] == ["signal", "starting"]
    age(tmp_path, 3600)
    assert Watcher(str(tmp_path)).look().status == "ended"  # it never began


def test_no_run_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        Watcher(str(tmp_path / "nowhere")).look()
    (finding,) = refused.value.findings
    assert refused.value.exit_code == 2 and finding.code == "CF040"
    job(tmp_path).run(1)
    with pytest.raises(Refused) as refused:
        Watcher(str(tmp_path / "attempt-001")).look()
    (finding,) = refused.value.findings
    assert finding.helps and str(tmp_path.name) in finding.helps[0]


# --- ranks


def test_a_silent_rank_is_named(tmp_path: Path) -> None:
    job(tmp_path).run(3)
    beat(tmp_path, 0)
    beat(tmp_path, 1, beat_seconds=NOW - 40)
    beat(tmp_path, 7, attempt=9)  # of another attempt
    (tmp_path / HEARTBEAT_FOLDER / "rank-00002.json").write_text("{", encoding="utf-8")
    state = watcher_at_rest(tmp_path).look()
    assert state.status == "running" and [rank.is_silent for rank in state.ranks] == [False, True]
    assert row(state, "ranks").startswith("0   node0   training   step 4   0 s ago")
    assert shown(state)[-1].split() == ["1", "node1", "training", "step", "4", "silent", "for", "40", "s"]
    assert shown(state)[0].endswith("rank 1 on node1 is silent")
    told = "\n".join(Teller().tell(state))
    assert "rank 1 on node1 is silent for 40 s, last seen in step 4" in told


def test_a_verdict_on_lost_ranks_is_shown(tmp_path: Path) -> None:
    job(tmp_path).run(3)
    beat(tmp_path, 0, beat_seconds=NOW)
    lost = LastSeen(1, "node1", 1, "training", 3, silent_seconds=61.0)
    write_verdict(tmp_path, Verdict(1, "silent", 0, (lost,), (), 60.0))
    state = watcher_at_rest(tmp_path).look()
    assert row(state, "attempts").endswith("a rank was lost")
    assert any("rank 1 on node1" in line for line in shown(state)[-3:-1])
    assert any(line.startswith("attempt 1 lost a rank: rank 1 on node1") for line in Teller().tell(state))


def test_without_any_beat_the_run_is_silent_and_a_rank_never_seen_too(tmp_path: Path) -> None:
    job(tmp_path).run(3)
    beat(tmp_path, 1, beat_seconds=NOW - 40)
    age(tmp_path, 40)
    state = watcher_at_rest(tmp_path).look()
    assert state.status == "silent" and state.ranks[0] == RankView(0, "", "", 0, None, True)
    assert "never seen" in row(state, "ranks")


def test_clocks_of_other_hosts_are_believed_only_at_first() -> None:
    now = [1000.0]
    fresh = Freshness(wall=lambda: now[0] + 5_000_000, steady=lambda: now[0])
    assert fresh.age("slow", 1, 5_000_000.0) == 1000.0
    assert fresh.age("fast", 1, 9_000_000.0) == 0.0
    now[0] += 3
    assert fresh.age("slow", 2, 5_000_001.0) == 0.0
    assert fresh.age("fast", 1, 9_000_000.0) == 3.0
    now[0] += 2
    assert fresh.age("slow", 2, 5_000_001.0) == 2.0


# --- the page


def test_nothing_is_wider_than_the_page_and_nothing_steers_the_terminal(tmp_path: Path) -> None:
    name = "训练\x1b[31m" * 30
    run = job(tmp_path, lock_changes={"name": name})
    run.run(3, change=dropped)
    state = Watcher(str(tmp_path)).look()
    many = tuple(
        RankView(rank, f"a-long-host-name-of-node-{rank // 8}", "training", 3, 1.0, rank == 77)
        for rank in range(1024)
    )
    crowded = replace(state, ranks=many, attempts=state.attempts * 40, done_steps=10**8, asked_steps=10**9)
    for width in (40, 80, 200):
        rows = shown(crowded, width=width)[:-1]  # the command is never cut
        assert max(map(cell_len, rows)) <= min(width, WIDTH) and "\x1b" not in "".join(rows)
        assert len(rows) < 45
    page = "\n".join(shown(crowded))
    assert "0-7 " in page and "and 120 more hosts, all alive" in page and "77 " in page
    assert "39 earlier ones" not in page and "35 earlier ones" in page


def test_nothing_jumps_while_it_trains(tmp_path: Path) -> None:
    run = job(tmp_path)
    watcher, heights, columns = None, set(), set()
    for step in range(1, STEPS):
        run.run(step, first_step=0) if step == 1 else _one_more(run, step)
        watcher = watcher or Watcher(str(tmp_path))
        rows = shown(watcher.look())
        heights.add(len(rows))
        columns.add(rows[2].index("%"))
    assert len(heights) == 1 and len(columns) == 1


def _one_more(run: Job, step: int) -> None:
    """The running attempt goes on by one step."""
    planned = run.plan(step - 1, 2, 2)
    entry = run.data.reconciler(2).step(planned, run.data.obey(planned))
    _grow(run.ledger, run.ledger.read_bytes() + entry.to_line().encode())


def test_a_loss_that_is_no_number_is_shown(tmp_path: Path) -> None:
    def bad(step: int, told: list[StepWitness]) -> list[StepWitness]:
        return [replace(w, loss_sum=float("nan")) for w in told] if step == 3 else told

    job(tmp_path).run(4, change=bad)
    assert row(Watcher(str(tmp_path)).look(), "loss").startswith("nan ")


def test_no_colour_and_ascii_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(tmp_path).run(4)
    state = Watcher(str(tmp_path)).look()
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(width=80, force_terminal=True)
    with console.capture() as capture:
        console.print(make_page(state))
    assert "\x1b[3" not in capture.get()
    with console.capture() as capture:
        console.print(make_page(state, plain_letters=True))
    assert capture.get().isascii() and "####" in capture.get()


# --- the lines


def test_events_are_told_once_and_in_order(tmp_path: Path) -> None:
    run, teller, told = job(tmp_path), Teller(), []
    run.run(3)
    watcher = Watcher(str(tmp_path))

    def tell() -> list[str]:
        told.append(teller.tell(watcher.look()))
        return told[-1]

    assert [line.split("  ")[0] for line in tell()] == ["job", "attempt 1 began with step 1", "step 3/8"]
    assert tell() == []
    _one_more(run, 4)
    save(tmp_path, 4, loss=1.5)
    assert [line.split("  ")[0] for line in tell()] == [
        "step 4/8",
        "checkpoint after 4 steps",
        "validation loss 1.5000",
    ]
    _one_more(run, 5)
    assert [line.split("  ")[0] for line in tell()] == ["step 5/8"]
    run.run(5, first_step=4)
    assert [line.split("  ")[0] for line in tell()] == [
        "attempt 1 was killed",
        "attempt 1 lost 1 step",
        "attempt 2 began with step 5 from step-000004",
        "step 5/8",
    ]
    run.run(STEPS, first_step=5, ending=DONE, change=dropped)
    ended = tmp_path / "attempt-003/ending.json"
    os.utime(ended, (NOW, NOW))
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW))
    last = tell() + teller.end(watcher.settle(watcher.look()))
    assert [line.split("  ")[0] for line in last] == [
        "attempt 2 was killed",
        "attempt 3 began with step 6 from step-000005",
        "step 8/8",
        f"attempt 3 finished after 8 steps (exit code 0), {when}",
        "foots: yes",
        f"the whole receipt: crossfoot receipt {tmp_path}",
    ]


def test_silence_is_said_less_and_less_often(tmp_path: Path) -> None:
    job(tmp_path).run(3)
    state, teller = Watcher(str(tmp_path)).look(), Teller()
    teller.tell(state)
    said = [
        seconds
        for seconds in range(60, 1000, 10)
        if teller.tell(replace(state, status="silent", silent_seconds=float(seconds)))
    ]
    assert said == [60, 120, 240, 480, 960]
    teller.tell(state)
    (first, second) = teller.tell(replace(state, status="silent", silent_seconds=61.0))
    assert first == "no sign of life for 1:01" and "--continue" in second


def test_causes_are_told_when_they_come(tmp_path: Path) -> None:
    run, teller = job(tmp_path), Teller()
    run.run(3, change=dropped)
    watcher = Watcher(str(tmp_path))
    lines = teller.tell(watcher.look())
    assert lines[-2] == "does not foot so far: 1 cause" and lines[-1].startswith("  CF710 step 3, rank 1")
    assert teller.tell(watcher.look()) == []


# --- the verb

HEAVY = """
import sys
from crossfoot.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "deepspeed", "peft", "accelerate", "datasets"} & set(sys.modules)
print(f"heavy: {sorted(heavy)}", file=sys.stderr)
sys.exit(code)
"""


def _watch(*words: str | Path, **other: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HEAVY, "watch", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **other}
    return subprocess.Popen(command, cwd=ROOT, env=environment(COLUMNS="80"), **pipes)


def test_the_verb_follows_a_run_to_its_end_and_imports_nothing_heavy(tmp_path: Path) -> None:
    run = job(tmp_path / "run")
    run.run(3)
    with _watch(tmp_path / "run") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("job   lock ")
        run.run(STEPS, first_step=2, ending=DONE)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and "heavy: []" in stderr
    assert "attempt 1 lost 1 step" in stdout and "\nfoots: yes\n" in stdout and "\x1b" not in stdout


def test_once_leaves_at_once_and_does_not_wait_for_a_killed_run(tmp_path: Path) -> None:
    run = job(tmp_path / "run")
    run.run(3)
    with _watch(tmp_path / "run", "--once") as process:
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and "foots so far yes   3 steps" in stdout and "heavy: []" in stderr
    with _watch(tmp_path / "nowhere") as process:
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in stderr
    assert "CF040" in stdout and f"crossfoot watch {tmp_path}/run\n" in stdout


def test_ctrl_c_leaves_quietly(tmp_path: Path) -> None:
    job(tmp_path / "run").run(3)
    with _watch(tmp_path / "run") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in stderr


def test_a_terminal_gets_the_page_and_keeps_the_last_one(tmp_path: Path) -> None:
    run = job(tmp_path / "run")
    run.run(3)
    ours, theirs = pty.openpty()
    with _watch(tmp_path / "run", stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = _read_until(ours, lambda text: "foots so far" in text)
        run.run(STEPS, first_step=3, ending=DONE)
        seen += _read_until(ours, lambda text: False)
    os.close(ours)
    assert process.returncode == 0 and "\x1b[?25l" in seen and "\x1b[?25h" in seen  # the cursor comes back
    assert "\x1b[3" not in seen  # NO_COLOR is set
    assert seen.rindex("8 of 8") > seen.rindex("foots so far") and "whole receipt" in seen
    assert f"crossfoot receipt {tmp_path}/run\r\n" in seen.replace("\\\r\n" + " " * 15, ""), "never cut"


def _read_until(descriptor: int, is_enough: Callable[[str], bool]) -> str:
    text, deadline = "", time.monotonic() + 60
    while not is_enough(text) and time.monotonic() < deadline:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        text += piece.decode("utf-8", "replace")
    return text
