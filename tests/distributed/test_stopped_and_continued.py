"""Signals, requests, damaged and full disks, changed configs: what a run keeps, what it says, how it goes on.

One plain process each: what is said here does not depend on how many ranks there are (`test_nothing_lost`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossfoot.ledger.book import LedgerBook
from crossfoot.planning.lock import make_lock
from crossfoot.planning.prepare import existing_index, plan_checked, read_and_check
from crossfoot.runs.attempts import LEDGER_FILE
from crossfoot.runs.resume import read_previous_attempts, resume_run
from crossfoot.training.step_hooks import LOOK_SECONDS
from support.launching import (
    ROOT,
    environment,
    ledger,
    plain,
    receipt,
    short_tokenizer,
    small_config,
    write_samples,
)
from support.random_kills import assert_same_tensors, counted_losses
from support.steering import Hold, Steering, wait_until_held

pytestmark = pytest.mark.distributed
STEPS = 12
TRAIN = ("-m", "crossfoot", "train")
Act = Callable[[subprocess.Popen[str], Hold], None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of twelve steps, a checkpoint after every fifth; `calm`: trained undisturbed; `stopped`: after
    seven.
    """
    folder = tmp_path_factory.mktemp("stopped")
    write_samples(folder / "data.jsonl", 60)
    config = small_config(
        folder,
        tokenizer={"path": str(short_tokenizer(folder))},
        deepspeed=None,
        train={"max_steps": STEPS},
        checkpoint={"every_steps": 5},
    )
    for name, words in (("calm", ()), ("stopped", ("--stop-after", "7"))):
        done = plain(*TRAIN, config, f"run.dir={folder / name}", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def stopped(home: Path, tmp_path: Path) -> Path:
    """A copy of the run that was stopped after seven steps; checkpoints after 5 and 7."""
    return Path(shutil.copytree(home / "stopped", tmp_path / "run"))


def go_on(home: Path, run_dir: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return plain(*TRAIN, home / "config.yaml", "--continue", run_dir, *words, **more)


def disturbed(home: Path, run_dir: Path, at_step: int, act: Act, *words: str) -> tuple[int, str]:
    """Train into `run_dir` while `act` does something to the process, which is held before a step; its exit
    code and what it said.
    """
    steering = Steering(run_dir.parent / "steering")
    hold = steering.hold("step", at_step)
    process = subprocess.Popen(
        [sys.executable, *TRAIN, str(home / "config.yaml"), f"run.dir={run_dir}", *words],
        cwd=ROOT,
        env=environment(**steering.variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until_held(hold, 1, process)
        act(process, hold)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, output


def assert_ends_like_calm(home: Path, run_dir: Path) -> None:
    document = receipt(run_dir)
    assert document["foots"]
    assert document["done_steps"] == STEPS
    assert counted_losses(run_dir) == counted_losses(home / "calm")
    assert_same_tensors(run_dir / "adapter", home / "calm" / "adapter")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_a_checkpoint_after_the_step(
    home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run_dir = tmp_path / "run"

    def act(process: subprocess.Popen[str], hold: Hold) -> None:
        process.send_signal(number)

    exit_code, output = disturbed(home, run_dir, 2, act, "checkpoint.every_steps=null")
    assert exit_code == (130 if number == signal.SIGINT else 75), output
    done = len(ledger(run_dir))
    assert 2 <= done < STEPS
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == [f"step-{done:06d}"]
    assert f"--continue {run_dir}" in output
    assert (run_dir / "adapter").exists() is (number == signal.SIGINT)
    assert receipt(run_dir)["foots_so_far"]
    resumed = go_on(home, run_dir)
    assert resumed.returncode == 0, resumed.stdout
    assert f"from step-{done:06d}: {done} of {STEPS} steps are done" in resumed.stdout
    assert_ends_like_calm(home, run_dir)
    assert receipt(run_dir)["lost_steps"] == 0


def test_a_run_goes_on_whoever_reads_its_words(home: Path, tmp_path: Path) -> None:
    """stdout is a log on a full disk, and nobody reads stderr any more."""
    run_dir = tmp_path / "run"
    command = [sys.executable, *TRAIN, str(home / "config.yaml"), f"run.dir={run_dir}"]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), stdout=full, stderr=writer, timeout=300, check=False
        )
    os.close(writer)
    assert done.returncode == 0
    assert_ends_like_calm(home, run_dir)


def test_what_a_checkpoint_cost_is_in_the_line_after_it(home: Path) -> None:
    lines = ledger(home / "calm")
    assert [line["step"] for line in lines if line["pause_seconds"]] == [5, 10]
    assert "checkpoints took" in plain("-m", "crossfoot", "receipt", home / "calm").stdout


def test_a_checkpoint_that_does_not_fit_in_the_grace_time_is_not_begun(home: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"

    def act(process: subprocess.Popen[str], hold: Hold) -> None:
        process.send_signal(signal.SIGTERM)

    exit_code, output = disturbed(home, run_dir, 6, act, "faults.grace_seconds=0.0001")
    assert exit_code == 75, output
    assert "CF771" in output
    assert "kept: step-000005, the last good one" in output
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000005"]
    assert go_on(home, run_dir).returncode == 0
    assert_ends_like_calm(home, run_dir)
    assert receipt(run_dir)["lost_steps"] >= 1


def test_a_checkpoint_on_request(home: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"

    def act(process: subprocess.Popen[str], hold: Hold) -> None:
        (run_dir / "checkpoint-now").touch()
        time.sleep(LOOK_SECONDS)  # its last look was before it was held: the next one is due
        hold.go()

    exit_code, output = disturbed(home, run_dir, 2, act, "checkpoint.every_steps=null")
    assert exit_code == 0, output
    (checkpoint,) = (run_dir / "checkpoints").iterdir()
    assert 2 <= int(checkpoint.name.removeprefix("step-")) < STEPS
    assert not (run_dir / "checkpoint-now").exists()


def test_a_requeued_job_continues_by_itself_and_another_does_not(home: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = (*TRAIN, home / "config.yaml", f"run.dir={run_dir}")
    job = {"SLURM_JOB_ID": "77"}
    assert plain(*words, "--stop-after", "3", **job).returncode == 0
    other = plain(*words, SLURM_JOB_ID="78", SLURM_RESTART_COUNT="1")
    assert (other.returncode, "CF011" in other.stdout) == (1, True)
    first = plain(*words, **job)
    assert (first.returncode, "CF011" in first.stdout) == (1, True)
    again = plain(*words, **job, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stdout
    assert "CONTINUING: attempt 2, from step-000003" in again.stdout
    assert_ends_like_calm(home, run_dir)


@pytest.mark.parametrize(
    ("word", "code", "allow"),
    [
        ("run.seed=8", "CF745", None),
        ("batch.global_batch_size=8", "CF745", None),
        ("lora.r=8", "CF745", None),
        ("lr.reference=2.0e-3", "CF743", "lr.reference"),
    ],
)
def test_what_may_not_change_is_refused_with_both_values_and_nothing_is_touched(
    home: Path, stopped: Path, word: str, code: str, allow: str | None
) -> None:
    before = tree(stopped)
    refused = go_on(home, stopped, word)
    assert refused.returncode == 1, refused.stdout
    assert code in refused.stdout
    assert word.split("=")[0] in refused.stdout
    assert tree(stopped) == before
    if allow is None:
        return
    allowed = go_on(home, stopped, word, "--allow", allow)
    assert allowed.returncode == 0, allowed.stdout
    (change,) = receipt(stopped)["allowed"]
    assert (change["key"], change["before"], change["now"]) == (allow, 0.001, 0.002)
    assert receipt(stopped)["foots"]
    assert allow in plain("-m", "crossfoot", "receipt", stopped).stdout


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its content; heartbeats change while a process lives."""
    files = (path for path in folder.rglob("*") if path.is_file() and "heartbeat" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 16
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["tensors-00000-of-00001.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    home: Path, stopped: Path, damage: Callable[[Path], None], name: str
) -> None:
    damage(stopped / "checkpoints" / "step-000007" / name)
    plan = plan_again(home, stopped)
    assert plan.resume_point.checkpoint == "step-000005"
    (finding,) = plan.findings
    assert (finding.code, finding.severity) == ("CF761", "warning")
    assert "step-000007" in finding.place.file


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(home: Path, stopped: Path) -> None:
    flip(stopped / "checkpoints" / "step-000007" / "tensors-00000-of-00001.safetensors")
    resumed = go_on(home, stopped)
    assert resumed.returncode == 0, resumed.stdout
    assert "CF761" in resumed.stdout
    assert "step-000005 is used instead" in resumed.stdout
    assert_ends_like_calm(home, stopped)
    assert receipt(stopped)["lost_steps"] == 2


def test_when_no_checkpoint_is_good_nothing_is_trained_again_unasked(home: Path, stopped: Path) -> None:
    for folder in (stopped / "checkpoints").iterdir():
        flip(folder / "tensors-00000-of-00001.safetensors")
    before = tree(stopped)
    refused = go_on(home, stopped)
    assert refused.returncode == 1
    assert "CF760" in refused.stdout
    assert refused.stdout.count("CF761") == 2
    assert tree(stopped) == before
    shutil.rmtree(stopped / "checkpoints")
    again = go_on(home, stopped)
    assert again.returncode == 0, again.stdout
    assert "CF768" in again.stdout
    assert_ends_like_calm(home, stopped)
    assert receipt(stopped)["lost_steps"] == 7


def plan_again(home: Path, run_dir: Path) -> Any:
    """What continuing would begin with, without torch."""
    checked = read_and_check(str(home / "config.yaml"), [f"run.dir={run_dir}"])
    index = existing_index(checked)
    assert index is not None
    plan = plan_checked(checked, index)
    before, lock = read_previous_attempts(plan.run), make_lock(plan)
    return resume_run(plan.run, before, lock, plan.schedule, plan.rate, index.digests, (), STEPS)


def test_every_byte_of_the_ledgers_last_line_cut_off_in_turn(home: Path, stopped: Path) -> None:
    """The checkpoint after seven steps is passed over when its last line is gone; nothing else is lost."""
    book = stopped / LEDGER_FILE
    whole = book.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for size in range(last, len(whole) + 1):
        book.write_bytes(whole[:size])
        plan = plan_again(home, stopped)
        is_whole = size == len(whole)
        assert plan.resume_point.first_step == (7 if is_whole else 5)
        assert [finding.code for finding in plan.findings] == ([] if is_whole else ["CF746"])
        LedgerBook(str(book), whole_bytes=plan.previous_attempts.lines.whole_bytes).close()
        assert book.read_bytes() == whole[: size if is_whole else last]
    book.write_bytes(whole[: last + 100])
    resumed = go_on(home, stopped)
    assert resumed.returncode == 0, resumed.stdout
    assert "CF746" in resumed.stdout
    assert_ends_like_calm(home, stopped)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for two checkpoints and not for three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)])
    if made.returncode:
        pytest.skip("this machine does not let root mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_good_checkpoint_and_stops(home: Path, small_disk: Path) -> None:
    run_dir = small_disk / "run"
    more = ("checkpoint.every_steps=2", "checkpoint.keep=2")
    stopped = plain(*TRAIN, home / "config.yaml", f"run.dir={run_dir}", *more)
    assert stopped.returncode == 1, stopped.stdout
    assert "CF763" in stopped.stdout
    assert "no space left on device" in stopped.stdout
    assert "kept: step-000004, the last good one" in stopped.stdout
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step-000002", "step-000004"]
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    resumed = go_on(home, run_dir, *more)
    assert resumed.returncode == 0, resumed.stdout
    assert_ends_like_calm(home, run_dir)
    assert receipt(run_dir)["lost_steps"] == 2


def test_a_full_disk_and_the_run_goes_on_where_the_config_says_so(home: Path, small_disk: Path) -> None:
    run_dir = small_disk / "run"
    more = ("checkpoint.every_steps=2", "checkpoint.keep=2", "faults.disk_full=go_on")
    done = plain(*TRAIN, home / "config.yaml", f"run.dir={run_dir}", *more)
    assert (done.stdout + done.stderr).count("CF763") >= 3
    assert len(ledger(run_dir)) == STEPS
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step-000002", "step-000004"]
    assert done.returncode == 0, done.stdout
    assert_ends_like_calm(home, run_dir)
    assert json.loads((run_dir / "receipt.json").read_text(encoding="utf-8"))["foots"]
