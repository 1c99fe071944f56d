"""A run says what was accepted on purpose; and one that trains a whole model never calls it an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossfoot.cli import main
from crossfoot.receipts.receipt import receipt_of
from crossfoot.receipts.verdict import Accepted
from crossfoot.runs.ending import read_lock
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

Trains = Callable[..., Watched]
TITLE = "validation.every_steps 2 has no effect: data.validation is empty"


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    """All weights are trained, and a key has no effect."""
    values = room.config(
        batch={"micro_batch_size": 3, "grad_accum_steps": 1},
        lr={"reference": 0.01},
        checkpoint={"every_steps": 1},
        validation={"every_steps": 2},
        train={"max_steps": 3},
    )
    return {key: value for key, value in values.items() if key != "lora"}


def accepting(values: dict[str, Any], reason: str) -> dict[str, Any]:
    return {**values, "checks": {"accept": {"wish-without-effect": reason}}}


def test_the_receipt_has_what_each_attempt_accepted(
    values: dict[str, Any], trains: Trains, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trains(accepting(values, "data comes later"), stop_after=1)
    said = capsys.readouterr().out
    assert (
        f"accepted[CF030]: {TITLE}\n  = reason: data comes later (" in said
        and "1 warning, 1 accepted\n" in said
    )
    paper = run.paper(1, "attempt.json")["accepted"]
    assert paper == [{"code": "CF030", "title": TITLE, "reason": "data comes later"}]
    trains(accepting(values, "data is late"), stop_after=2, continues=True)
    trains(accepting(values, "data comes later"), continues=True)
    receipt = receipt_of(str(run.run_dir))
    assert receipt.foots and receipt.accepted == (
        Accepted("CF030", TITLE, "data comes later", (1, 3)),
        Accepted("CF030", TITLE, "data is late", (2,)),
    )
    capsys.readouterr()
    assert main(["receipt", str(run.run_dir)]) == 0
    said = capsys.readouterr().out
    assert "  2 findings accepted on purpose:\n" in said
    assert f"    CF030 {TITLE}; reason: data comes later  [attempts 1 and 3]\n" in said


def test_it_changes_neither_the_plan_nor_what_may_be_continued(
    values: dict[str, Any], trains: Trains
) -> None:
    run = trains(values, stop_after=1)
    trains(accepting(values, "data comes later"), continues=True)
    first, second = (read_lock(str(run.run_dir / f"attempt-00{n}/plan.lock.json")) for n in (1, 2))
    assert first == second
    assert receipt_of(str(run.run_dir)).accepted[0].attempts == (2,)


def test_a_whole_model_is_never_called_an_adapter(
    values: dict[str, Any], trains: Trains, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trains({**values, "run": {**values["run"], "name": "whole"}}, name="whole")
    folder = str(run.run_dir)
    for words in (
        ["receipt", folder],
        ["receipt", folder, "--json"],
        ["watch", "--once", folder],
        ["watch", "--plain", folder],
        ["export", folder, str(tmp_path / "out")],
        ["receipt", f"{folder}/model"],
    ):
        assert main(words) == (2 if words[1].endswith("model") else 0)
    told = capsys.readouterr()
    assert f"\nmodel            {folder}/model\n" in told.out
    files = [*run.run_dir.rglob("*.json"), *run.run_dir.rglob("*.md"), *(tmp_path / "out").rglob("*.json")]
    said = "".join([told.out, told.err, *(file.read_text() for file in files)]).lower()
    for key in ('"adapter": null', '"adapter_use": "continue"'):  # of the config in a lock
        said = said.replace(key, "")
    assert "adapter" not in said
    assert not list(run.run_dir.rglob("*adapter*"))
