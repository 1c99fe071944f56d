"""Faults planted in what the loop is told, and in what the papers say, from outside: measured and told agree,
and the receipt of the unaltered program does not foot.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from crossfoot.arithmetic.layout import PackedLayout
from crossfoot.arithmetic.rate import RatePlan
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Refused
from crossfoot.planning import plan
from crossfoot.receipts.receipt import receipt_of
from crossfoot.receipts.receipt_page import render_receipt
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.ending import lock_sha256
from crossfoot.training import acquire
from crossfoot.training.engine import AccelerateEngine
from crossfoot.training.rank_job import TrainOptions
from crossfoot.training.session import run
from crossfoot.training.step_recorder import StepPlanner
from support.launching import folded_config

STEPS = 4


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of four steps, planned for two ranks, and a run of it that nobody disturbed."""
    folder = tmp_path_factory.mktemp("promise")
    folded_config(folder, train={"max_steps": STEPS})
    assert train(folder, "calm") == 0
    return folder


def train(folder: Path, name: str, *words: str, **orders: Any) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        words = (f"run.dir={folder / name}", *words)
        return run(str(folder / "config.yaml"), words, read_world({}), TrainOptions(**orders))


def receipt_later(folder: Path, name: str) -> Receipt:
    return receipt_of(str(folder / name))


def differing(receipt: Receipt) -> dict[str, int]:
    return {row.name: row.difference for row in receipt.rows if row.difference}


def told(**changed: Callable[[Any], Any]) -> contextlib.AbstractContextManager[Any]:
    """The loop is told steps with other fields: name -> the field, from the step that was planned."""
    real = StepPlanner.step

    def step(self: StepPlanner, number: int) -> Any:
        planned = real(self, number)
        return replace(planned, **{name: change(planned) for name, change in changed.items()})

    return mock.patch.object(StepPlanner, "step", step)


@contextlib.contextmanager
def backwards() -> Iterator[None]:
    """The steps come in reverse order."""
    real = StepPlanner.step

    def step(self: StepPlanner, number: int) -> Any:
        other = real(self, STEPS - 1 - number)
        return replace(other, step=number, lr=real(self, number).lr)

    with mock.patch.object(StepPlanner, "step", step):
        yield


def test_an_undisturbed_run_is_as_promised(room: Path) -> None:
    receipt = receipt_later(room, "calm")
    assert receipt.foots and differing(receipt) == {} and receipt.notes == ()
    rows = {row.name: row.real for row in receipt.rows}
    assert rows["steps with other samples"] == rows["steps in another layout"] == 0


@pytest.mark.parametrize(
    ("name", "fault", "row", "code"),
    [
        ("rate", told(lr=lambda planned: planned.lr * 10), "steps at another rate", "CF737"),
        ("order", backwards(), "steps with other samples", "CF738"),
        (
            "layout",
            told(slots=lambda planned: [list(reversed(planned.slots[0]))]),
            "steps in another layout",
            "CF739",
        ),
    ],
)
def test_what_the_loop_was_told_otherwise_does_not_foot(
    room: Path, name: str, fault: Any, row: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with fault:
        assert train(room, name) == 3
    assert "foots: no" in capsys.readouterr().out
    receipt = receipt_later(room, name)
    assert not receipt.foots and differing(receipt) == {row: STEPS}
    assert {cause.code for cause in receipt.causes} == {code} and receipt.cause_count == STEPS
    lines = [json.loads(line) for line in (room / name / "ledger.jsonl").read_text().splitlines()]
    assert all(line["cause_count"] == 0 for line in lines)  # measured as told: nothing else could see it
    assert code in render_receipt(receipt)


OWN = "lr.groups={lora_B: 16, embed_tokens: 0.1}"


def test_every_group_is_measured_and_promised(room: Path) -> None:
    assert train(room, "own", OWN) == 0
    receipt = receipt_later(room, "own")
    rows = {row.name: row.real for row in receipt.rows}
    assert rows["steps at another rate of lora_B"] == rows["steps at another rate of embed_tokens"] == 0
    for line in map(json.loads, (room / "own" / "ledger.jsonl").read_text().splitlines()):
        rates = {"embed_tokens": 0.1 * line["lr"], "lora_B": 16 * line["lr"]}
        assert line["group_lrs"] == line["planned_group_lrs"] == pytest.approx(rates, rel=1e-12)


def test_a_group_told_another_rate_does_not_foot(room: Path) -> None:
    with told(group_lrs=lambda planned: {**planned.group_lrs, "lora_B": planned.lr}):
        assert train(room, "own-told", OWN) == 3
    receipt = receipt_later(room, "own-told")
    rows = ("steps at another rate", "steps at another rate of lora_B")
    assert differing(receipt) == dict.fromkeys(rows, STEPS)
    assert {cause.code for cause in receipt.causes} == {"CF737"}
    assert "of lora_B, the optimizer was given" in receipt.causes[0].message


def test_a_group_that_steps_at_another_rate_is_named(room: Path) -> None:
    real = AccelerateEngine.step

    def step(self: AccelerateEngine) -> Any:
        for group in self.optimizer.param_groups:
            group["lr"] *= 1.01 if group["rate_group"] == "embed_tokens" else 1.0
        return real(self)

    with mock.patch.object(AccelerateEngine, "step", step):
        assert train(room, "own-faster", OWN, "train.max_steps=1", "lr.warmup_steps=0") == 3
    receipt = receipt_later(room, "own-faster")
    rows = ("steps at another rate", "steps at another rate of embed_tokens")
    assert differing(receipt) == dict.fromkeys(rows, 1)
    (cause,) = receipt.causes
    assert cause.code == "CF719" and " of embed_tokens, planned " in cause.message


def test_groups_at_their_source_are_refused_before_a_step(room: Path) -> None:
    plan_rate = plan.plan_rate
    with (
        mock.patch.object(plan, "plan_rate", lambda **given: plan_rate(**{**given, "groups": {"lora_B": 2}})),
        pytest.raises(Refused, match="CF709") as refused,
    ):
        train(room, "own-source", "lr.groups={lora_B: 16}")
    assert "promised {'lora_B': 16" in " ".join(refused.value.findings[0].notes)


def test_ten_times_the_rate_at_its_source_is_refused_before_a_step(room: Path) -> None:
    real = RatePlan.at
    with (
        mock.patch.object(RatePlan, "at", lambda self, step: 10 * real(self, step)),
        pytest.raises(Refused, match="CF709") as refused,
    ):
        train(room, "rate-source")
    assert "4 of 4 rates differ: step 1" in refused.value.findings[0].notes[0]
    assert not (room / "rate-source").exists()


@pytest.mark.parametrize(
    ("owner", "method", "change", "codes"),
    [
        (RatePlan, "at", lambda real: lambda self, step: 10 * real(self, step), {"CF737"}),
        (
            Schedule,
            "span",
            lambda real: lambda self, k: real(self, self.total_steps - 1 - k),
            {"CF738", "CF728"},
        ),
        (
            PackedLayout,
            "runs",
            lambda real: lambda self, ids, lengths: real(self, ids, lengths)[::-1],
            {"CF739"},
        ),
    ],
)
def test_a_fault_at_the_source_of_plan_and_loop_is_seen_by_the_receipt(
    room: Path, owner: type, method: str, change: Any, codes: set[str]
) -> None:
    name = f"source-{method}"
    with (
        mock.patch.object(owner, method, change(getattr(owner, method))),
        mock.patch.object(acquire, "refuse_broken_promise"),
    ):
        assert train(room, name) == 3
    receipt = receipt_later(room, name)
    assert not receipt.foots and {cause.code for cause in receipt.causes} == codes


@pytest.fixture
def copied(room: Path, tmp_path: Path) -> Path:
    """The undisturbed run, in a folder of its own with its index."""
    shutil.copytree(room / "index", tmp_path / ".index")
    return Path(shutil.copytree(room / "calm", tmp_path / "run"))


def edit(path: Path, change: Callable[[dict[str, Any]], None], *, rehash: bool = False) -> None:
    document = json.loads(path.read_text())
    change(document)
    if rehash:
        document["sha256"] = lock_sha256(document)
    path.write_text(json.dumps(document))


def slower(lock: dict[str, Any]) -> None:
    lock["config"]["lr"]["reference"] /= 10
    lock["plan"]["learning_rate"]["peak"] /= 10


def test_a_lock_altered_with_its_hash_kept_is_refused(copied: Path) -> None:
    for paper in (copied / "plan.lock.json", copied / "attempt-001" / "plan.lock.json"):
        whole = paper.read_text()
        edit(paper, slower)
        with pytest.raises(Refused, match="CF706"):
            receipt_of(str(copied))
        paper.write_text(whole)
    assert receipt_of(str(copied)).foots


def test_a_lock_altered_together_with_its_hash_does_not_foot(copied: Path) -> None:
    edit(copied / "plan.lock.json", slower, rehash=True)
    assert {cause.code for cause in receipt_of(str(copied)).causes} == {"CF728"}
    edit(copied / "attempt-001" / "plan.lock.json", slower, rehash=True)
    receipt = receipt_of(str(copied))
    assert not receipt.foots and differing(receipt) == {"steps at another rate": STEPS}


def test_a_sum_of_the_lock_that_does_not_follow_from_its_numbers(copied: Path) -> None:
    def more(lock: dict[str, Any]) -> None:
        lock["expects"]["trained_tokens"] += 1

    for paper in (copied / "plan.lock.json", copied / "attempt-001" / "plan.lock.json"):
        edit(paper, more, rehash=True)
    (cause,) = receipt_of(str(copied)).causes
    assert cause.code == "CF728" and "trained_tokens" in cause.message


def test_without_the_index_the_receipt_says_what_it_could_not_hold(room: Path, copied: Path) -> None:
    index = room / "index"
    index.rename(room / "away")
    try:
        receipt = receipt_of(str(copied))
    finally:
        (room / "away").rename(index)
    assert receipt.foots and "is not here" in receipt.notes[0]
    assert "steps with other samples" not in {row.name for row in receipt.rows}


def test_a_checkpoint_of_another_run_is_not_trained_on(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, words in (("mine", ()), ("other", ("run.seed=3", "lr.reference=0.05"))):
        assert train(room, name, *words, stop_after=2) == 0
    folder = "checkpoints/step-000002"
    shutil.rmtree(room / "mine" / folder)
    shutil.copytree(room / "other" / folder, room / "mine" / folder)
    with pytest.raises(Refused, match="CF760") as refused:
        train(room, "mine", continues=True)
    assert "it is of another run" in refused.value.findings[1].title
    with mock.patch("crossfoot.runs.resume.of_another_run", return_value={}):
        assert train(room, "mine", continues=True) == 3
    assert "CF729" in capsys.readouterr().out
    shutil.rmtree(room / "mine" / folder)  # pruned: what the attempt noted still tells
    receipt = receipt_later(room, "mine")
    assert not receipt.foots and {cause.code for cause in receipt.causes} == {"CF729"}
