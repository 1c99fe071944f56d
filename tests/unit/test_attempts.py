"""Which attempts there were, which lines of the ledger still count, and where a run may go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from crossfoot.findings.finding import Refused
from crossfoot.ledger.book import BookLines, read_readable
from crossfoot.ledger.entry import StepEntry
from crossfoot.runs.attempts import (
    Attempt,
    Change,
    LiveLines,
    attempt_numbers,
    attempt_path,
    continue_from,
    counted,
    next_attempt,
    read_attempts,
    vouched_steps,
    write_attempt,
)
from ledger_cases import an_attempt, six_samples


def line(step: int, attempt: int = 1) -> StepEntry:
    data = six_samples()
    plan = data.plan(step, [[[0]]])
    return data.reconciler(1, attempt).step(plan, data.obey(plan))


def lines(*told: tuple[int, int]) -> list[StepEntry]:
    """(attempt, step) pairs."""
    return [line(step, attempt) for attempt, step in told]


def begun(folder: Path, *attempts: Attempt) -> str:
    for attempt in attempts:
        (folder / f"attempt-{attempt.attempt:03d}").mkdir()
        write_attempt(str(folder), attempt)
    return str(folder)


FIRST, SECOND = an_attempt(1, 0), an_attempt(2, 12)


def test_a_paper_comes_back_as_it_was_written(tmp_path: Path) -> None:
    changed = replace(
        SECOND,
        allowed=(Change("optimizer.betas", [0.9, 0.999], [0.9, 0.95]), Change("lr.rule", "none", "sqrt")),
        hosts=("node1", "node2"),
        job_id="4711",
        zero_stage=None,
        gpus_per_node=(2, 1),
    )
    run_dir = begun(tmp_path, FIRST, changed)
    assert read_attempts(run_dir) == (FIRST, changed)
    document = json.loads(Path(attempt_path(run_dir, 2, "attempt.json")).read_text())
    assert document["format"] == 1 and document["first_step"] == 12
    assert document["allowed"][1] == {"key": "lr.rule", "before": "none", "now": "sqrt"}


def test_attempts_are_numbered_by_their_folders(tmp_path: Path) -> None:
    assert (attempt_numbers(str(tmp_path / "nowhere")), next_attempt(str(tmp_path))) == ([], 1)
    for name in (
        "attempt-001",
        "attempt-010",
        "attempt-002",
        "attempt-1000",
        "attempt-3",
        "attempt-0011",
        "x",
    ):
        (tmp_path / name).mkdir()
    assert attempt_numbers(str(tmp_path)) == [1, 2, 10, 1000]
    assert next_attempt(str(tmp_path)) == 1001


def test_a_folder_that_was_claimed_and_never_started_is_no_attempt(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, FIRST, an_attempt(3, 5))
    (tmp_path / "attempt-002").mkdir()
    (tmp_path / "attempt-004").mkdir()
    assert [attempt.attempt for attempt in read_attempts(run_dir, {1, 3})] == [1, 3]
    assert next_attempt(run_dir) == 5


def test_an_attempt_that_trained_must_have_its_paper(tmp_path: Path) -> None:
    (tmp_path / "attempt-001").mkdir()
    assert read_attempts(str(tmp_path), {1}) == ()  # the first began at step 0, whoever says so
    with pytest.raises(Refused) as refused:
        read_attempts(str(tmp_path), {1, 2})
    assert [finding.code for finding in refused.value.findings] == ["CF742", "CF742"]
    assert refused.value.exit_code == 2
    assert "lines of attempt 2" in refused.value.findings[1].notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 9}, "format is 9"),
        ({"attempt": 3}, "of attempt 3"),
        ({"attempt": 0}, "cannot begin"),
        ({"first_step": -1}, "cannot begin"),
        ({"first_step": "12"}, "first_step is '12'"),
        ({"from_checkpoint": None}, "from no checkpoint"),
        ({"hosts": "node1"}, "hosts is 'node1'"),
        ({"gpus_per_node": [2, "1"]}, "gpus_per_node is [2, '1']"),
        ({"allowed": [{"key": "lr.rule"}]}, "allowed.0.before is missing"),
        ({"engine": None}, "engine is None"),
    ],
)
def test_damaged_papers_are_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    run_dir = begun(tmp_path, FIRST, SECOND)
    path = Path(attempt_path(run_dir, 2, "attempt.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(Refused) as refused:
        read_attempts(run_dir)
    (finding,) = refused.value.findings
    assert finding.code == "CF742" and finding.unreadable and words in finding.notes[0]
    assert finding.place is not None and finding.place.file == str(path)


def test_all_damaged_papers_are_told_at_once(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, FIRST, SECOND)
    for number, text in ((1, "{"), (2, "[]")):
        Path(attempt_path(run_dir, number, "attempt.json")).write_text(text)
    with pytest.raises(Refused) as refused:
        read_attempts(run_dir)
    assert [finding.code for finding in refused.value.findings] == ["CF742", "CF742"]


def test_a_first_attempt_begins_at_the_beginning() -> None:
    with pytest.raises(ValueError, match="step index 0"):
        an_attempt(1, 3)
    assert an_attempt(2, 0, from_checkpoint=None).first_step == 0  # killed before its first checkpoint


def test_lines_beyond_the_start_of_a_later_attempt_are_lost() -> None:
    told = lines((1, 0), (1, 1), (1, 2), (2, 2), (2, 3), (3, 1), (3, 2))
    attempts = [an_attempt(1, 0), an_attempt(2, 2), an_attempt(3, 1)]
    kept, lost = counted(told, attempts)
    assert [(entry.attempt, entry.step) for entry in kept] == [(1, 0), (3, 1), (3, 2)]
    assert [(entry.attempt, entry.step) for entry in lost] == [(1, 1), (1, 2), (2, 2), (2, 3)]
    assert counted(told, [*attempts, an_attempt(4, 0)])[0] == []
    assert counted(told[:3], [])[1] == []


def test_an_attempt_loses_what_was_done_before_it_has_a_line_of_its_own() -> None:
    told = lines((1, 0), (1, 1), (1, 2))
    assert [entry.step for entry in counted(told, [FIRST, an_attempt(2, 1)])[0]] == [0]


def test_the_limit_of_an_attempt_is_the_nearest_later_start() -> None:
    live_lines = LiveLines([an_attempt(5, 4), an_attempt(1, 0), an_attempt(2, 8), an_attempt(3, 12)])
    assert [live_lines.limit(number) for number in range(1, 7)] == [4, 4, 4, 4, None, None]


def test_a_ledger_vouches_for_the_steps_without_a_gap() -> None:
    assert vouched_steps([], []) == 0
    assert vouched_steps(lines((1, 0), (1, 1), (1, 3)), []) == 2
    assert vouched_steps(lines((1, 1)), []) == 0
    assert vouched_steps(lines((1, 0), (1, 1), (1, 2), (2, 1)), [FIRST, an_attempt(2, 1)]) == 2


def test_a_run_goes_on_from_the_newest_checkpoint_that_the_ledger_vouches_for() -> None:
    book = BookLines(lines((1, 0), (1, 1), (1, 2), (1, 3)))
    assert continue_from(book, [FIRST], [2, 4], "ledger") == (4, None)
    assert continue_from(book, [FIRST], [], "ledger") == (0, None)
    first_step, warning = continue_from(book, [FIRST], [2, 6], "runs/x/ledger.jsonl")
    assert first_step == 2 and warning is not None
    assert (warning.code, warning.severity) == ("CF746", "warning")
    assert "after 6 steps is passed over: the ledger has lines for 4" in warning.title
    assert continue_from(book, [FIRST], [6], "ledger")[0] == 0


def test_damage_after_the_checkpoint_is_passed_over_and_before_it_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    told = [entry.to_line() for entry in lines((1, 0), (1, 1), (1, 2), (1, 3))]
    path.write_text("".join([*told[:2], "\0\0\0\n", told[3]]))
    book = read_readable(str(path))
    assert [entry.step for entry in book] == [0, 1] and len(book.damage) == 1
    assert book.whole_bytes == len(told[0]) + len(told[1])
    assert continue_from(book, [FIRST], [2], str(path)) == (2, None)
    with pytest.raises(Refused, match="CF704"):
        continue_from(book, [FIRST], [2, 3], str(path))
