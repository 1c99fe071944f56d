"""A batch that changes, as a user writes it and as it is shown: plan page, JSON, findings, lock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossfoot.arithmetic.rate import RateImpossible, plan_rate
from crossfoot.findings.finding import Refused
from crossfoot.findings.render import render
from crossfoot.index.build import ensure_index
from crossfoot.planning.checking import find_all
from crossfoot.planning.lock import make_lock
from crossfoot.planning.page import render_plan
from crossfoot.planning.prepare import plan_written
from crossfoot.receipts.promise import promised_rates, promised_sums
from crossfoot.receipts.promise_audit import lock_faults
from crossfoot.receipts.promised_sets import terms_of
from crossfoot.runs.lock_shape import refuse_misshapen
from crossfoot.written.run_file import load_run
from support.launching import small_config

LIST = "batch.global_batch_size=[[0, 3], [9, 5], [30, 8]]"
TARGET = ("batch.global_batch_size=null", "batch.target_trained_tokens=200", "batch.grad_accum_steps=8")
LR: dict[str, Any] = {"reference": 1e-3, "reference_batch": 2, "rule": "sqrt"}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """40 samples and their index."""
    monkeypatch.chdir(tmp_path)
    config = small_config(tmp_path, deepspeed=None, train={"max_steps": None, "epochs": 1})
    run = load_run(str(config))
    ensure_index(run, run.config.data.train, is_builder=True)
    return str(config)


def said(path: str, *words: str) -> str:
    return render(find_all(path, words))


def test_the_plan_names_each_batch_and_its_peak(path: str) -> None:
    scaled = ("lr.rule=sqrt", "lr.reference_batch=2")
    plan = plan_written(path, [LIST, *scaled])[0]
    assert [plan.schedule.step_size(k) for k in range(plan.schedule.total_steps)] == [3] * 3 + [5] * 5 + [6]
    page = [" ".join(line.split()) for line in render_plan(plan).splitlines()]
    rows = [line for line in page if line.startswith(("!", "from", "=", "samples in", "peak", "steps of"))]
    assert rows[0] == "= room for, per optimizer step 8"
    assert rows[1].startswith("! samples per optimizer step 3 batch.global_batch_size command line; 5 places")
    assert rows[2] == "! from sample 9 on 5 from step 4 on; 3 places of 8 left free"
    assert rows[3] == "from sample 30 on 8 from step 9 on"
    assert rows[4:6] == ["steps of the first epoch 9 data.last_step short", "samples in the very last step 6"]
    assert [row.split()[-1] for row in rows[6:]] == ["1.225", "1.581", "2"]
    numbers = plan.numbers()
    assert (numbers["global_batch_size"], numbers["capacity_samples"]) == (8, 8)
    assert numbers["batch_from_samples"] == [[0, 3], [9, 5], [30, 8]]
    peaks = numbers["learning_rate"]["peaks"]
    assert [step for step, _ in peaks] == [0, 3, 8]
    assert numbers["learning_rate"]["peak"] == peaks[-1][1] == 2e-3


def test_a_batch_that_never_changes_is_one_number(path: str) -> None:
    whole, listed = (plan_written(path, [f"batch.global_batch_size={text}"])[0] for text in ("7", "[[0, 7]]"))
    assert make_lock(whole)["sha256"] == make_lock(listed)["sha256"]


@pytest.mark.parametrize("words", [(LIST,), TARGET], ids=["samples", "tokens"])
def test_the_lock_says_what_the_receipt_needs(path: str, words: tuple[str, ...]) -> None:
    plan = plan_written(path, words)[0]
    lock = json.loads(json.dumps(make_lock(plan)))
    refuse_misshapen(lock)
    terms = terms_of(lock, plan.index)
    assert plan.index is not None and not list(lock_faults(lock, 1, terms, plan.index))
    assert promised_sums(terms, plan.index).items() <= lock["expects"].items()
    blind = terms_of(lock)  # the index is not at hand: the rates can be held all the same
    assert promised_rates(blind)[0].tolist() == pytest.approx(plan.rate.every().tolist(), rel=1e-12)
    assert not list(lock_faults(lock, 1, blind, None))
    lock["plan"]["total_steps"] += 1
    assert [cause.kind for cause in lock_faults(lock, 1, terms, plan.index)] == ["lock contradicts itself"]


def test_a_lock_whose_batches_do_not_rise_is_refused(path: str) -> None:
    lock = json.loads(json.dumps(make_lock(plan_written(path, [LIST])[0])))
    lock["plan"]["batch_from_samples"][1][0] = 31
    with pytest.raises(ValueError, match="does not rise"):
        refuse_misshapen(lock)


def test_steps_by_tokens_are_planned_from_the_index(path: str) -> None:
    plan = plan_written(path, TARGET)[0]
    assert plan.index is not None
    tokens = plan.index.trained_tokens
    steps = [plan.schedule.samples(k) for k in range(plan.schedule.total_steps)]
    assert all(int(tokens[ids].sum()) >= 200 > int(tokens[ids[:-1]].sum()) for ids in steps[:-1])
    most = max(map(len, steps))
    assert plan.numbers()["global_batch_size"] == most
    row = next(line for line in render_plan(plan).splitlines() if "samples per optimizer step" in line)
    assert f"up to {most}" in row and "as few as have 200 trained tokens" in row
    with pytest.raises(Refused, match="CF118") as refused:
        plan_written(path, [*TARGET, "data.max_seq_len=200"])
    assert "crossfoot index" in refused.value.findings[0].helps[0]


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (
            ("batch.global_batch_size=[[0, 3], [30, 3], [400, 8]]",),
            ("[30, 3] and [400, 8] of global_batch_size have no effect", "[400, 8]: the run trains 40"),
        ),
        (
            ("batch.global_batch_size=[[0, 10], [3, 4], [7, 8]]",),
            ("[3, 4] of global_batch_size has no effect: no step begins before sample 7",),
        ),
        (("batch.global_batch_size=[[1, 8]]",), ("CF111", "write 0 for 1")),
        (("batch.global_batch_size=[[0, 8], [5]]",), ("must be a list with at least 2 entries",)),
        (("batch.global_batch_size=[[0, 8], [5, 0]]",), ("batch.global_batch_size[1][1]", "at least 1")),
        (
            ("batch.global_batch_size=[[0, 2], [9, 50]]", "data.last_step=drop", "train.epochs=2"),
            ("CF203", "last_step drop leaves no step: 40 samples, and a step takes 50"),
        ),
        (
            (*TARGET, "batch.grad_accum_steps=1"),
            (
                "CF107",
                "samples to reach 200 trained tokens, and a step holds 2",
                "set batch.grad_accum_steps",
            ),
        ),
        ((*TARGET, "batch.target_trained_tokens=2"), ("CF115",)),
        ((*TARGET, "lr.rule=sqrt", "lr.reference_batch=8"), ("CF117",)),
        ((*TARGET, "batch.target_trained_tokens=100000"), ("CF518", "every step trains")),
        ((LIST, "lr.reference_batch=2"), ("CF204", "this run has up to 8")),
    ],
)
def test_what_is_wrong_is_said(path: str, words: tuple[str, ...], texts: tuple[str, ...]) -> None:
    text = said(path, *words)
    assert all(each in text for each in texts), text


def test_what_is_right_is_passed_over(path: str) -> None:
    assert said(path, LIST) == said(path, *TARGET) == "nothing found"


def test_deepspeed_is_told_the_capacity(path: str, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    for literal, is_right in ((8, True), (5, False)):
        file.write_text(json.dumps({"train_batch_size": literal, "zero_optimization": {"stage": 1}}))
        text = said(path, LIST, f"deepspeed={file}", "cluster.gpus_per_node=1", "cluster.num_nodes=1")
        assert ("CF101" not in text) == is_right
    assert "this run steps on up to 8 samples" in text and "set batch.global_batch_size" not in text


def test_a_warm_up_in_samples_ends_where_a_step_begins() -> None:
    """Steps of 3, 3, 5, 5, 5, ...: samples before each step."""
    before = [0, 3, 6, *range(11, 60, 5)]
    given = {**LR, "schedule": "constant", "min_ratio": 0.0, "total_steps": len(before) - 1}
    given |= {"global_batch_size": 5, "batches": ((0, 3), (2, 5)), "samples_before": before.__getitem__}
    for samples, steps in ((0, 0), (1, 1), (3, 1), (4, 2), (6, 2), (7, 3), (before[-1], len(before) - 1)):
        assert plan_rate(**given, warmup_samples=samples).warmup_steps == steps
    with pytest.raises(RateImpossible, match=f"a warm-up of {len(before) + 1} steps"):
        plan_rate(**given, warmup_samples=before[-1] + 6)
    rate = plan_rate(**given)
    assert [rate.at(k) for k in (1, 2)] == pytest.approx([1e-3 * (batch / 2) ** 0.5 for batch in (3, 5)])
    assert rate.at(rate.total_steps - 1) == rate.peak
