"""The receipt foots when everything foots, and only then; made now or from the files later, it is the
same.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossfoot.findings.finding import Refused
from crossfoot.ledger.book import LedgerBook, read_book
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.skipping import Policies
from crossfoot.ledger.witness import StepWitness
from crossfoot.receipts.receipt import make_receipt, receipt_of, write_receipt
from crossfoot.receipts.receipt_page import render_receipt
from crossfoot.receipts.verdict import Allowed, Receipt, Skips
from crossfoot.runs.attempts import Change
from crossfoot.runs.ending import Ending, read_ending, write_ending
from ledger_cases import Data, Job, of_first_rank, sealed, without_forward

DATA = Data(list(range(12)), [1000 + i for i in range(12)], [500] * 12)
LOCK = sealed(
    {
        "total_steps": 3,
        "samples": 12,
        "distinct_samples": 12,
        "real_tokens": 12_066,
        "trained_tokens": 6_000,
        "forwards": 12,
    },
    name="tiny",
)
NO_INDEX = (
    "the data index none is not here: rates are held against the lock, samples and slots only "
    "against what the ledger itself says was planned"
)
ENDING = "attempt-001/ending.json"
FINISHED = Ending("finished", 3, 0, 3)


def ledger(
    change: Callable[[int, list[StepWitness]], list[StepWitness]] = lambda step, told: told, steps: int = 3
) -> list[StepEntry]:
    reconciler = DATA.reconciler(2)
    lines = []
    for step in range(steps):
        first = 4 * step
        slots = [[[first], [first + 1]], [[first + 2], [first + 3]]]
        plan = DATA.plan(step, slots, lr=1e-5 * (step + 1))
        lines.append(reconciler.step(plan, change(step, DATA.obey(plan))))
    return lines


def skipped(step: int, told: list[StepWitness]) -> list[StepWitness]:
    return [told[0], without_forward(told[1], 1)] if step == 1 else told


def differences(receipt: Receipt) -> dict[str, int]:
    return {row.name: row.difference for row in receipt.rows if row.difference}


def kinds(receipt: Receipt) -> list[str]:
    return [cause.kind for cause in receipt.causes]


def test_an_undisturbed_run_foots() -> None:
    receipt = make_receipt(LOCK, ledger(), FINISHED)
    assert receipt.foots and receipt.complete and receipt.foots_so_far and receipt.exit_code == 0
    assert differences(receipt) == {} and receipt.causes == () and receipt.notes == ()
    assert {row.name: row.real for row in receipt.rows} == {
        "optimizer steps": 3,
        "updates applied": 3,
        "samples": 12,
        "distinct samples": 12,
        "samples seen twice": 0,
        "real tokens": 12_066,
        "trained tokens": 6_000,
        "forwards": 12,
        "steps at another rate": 0,
        "steps with a wrong token weight": 0,
    }


def test_a_skipped_backward_does_not_foot() -> None:
    receipt = make_receipt(LOCK, ledger(skipped), FINISHED)
    assert not receipt.foots and receipt.complete and not receipt.foots_so_far and receipt.exit_code == 3
    assert differences(receipt) == {
        "samples": -1,
        "distinct samples": -1,
        "real tokens": -1007,
        "trained tokens": -500,
        "forwards": -1,
    }
    (cause,) = receipt.causes
    assert (cause.step, cause.rank, cause.origin) == (1, 1, "data.json:8")
    assert cause.code == "CF710"


def test_rates_and_weights_have_rows_of_their_own() -> None:
    def fault(step: int, told: list[StepWitness]) -> list[StepWitness]:
        if step == 0:
            return [replace(witness, lr=witness.lr * 1.01) for witness in told]
        halves = [tuple(replace(f, token_weight=f.token_weight / 2) for f in w.forwards) for w in told]
        return [replace(witness, forwards=half) for witness, half in zip(told, halves, strict=True)]

    receipt = make_receipt(LOCK, ledger(fault), FINISHED)
    assert differences(receipt) == {"steps at another rate": 1, "steps with a wrong token weight": 2}
    edited = [replace(entry, lr=entry.lr * 1.01) for entry in ledger()]
    assert differences(make_receipt(LOCK, edited, FINISHED)) == {"steps at another rate": 3}


def test_an_update_not_applied() -> None:
    receipt = make_receipt(LOCK, ledger(lambda k, told: [replace(w, applied=k != 2) for w in told]), FINISHED)
    assert differences(receipt) == {"updates applied": -1} and kinds(receipt) == ["update not applied"]


def test_a_run_stopped_on_purpose_is_held_against_its_first_steps() -> None:
    receipt = make_receipt(LOCK, ledger(steps=2), Ending("stop_after", 2, 0, 2))
    assert receipt.foots and receipt.complete and (receipt.asked_steps, receipt.total_steps) == (2, 3)
    assert [row.planned for row in receipt.rows][:4] == [2, 2, 8, 8]
    assert "the first 2 of 3 steps" in render_receipt(receipt)
    assert not make_receipt(LOCK, ledger(skipped, steps=2), Ending("stop_after", 2, 0, 2)).foots
    short = make_receipt(LOCK, ledger(steps=1), Ending("stop_after", 2, 0, 2))
    assert not short.foots and not short.complete and kinds(short) == ["step missing"]
    assert make_receipt(LOCK, ledger(), Ending("stop_after", 3, 0, 30)).foots


def test_an_interrupted_run_does_not_foot_but_says_whether_its_part_does() -> None:
    receipt = make_receipt(LOCK, ledger(steps=2), Ending("interrupt", 2, 130, 3))
    assert not receipt.foots and not receipt.complete and receipt.foots_so_far
    text = render_receipt(receipt)
    assert "foots: no" in text and "2 of 3 steps done; what was done foots" in text and "interrupted" in text
    assert not make_receipt(LOCK, ledger(skipped, steps=2), None).foots_so_far
    killed = make_receipt(LOCK, ledger(steps=2), None)
    assert killed.foots_so_far and "was killed, or is still running" in killed.notes[0]
    assert not make_receipt(LOCK, [], None).foots


def test_lines_missing_double_or_out_of_order() -> None:
    zero, one, two = ledger()
    missing = make_receipt(LOCK, [zero, two], FINISHED)
    assert kinds(missing) == ["step missing"] and missing.causes[0].step == 1 and not missing.complete
    assert differences(missing)["optimizer steps"] == -1
    double = make_receipt(LOCK, [zero, one, one, two], FINISHED)
    assert kinds(double) == ["step twice"] and differences(double)["optimizer steps"] == 1
    assert kinds(make_receipt(LOCK, [zero, two, one], FINISHED)) == ["step out of order"]
    assert not make_receipt(LOCK, [zero, two, one], FINISHED).foots
    beyond = make_receipt(LOCK, [zero, one, two, replace(two, step=3)], FINISHED)
    assert kinds(beyond) == ["step not planned"]
    cut = make_receipt(LOCK, [zero], Ending("signal", 3, 75, 3))
    assert [c.message for c in cut.causes] == ["the ledger has no line for steps 2 to 3"]


def test_a_line_must_add_up_across_its_ranks_and_explain_its_differences() -> None:
    zero, one, two = ledger()
    across = of_first_rank(one, trained_tokens=1)
    assert kinds(make_receipt(LOCK, [zero, across, two], FINISHED)) == ["does not add up"]
    shifted = [
        replace(zero, samples_sha256="0" * 16),
        replace(one, planned_samples=5),
        replace(two, repeated_samples=1),
    ]
    assert kinds(make_receipt(LOCK, shifted, FINISHED)) == ["unexplained difference"] * 3
    hidden = replace(one, cause_count=2)
    assert not make_receipt(LOCK, [zero, hidden, two], FINISHED).foots


def test_a_lock_that_promises_something_else_does_not_foot() -> None:
    for name in ("samples", "distinct_samples", "real_tokens", "trained_tokens", "forwards", "total_steps"):
        promise = {**LOCK["expects"], name: LOCK["expects"][name] + 1}
        assert not make_receipt({**LOCK, "expects": promise}, ledger(), FINISHED).foots, name
        with pytest.raises(Refused, match="CF706"):
            make_receipt({**LOCK, "expects": {**promise, name: "12"}}, ledger(), FINISHED)
    with pytest.raises(Refused, match="no `expects`"):
        make_receipt({}, ledger(), FINISHED)


def test_how_it_reads() -> None:
    ending = replace(FINISHED, validation_loss=1.25, saved_path="runs/tiny/adapter")
    lines = render_receipt(make_receipt(LOCK, ledger(), ending)).splitlines()
    assert (
        lines[0]
        == f"receipt  tiny  lock {LOCK['sha256'][:7]}                      planned        real  difference"
    )
    assert lines[6] == "  real tokens                                     12,066      12,066           0"
    assert len({len(line) for line in lines[:11]}) == 1
    assert lines[11:] == ["foots: yes", "validation loss  1.25", "adapter          runs/tiny/adapter"]


def test_three_causes_of_a_kind_are_shown_and_the_rest_counted() -> None:
    def fault(step: int, told: list[StepWitness]) -> list[StepWitness]:
        return [replace(witness, lr=1.0 + witness.rank, applied=False) for witness in told]

    lines = render_receipt(make_receipt(LOCK, ledger(fault), FINISHED)).splitlines()
    at = lines.index("foots: no")
    assert lines[at + 1].startswith("  CF719  step 1, rank 0: rank 0 stepped at rate 1.0, planned 1e-05")
    assert [line[:7] for line in lines[at + 1 :]].count("  CF719") == 3
    assert lines[at + 4 : at + 7] == [
        "         and 3 more; all in steps 1, 2 and 3, on ranks 0 and 1",
        "         how much: 3 of 3 steps (100 %), 33300 to 200000 times as much as planned",
        "         weights:  moved at other rates than planned; not the planned ones: train again",
    ]
    assert len({line for line in lines if line.startswith("  help: ")}) == 4
    assert [line.startswith("  help: ") for line in lines[-5:]] == [False, True, True, True, True]
    first = render_receipt(make_receipt(LOCK, ledger(skipped), FINISHED)).splitlines()[12]
    assert first.startswith("  CF710  step 2, rank 1, forward 1: ") and first.endswith("  data.json:8")


def run_folder(folder: Path, lines: list[StepEntry], ending: Ending | None = FINISHED) -> str:
    (folder / "plan.lock.json").write_text(json.dumps(LOCK))
    book = LedgerBook(str(folder / "ledger.jsonl"))
    for entry in lines:
        book.append(entry)
    book.close()
    if ending is not None:
        (folder / "attempt-001").mkdir(exist_ok=True)
        write_ending(str(folder / ENDING), ending)
    return str(folder)


@pytest.mark.parametrize("change", [lambda step, told: told, skipped])
def test_the_files_give_the_same_receipt(tmp_path: Path, change: Any) -> None:
    ending = replace(FINISHED, validation_loss=float("inf"))
    at_the_end = replace(make_receipt(LOCK, ledger(change), ending), notes=(NO_INDEX,))
    later = receipt_of(run_folder(tmp_path, ledger(change), ending))
    assert later == at_the_end and render_receipt(later) == render_receipt(at_the_end)
    write_receipt(str(tmp_path / "receipt.json"), later)
    document = json.loads(
        (tmp_path / "receipt.json").read_text(), parse_constant=lambda word: pytest.fail(word)
    )
    assert document["foots"] is later.foots and document["validation_loss"] == "inf"
    assert set(document["rows"][0]) == {"name", "planned", "real", "difference"}
    assert len(document["causes"]) == len(later.causes)
    assert [one["code"] for one in document["summary"]] == [one.code for one in later.summary]


def test_a_torn_last_line_is_noted(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ledger(), None)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    receipt = receipt_of(folder)
    assert not receipt.foots and receipt.foots_so_far and receipt.done_steps == 2
    assert any("unfinished" in note for note in receipt.notes)


def job(folder: Path, **other: Any) -> Job:
    """Six steps of two samples; the last of one."""
    pairs = [(0, sample) for sample in range(11)]
    return Job(folder, DATA, [pairs[first : first + 2] for first in range(0, 11, 2)], **other)


DONE = Ending("finished", 6, 0, 6)


def test_three_attempts_on_three_topologies_foot_as_one_run(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4, topology=(2, 2), torn_bytes=300)
    assert b"\n" not in run.ledger.read_bytes()[-300:]
    killed = receipt_of(str(tmp_path))
    assert (
        not killed.foots and killed.foots_so_far and killed.attempts == 1 and killed.history[0].reason is None
    )
    run.run(5, first_step=2, topology=(1, 1), ending=Ending("signal", 5, 75, 6))
    between = receipt_of(str(tmp_path))
    assert (between.attempted_steps, between.lost_steps, between.done_steps) == (7, 2, 5)
    assert between.foots_so_far and between.reason == "signal" and between.is_regained
    run.run(6, first_step=5, topology=(3, 1), ending=DONE)
    receipt = receipt_of(str(tmp_path))
    assert receipt.foots and differences(receipt) == {} and receipt.notes == (NO_INDEX,)
    assert receipt.reason == "finished"
    assert (receipt.attempts, receipt.attempted_steps, receipt.lost_steps) == (3, 8, 2)
    assert (receipt.applied_steps, receipt.skipped_steps) == (6, 0)
    (forwards,) = [row for row in receipt.rows if row.name == "forwards"]
    assert forwards.planned == forwards.real == 2 * 4 + 3 * 1 + 1 * 3
    assert [(row.steps, row.lost, row.reason) for row in receipt.history] == [
        (4, 2, None),
        (3, 0, "signal"),
        (1, 0, "finished"),
    ]
    text = render_receipt(receipt)
    assert "\n  3 attempts: 8 steps attempted, 2 lost and computed again, 6 counted\n" in text
    assert "\n    attempt 3 began from step-000005\nfoots: yes\n" in text


def test_lost_steps_that_are_not_computed_again_yet(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4)
    run.run(2, first_step=2)
    receipt = receipt_of(str(tmp_path))
    assert (receipt.attempted_steps, receipt.lost_steps, receipt.done_steps) == (4, 2, 2)
    assert receipt.foots_so_far and not receipt.is_regained
    assert "2 attempts: 4 steps attempted, 2 lost, 2 counted" in render_receipt(receipt)
    again = job(tmp_path / "early")
    again.run(1)
    again.run(6, first_step=0, from_checkpoint=None, ending=DONE)  # killed before the first checkpoint
    assert receipt_of(str(again.folder)).foots and receipt_of(str(again.folder)).lost_steps == 1


def test_an_attempt_that_lost_nothing_says_so(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4)
    run.run(6, first_step=4, ending=DONE)
    assert "2 attempts: 6 steps attempted, none lost, 6 counted" in render_receipt(receipt_of(str(tmp_path)))


def test_a_run_of_one_attempt_reads_as_ever(tmp_path: Path) -> None:
    job(tmp_path).run(6, ending=DONE)
    lines = render_receipt(receipt_of(str(tmp_path))).splitlines()
    assert len(lines) == 13 and lines[-2:] == ["foots: yes", f"  note: {NO_INDEX}"]


def test_lost_lines_are_no_faults_and_counted_ones_are(tmp_path: Path) -> None:
    run = job(tmp_path)

    def twice(step: int, told: list[StepWitness]) -> list[StepWitness]:
        return [replace(told[0], applied=False), *told[1:]] if step == 3 else told

    run.run(4, change=twice)
    assert kinds(receipt_of(str(tmp_path))) == ["update not applied"]
    run.run(6, first_step=3, ending=DONE)
    assert receipt_of(str(tmp_path)).foots
    later = job(tmp_path / "later")
    later.run(4, change=twice)
    later.run(6, first_step=4, ending=DONE)
    assert kinds(receipt_of(str(later.folder))) == ["update not applied"]


def test_a_line_of_an_attempt_before_its_own_first_step(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4)
    run.run(6, first_step=4, ending=DONE)
    lines = run.ledger.read_text().splitlines(keepends=True)
    run.ledger.write_text("".join([*lines[:3], lines[3].replace('"attempt":1', '"attempt":2'), *lines[4:]]))
    receipt = receipt_of(str(tmp_path))
    assert kinds(receipt) == ["step out of order"] and not receipt.foots
    assert "of attempt 2, which began with step 5" in receipt.causes[0].message


def test_two_attempts_that_ran_at_once_are_noted(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4)
    late = run.ledger.read_text().splitlines(keepends=True)[3]
    run.run(6, first_step=2, ending=DONE)
    with run.ledger.open("a") as file:
        file.write(late)
    receipt = receipt_of(str(tmp_path))
    assert receipt.foots and receipt.lost_steps == 3
    assert receipt.notes == (
        "a line of an earlier attempt was written when a later one had begun: two of them ran at once",
        NO_INDEX,
    )


def test_a_stop_on_purpose_and_the_rest_later(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(2, ending=Ending("stop_after", 2, 0, 2))
    assert receipt_of(str(tmp_path)).foots and receipt_of(str(tmp_path)).asked_steps == 2
    run.run(4, first_step=2, topology=(1, 3))
    assert not receipt_of(str(tmp_path)).complete
    run.run(5, first_step=4, ending=Ending("stop_after", 5, 0, 5))
    assert receipt_of(str(tmp_path)).foots and receipt_of(str(tmp_path)).asked_steps == 5


def nan_in_step_1(step: int, told: list[StepWitness]) -> list[StepWitness]:
    if step != 1:
        return told
    return [replace(w, applied=False, lr=float("nan"), loss_sum=float("nan"), nonfinite=True) for w in told]


def test_skipped_steps_foot_when_the_policy_says_so(tmp_path: Path) -> None:
    policies = {"nonfinite": "skip", "overflow": "retry"}
    run = job(tmp_path, faults=policies)
    run.run(6, ending=DONE, change=nan_in_step_1, policies=Policies(**policies))
    receipt = receipt_of(str(tmp_path))
    assert receipt.foots and (receipt.applied_steps, receipt.skipped_steps) == (5, 1)
    assert [(row.planned, row.real) for row in receipt.rows[:3]] == [(6, 6), (5, 5), (11, 11)]
    assert receipt.skips == (Skips("not finite", 1, 2),)
    assert (
        "\n  1 step skipped as faults.nonfinite says: 2 samples seen, not learned from\n"
        in render_receipt(receipt)
    )
    stopped = job(tmp_path / "stopped")
    stopped.run(2, ending=Ending("stop_after", 2, 0, 2), change=nan_in_step_1, policies=Policies("skip"))
    assert receipt_of(str(stopped.folder)).foots


def test_a_skip_that_no_policy_states_does_not_foot(tmp_path: Path) -> None:
    run = job(tmp_path, faults={"nonfinite": "stop", "overflow": "skip"})
    run.run(6, ending=DONE, change=nan_in_step_1, policies=Policies("skip"))
    receipt = receipt_of(str(tmp_path))
    assert not receipt.foots and kinds(receipt) == ["update not applied"]
    zero, one, two = ledger()
    for change in ({"skipped": "overflow"}, {"skipped": "not finite", "applied": False}):
        forged = make_receipt(LOCK, [zero, replace(one, **change), two], FINISHED)
        assert not forged.foots and kinds(forged) == ["does not add up"]
    assert not make_receipt(LOCK, [zero, replace(one, applied=False), two], FINISHED).foots


def test_changes_on_purpose_are_shown_when_they_had_an_effect(tmp_path: Path) -> None:
    run = job(tmp_path)
    faster, slower = Change("lr.reference", 1e-4, 2e-4), Change("optimizer.betas", [0.9, 0.99], None)
    run.run(2)
    run.run(4, first_step=2, allowed=(slower,))
    run.run(6, first_step=2, allowed=(faster,), ending=DONE)
    receipt = receipt_of(str(tmp_path))
    assert receipt.allowed == (Allowed(3, "lr.reference", 1e-4, 2e-4),)
    assert "\n  changed on purpose in attempt 3: lr.reference 0.0001 -> 0.0002\n" in render_receipt(receipt)
    write_receipt(str(tmp_path / "receipt.json"), receipt)
    document = json.loads((tmp_path / "receipt.json").read_text())
    assert document["allowed"] == [{"attempt": 3, "key": "lr.reference", "before": 1e-4, "now": 2e-4}]
    assert (document["attempts"], document["attempted_steps"], document["lost_steps"]) == (3, 8, 2)
    assert (document["applied_steps"], document["skipped_steps"], document["history"][1]["lost"]) == (6, 0, 2)


def test_a_run_made_longer_is_held_against_its_last_lock(tmp_path: Path) -> None:
    run = job(tmp_path)
    whole = run.steps
    run.steps = whole[:4]
    run.run(4, ending=Ending("finished", 4, 0, 4))
    assert receipt_of(str(tmp_path)).foots
    run.steps = whole
    run.run(6, first_step=4, allowed=(Change("train.max_steps", 4, 6),), ending=DONE)
    receipt = receipt_of(str(tmp_path))
    assert receipt.foots and receipt.total_steps == 6
    assert "train.max_steps 4 -> 6" in render_receipt(receipt)


def test_a_line_that_agrees_with_itself_but_not_with_its_lock(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4)
    run.run(6, first_step=4, ending=DONE)
    *others, last = read_book(str(run.ledger))
    more = {"planned_forwards": last.planned_forwards + 1, "real_forwards": last.real_forwards + 1}
    forged = replace(of_first_rank(last, forwards=1), **more)
    run.ledger.write_text("".join(entry.to_line() for entry in [*others, forged]))
    assert differences(receipt_of(str(tmp_path))) == {"forwards": 1}


def test_the_papers_of_later_attempts_must_be_there(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4)
    run.run(6, first_step=4, ending=DONE)
    lock = tmp_path / "attempt-002" / "plan.lock.json"
    promise = lock.read_text()
    lock.unlink()
    with pytest.raises(Refused, match="CF706"):
        receipt_of(str(tmp_path))
    lock.write_text(promise)
    (tmp_path / "attempt-002" / "ending.json").write_text("{")
    (tmp_path / "attempt-001" / "attempt.json").unlink()
    with pytest.raises(Refused) as refused:
        receipt_of(str(tmp_path))
    assert sorted(finding.code for finding in refused.value.findings) == ["CF707", "CF742"]
    assert refused.value.exit_code == 2
    (tmp_path / "attempt-002" / "attempt.json").unlink()
    with pytest.raises(Refused, match="CF742"):
        receipt_of(str(tmp_path))


def test_every_byte_of_the_last_line_cut_off_leaves_a_receipt(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.run(4)
    run.run(6, first_step=4, ending=DONE)
    whole = run.ledger.read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        run.ledger.write_bytes(whole[:end])
        receipt = receipt_of(str(tmp_path))
        assert not receipt.foots and receipt.done_steps == 5 and kinds(receipt) == ["step missing"]
        assert any("unfinished" in note for note in receipt.notes) == (end > last)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("plan.lock.json", None, "CF706"),
        ("plan.lock.json", "{", "CF706"),
        ("plan.lock.json", "[]", "CF706"),
        ("plan.lock.json", '{"expects": {}}', "CF706"),
        ("ledger.jsonl", None, "CF703"),
        ("ledger.jsonl", "{}\n", "CF704"),
        (ENDING, "{", "CF707"),
        (ENDING, "{}", "CF707"),
        (ENDING, '{"format": 1, "reason": "tired"}', "CF707"),
        (
            ENDING,
            '{"format": 1, "reason": "signal", "step": "1", "exit_code": 0, "planned_steps": 3}',
            "CF707",
        ),
    ],
)
def test_missing_and_damaged_files_are_findings(
    tmp_path: Path, name: str, text: str | None, code: str
) -> None:
    folder = run_folder(tmp_path, ledger())
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(Refused) as refused:
        receipt_of(folder)
    (finding,) = refused.value.findings
    assert finding.code == code and refused.value.exit_code == 2
    assert finding.place is not None and finding.place.file == str(tmp_path / name)


def test_several_damaged_files_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        receipt_of(str(tmp_path))
    assert [finding.code for finding in refused.value.findings] == ["CF706", "CF703"]


def test_a_receipt_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "receipt.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refused, match="CF708"):
        write_receipt(str(path), make_receipt(LOCK, ledger(), FINISHED))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_endings(tmp_path: Path) -> None:
    path = str(tmp_path / "ending.json")
    assert read_ending(path) is None
    for ending in (FINISHED, Ending("stop_after", 2, 0, 2, 0.5, "x"), Ending("signal", 1, 75, 3)):
        write_ending(path, ending)
        assert read_ending(path) == ending
    older = {key: value for key, value in json.loads(Path(path).read_text()).items() if "finite" not in key}
    Path(path).write_text(json.dumps(older))
    assert read_ending(path) == Ending("signal", 1, 75, 3)
    with pytest.raises(ValueError, match="no reason"):
        Ending("tired", 1, 0, 3)
