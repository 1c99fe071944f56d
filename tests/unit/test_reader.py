"""A run folder read as a whole: what is in it, and all that is wrong with it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossfoot.findings.finding import Refused
from crossfoot.receipts.receipt import receipt_of
from crossfoot.runs import reader
from crossfoot.runs.attempts import attempt_path
from crossfoot.runs.ending import Ending, write_ending
from crossfoot.runs.reader import read_run
from ledger_cases import Job, six_samples

STEPS = [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4), (0, 5)]]
FINISHED = Ending("finished", 3, 0, 3)


def a_job(folder: Path) -> Job:
    """A run that was killed while it wrote its third line."""
    job = Job(folder, six_samples(), STEPS)
    job.run(2, torn_bytes=9)
    return job


def test_all_attempts_their_locks_and_endings(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    killed = read_run(str(tmp_path))
    assert killed.ending is None and killed.lines.torn is not None and len(killed.counted) == 2
    (first,) = killed.attempts
    assert (first.attempt.attempt, first.lock, first.ending) == (1, killed.lock, None)
    job.run(3, first_step=1, topology=(1, 4), ending=FINISHED)
    run = read_run(str(tmp_path))
    assert run.run_dir == str(tmp_path) and run.ending == FINISHED
    assert [(one.attempt.attempt, one.ending) for one in run.attempts] == [(1, None), (2, FINISHED)]
    assert run.attempts[0].lock == run.lock == job.lock(2, 2) and run.attempts[1].lock == job.lock(1, 4)
    assert [(line.attempt, line.step) for line in run.lines] == [(1, 0), (1, 1), (2, 1), (2, 2)]
    assert [(line.attempt, line.step) for line in run.counted] == [(1, 0), (2, 1), (2, 2)]
    assert run.counted is run.counted and run.by_step() == run.counted


def test_a_run_without_a_record_of_its_only_attempt_has_that_ones_ending(tmp_path: Path) -> None:
    job = Job(tmp_path, six_samples(), STEPS)
    job.run(3, ending=FINISHED)
    Path(attempt_path(str(tmp_path), 1, "attempt.json")).unlink()
    run = read_run(str(tmp_path))
    assert (run.attempts, run.ending, len(run.counted)) == ((), FINISHED, 3)


def test_all_that_is_damaged_is_said_at_once(tmp_path: Path) -> None:
    a_job(tmp_path).run(3, first_step=1, ending=FINISHED)
    broken = [
        tmp_path / "plan.lock.json",
        tmp_path / "attempt-002" / "ending.json",
        tmp_path / "attempt-002" / "plan.lock.json",
    ]
    for path in broken:
        path.write_text("{")
    with tmp_path.joinpath("ledger.jsonl").open("a") as file:
        file.write("no line\n")
    with pytest.raises(Refused) as refused:
        read_run(str(tmp_path))
    codes = [finding.code for finding in refused.value.findings]
    assert codes == ["CF706", "CF707", "CF704", "CF706"]
    with pytest.raises(Refused) as refused:
        read_run(str(tmp_path / "nowhere"))
    assert [finding.code for finding in refused.value.findings] == ["CF706", "CF703"]


@pytest.mark.parametrize("before", ["read_ending", "read_book", "read_attempts"])
def test_a_run_that_ends_while_it_is_read_seems_to_have_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Between any two things that are read, an attempt begins, trains and ends."""
    job = Job(tmp_path, six_samples(), STEPS)
    job.run(1)
    read: Any = getattr(reader, before)
    begun = []

    def while_others_write(*arguments: Any) -> Any:
        if not begun:
            begun.append(True)
            job.run(3, first_step=1, ending=FINISHED)
        return read(*arguments)

    monkeypatch.setattr(reader, before, while_others_write)
    receipt = receipt_of(str(tmp_path))
    assert receipt.foots_so_far and receipt.cause_count == 0
    monkeypatch.undo()
    assert receipt_of(str(tmp_path)).foots


def test_an_ending_of_an_earlier_attempt_is_not_the_runs(tmp_path: Path) -> None:
    job = Job(tmp_path, six_samples(), STEPS)
    job.run(1, ending=Ending("signal", 1, 75, 3))
    job.run(2, first_step=1)
    assert read_run(str(tmp_path)).ending is None
    write_ending(attempt_path(str(tmp_path), 2, "ending.json"), FINISHED)
    assert read_run(str(tmp_path)).ending == FINISHED
