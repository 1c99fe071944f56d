"""The receipt holds the index that its digests come from against the lock, its checksums, and its files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossfoot.index.store import array_path, open_index
from crossfoot.ledger.book import BookLines
from crossfoot.planning.lock import lock_sha256, make_lock
from crossfoot.planning.plan import RunPlan
from crossfoot.planning.prepare import plan_checked, read_and_check
from crossfoot.receipts.index_check import held_against_index, index_faults
from crossfoot.receipts.receipt import make_receipt
from crossfoot.receipts.receipt_page import render_receipt
from crossfoot.runs.ending import Ending
from crossfoot.runs.reader import RunRecord
from index_cases import ROWS, alter_mask, alter_tokens, forge, held, jsonl, written_run

GOOD_NOTE = "the index was held against its files: 12 of 12 records re-tokenised, none differs"


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunPlan, dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    path = jsonl(Path("a.jsonl"), *ROWS)
    os.utime(path, (1e9, 1e9))
    checked = read_and_check(written_run(Path(), [path]).path, [])
    index = held(checked.run)
    plan = plan_checked(checked, index)
    return plan, make_lock(plan)


def kinds(run_dir: str, lock: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    causes, notes = index_faults(run_dir, lock)
    assert all(cause.step == -1 and cause.rank is None for cause in causes)
    return [cause.kind for cause in causes], notes


def test_a_good_index(planned: tuple[RunPlan, dict[str, Any]]) -> None:
    plan, lock = planned
    assert plan.index is not None
    assert lock["index"]["arrays_sha256"] == plan.index.header.arrays_sha256
    assert kinds(plan.run.run_dir, lock) == ([], [GOOD_NOTE])
    shutil.move("runs", "elsewhere")  # the run and its indexes
    assert kinds("elsewhere/t", lock) == ([], [GOOD_NOTE])
    assert kinds("nowhere/t", lock) == ([], [])  # `promise_of_run` says that there is none


def test_a_damaged_index(planned: tuple[RunPlan, dict[str, Any]]) -> None:
    plan, lock = planned
    assert plan.index is not None
    for name in ("tokens", "trained", "digests", "offsets", "numbers"):
        path = Path(array_path(plan.index.folder, name))
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        assert kinds(plan.run.run_dir, lock) == (["index differs"], [])
        path.write_bytes(whole[:-1])
        assert kinds(plan.run.run_dir, lock) == (["index differs"], [])
        path.write_bytes(whole)
    held(plan.run)
    assert kinds(plan.run.run_dir, lock) == ([], [GOOD_NOTE])


@pytest.mark.parametrize("change", [alter_tokens, alter_mask])
def test_an_altered_index(planned: tuple[RunPlan, dict[str, Any]], change: Any) -> None:
    """With checksums that fit it is not the promised one; and one that was promised is not what its files
    say.
    """
    plan, lock = planned
    assert plan.index is not None
    forge(plan.index, change)
    (cause,), _ = index_faults(plan.run.run_dir, lock)
    assert cause.kind == "index differs" and "holds other samples than the one" in cause.message
    altered = open_index(plan.index.folder).header.arrays_sha256
    lock = {**lock, "index": {**lock["index"], "arrays_sha256": altered}}
    (cause,), notes = index_faults(plan.run.run_dir, lock)
    assert (cause.kind, cause.code, cause.sample, cause.origin) == ("index differs", "CF736", 3, "a.jsonl:4")
    assert notes == [GOOD_NOTE.replace("none differs", "1 differs")]


def test_another_template_task_or_file_in_the_lock(planned: tuple[RunPlan, dict[str, Any]]) -> None:
    plan, lock = planned
    config = lock["config"]
    for key, value in (("max_seq_len", 255), ("template", "other"), ("bad_samples", "skip")):
        altered = {**lock, "config": {**config, "data": {**config["data"], key: value}}}
        assert kinds(plan.run.run_dir, altered)[0] == ["index differs"], key
    sources = [{"path": "a.jsonl", "sha256": "0" * 64}]
    assert kinds(plan.run.run_dir, {**lock, "index": {**lock["index"], "sources": sources}})[0]
    both = {**lock, "index": {**lock["index"], "sources": sources * 2}}
    assert kinds(plan.run.run_dir, both)[0] == ["index differs"]


def test_another_text_of_the_template_of_the_lock(
    planned: tuple[RunPlan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, lock = planned
    monkeypatch.setattr("crossfoot.index.reference_chat.SYSTEM", "Answer like a lawyer.")
    assert kinds(plan.run.run_dir, lock)[0] == ["index differs"]


def test_an_index_of_another_content_version_is_looked_at_as_far_as_it_goes(
    planned: tuple[RunPlan, dict[str, Any]],
) -> None:
    plan, lock = planned
    for version in ({}, {"content_version": 1}):
        held_by = {key: value for key, value in lock["index"].items() if key != "content_version"}
        older = {**lock, "index": {**held_by, **version}}
        found, notes = kinds(plan.run.run_dir, older)
        assert not found
        assert notes == ["the index was made by another version of crossfoot: not compared with its files"]
        other = {**older, "index": {**older["index"], "arrays_sha256": "0" * 64}}
        assert kinds(plan.run.run_dir, other)[0] == ["index differs"]


def test_what_changed_since_is_a_note(planned: tuple[RunPlan, dict[str, Any]], monkeypatch: Any) -> None:
    plan, lock = planned
    whole = Path("a.jsonl").read_text(encoding="utf-8")
    not_compared = "the index is whole, and was not compared with its files: "
    for bound in (1 << 30, 0):
        monkeypatch.setattr("crossfoot.receipts.index_check.HASHED_BYTES", bound)
        Path("a.jsonl").write_text(whole.replace("答", "问"), encoding="utf-8")
        os.utime("a.jsonl", (1e9, 1e9))
        assert kinds(plan.run.run_dir, lock) == ([], [f"{not_compared}changed since the plan: a.jsonl"])
    os.unlink("a.jsonl")
    assert kinds(plan.run.run_dir, lock) == ([], [f"{not_compared}a.jsonl: No such file or directory"])


def test_a_tokenizer_that_changed_or_is_gone_is_a_note(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer

    folder = write_tiny_tokenizer("made")
    checked = read_and_check(written_run(Path(), [jsonl(Path("a.jsonl"), *ROWS)], tokenizer=folder).path, [])
    lock = make_lock(plan_checked(checked, held(checked.run)))
    assert kinds(checked.run.run_dir, lock) == ([], [GOOD_NOTE])
    path = Path(folder, "tokenizer_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "x": 1}))
    assert "has changed since the plan" in kinds(checked.run.run_dir, lock)[1][0]
    shutil.rmtree(folder)
    found, notes = kinds(checked.run.run_dir, lock)
    assert not found and f"the tokenizer {folder}" in notes[0]


def test_an_older_lock(planned: tuple[RunPlan, dict[str, Any]]) -> None:
    plan, lock = planned
    older = {**lock, "index": {k: v for k, v in lock["index"].items() if k != "arrays_sha256"}}
    found, notes = kinds(plan.run.run_dir, older)
    assert not found and notes[0].startswith("the lock is of an older version") and notes[1] == GOOD_NOTE
    assert kinds(plan.run.run_dir, {"name": "x"})[0] == []


def test_an_index_of_an_older_program(planned: tuple[RunPlan, dict[str, Any]]) -> None:
    """Its own run, whose lock promises no arrays, still foots; a newer one was not trained from it."""
    plan, lock = planned
    assert plan.index is not None
    path = Path(plan.index.folder, "header.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 1}))
    assert kinds(plan.run.run_dir, lock)[0] == ["index differs"]
    older = {**lock, "index": {k: v for k, v in lock["index"].items() if k != "arrays_sha256"}}
    found, notes = kinds(plan.run.run_dir, older)
    assert not found and "format 1, not 5: nothing of it was looked at" in notes[0]


def test_the_receipt_does_not_foot(planned: tuple[RunPlan, dict[str, Any]]) -> None:
    plan, lock = planned
    assert plan.index is not None
    nothing = {**lock, "expects": dict.fromkeys(lock["expects"], 0)}
    nothing["sha256"] = lock_sha256(nothing)
    run = RunRecord(plan.run.run_dir, nothing, (), BookLines(), Ending("finished", 0, 0, 0))
    receipt = make_receipt(nothing, run.lines, run.ending)
    good = held_against_index(receipt, run)
    assert receipt.foots and good.foots and good.notes == (GOOD_NOTE,)
    path = array_path(plan.index.folder, "lengths")
    (np.fromfile(path, dtype="<i4") + 1).tofile(path)
    bad = held_against_index(receipt, run)
    assert (bad.foots, bad.foots_so_far, bad.cause_count, bad.exit_code) == (False, False, 1, 3)
    text = render_receipt(bad)
    assert "foots: no\n" in text
    assert (
        f"\n  CF736  the run: the index {plan.index.folder}: lengths.bin is not as it was written\n" in text
    )
