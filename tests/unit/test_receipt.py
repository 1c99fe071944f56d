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

from crossfoot.finding import Refused
from crossfoot.ledger.book import LedgerBook
from crossfoot.ledger.ending import Ending, read_ending, write_ending
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.receipt import (
    Receipt,
    make_receipt,
    receipt_of,
    render_receipt,
    write_receipt,
)
from crossfoot.ledger.witness import StepWitness
from ledger_cases import Data, without_forward

DATA = Data(list(range(12)), [1000 + i for i in range(12)], [500] * 12)
LOCK: dict[str, Any] = {
    "name": "tiny",
    "sha256": "9f31c2e0aa",
    "expects": {
        "total_steps": 3,
        "samples": 12,
        "distinct_samples": 12,
        "real_tokens": 12_066,
        "trained_tokens": 6_000,
        "forwards": 12,
    },
}
FINISHED = Ending("finished", 3, 0, 3)


def ledger(
    change: Callable[[int, list[StepWitness]], list[StepWitness]] = lambda step, told: told, steps: int = 3
) -> list[StepEntry]:
    reconciler = DATA.reconciler(2)
    lines = []
    for step in range(steps):
        first = 4 * step
        plan = DATA.plan(step, [[[first], [first + 1]], [[first + 2], [first + 3]]])
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
    assert [c.message for c in cut.causes] == ["the ledger has no line for steps 1 to 2"]


def test_a_line_must_add_up_across_its_ranks_and_explain_its_differences() -> None:
    zero, one, two = ledger()
    across = replace(one, per_rank=(replace(one.per_rank[0], trained_tokens=1), one.per_rank[1]))
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
    ending = replace(FINISHED, validation_loss=1.25, adapter_path="runs/tiny/adapter")
    lines = render_receipt(make_receipt(LOCK, ledger(), ending)).splitlines()
    assert lines[0] == "receipt  tiny  lock 9f31c2e                      planned        real  difference"
    assert lines[6] == "  real tokens                                     12,066      12,066           0"
    assert len({len(line) for line in lines[:11]}) == 1
    assert lines[11:] == ["foots: yes", "validation loss  1.25", "adapter          runs/tiny/adapter"]


def test_ten_causes_are_shown_and_the_rest_counted() -> None:
    def fault(step: int, told: list[StepWitness]) -> list[StepWitness]:
        return [replace(witness, lr=1.0 + witness.rank, applied=False) for witness in told]

    lines = render_receipt(make_receipt(LOCK, ledger(fault), FINISHED)).splitlines()
    at = lines.index("foots: no")
    assert lines[at + 1].startswith("  CF719  step 0, rank 0: rank 0 stepped at rate 1.0, planned 2e-05")
    assert len(lines) == at + 12 and lines[-1] == "  and 2 more"
    first = render_receipt(make_receipt(LOCK, ledger(skipped), FINISHED)).splitlines()[12]
    assert first.startswith("  CF710  step 1, rank 1, forward 1: ") and first.endswith("  data.json:8")


def run_folder(folder: Path, lines: list[StepEntry], ending: Ending | None = FINISHED) -> str:
    (folder / "plan.lock.json").write_text(json.dumps(LOCK))
    book = LedgerBook(str(folder / "ledger.jsonl"))
    for entry in lines:
        book.append(entry)
    book.close()
    if ending is not None:
        write_ending(str(folder / "ending.json"), ending)
    return str(folder)


@pytest.mark.parametrize("change", [lambda step, told: told, skipped])
def test_the_files_give_the_same_receipt(tmp_path: Path, change: Any) -> None:
    ending = replace(FINISHED, validation_loss=float("inf"), adapter_path="adapter")
    at_the_end = make_receipt(LOCK, ledger(change), ending)
    later = receipt_of(run_folder(tmp_path, ledger(change), ending))
    assert later == at_the_end and render_receipt(later) == render_receipt(at_the_end)
    write_receipt(str(tmp_path / "receipt.json"), later)
    document = json.loads(
        (tmp_path / "receipt.json").read_text(), parse_constant=lambda word: pytest.fail(word)
    )
    assert document["foots"] is later.foots and document["validation_loss"] == "inf"
    assert set(document["rows"][0]) == {"name", "planned", "real", "difference"}
    assert len(document["causes"]) == len(later.causes)


def test_a_torn_last_line_is_noted(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ledger(), None)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    receipt = receipt_of(folder)
    assert not receipt.foots and receipt.foots_so_far and receipt.done_steps == 2
    assert any("unfinished" in note for note in receipt.notes)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("plan.lock.json", None, "CF706"),
        ("plan.lock.json", "{", "CF706"),
        ("plan.lock.json", "[]", "CF706"),
        ("plan.lock.json", '{"expects": {}}', "CF706"),
        ("ledger.jsonl", None, "CF703"),
        ("ledger.jsonl", "{}\n", "CF704"),
        ("ending.json", "{", "CF707"),
        ("ending.json", "{}", "CF707"),
        ("ending.json", '{"format": 1, "reason": "tired"}', "CF707"),
        (
            "ending.json",
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
    with pytest.raises(ValueError, match="no reason"):
        Ending("tired", 1, 0, 3)
