"""What is NaN or infinite: named with its samples, skipped by policy, tried again, told in line and
receipt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crossfoot.ledger.entry import NotFinite, StepEntry, entry_of
from crossfoot.ledger.reconcile import Policies
from crossfoot.ledger.witness import StepWitness
from crossfoot.receipts.receipt import receipt_of
from crossfoot.receipts.receipt_page import render_receipt
from crossfoot.receipts.verdict import Unlearned
from crossfoot.runs.ending import Ending
from crossfoot.training.findings import unlearnable
from ledger_cases import Job, six_samples, without_forward

SLOTS = [[[0, 1], [2]], [[3], [4]]]
Change = Callable[[list[StepWitness]], list[StepWitness]]


def entry_after(change: Change, policies: Policies | None = None) -> StepEntry:
    data = six_samples()
    planned = data.plan(7, SLOTS)
    return data.reconciler(2, policies=policies).step(planned, change(data.obey(planned)))


def left_out(told: list[StepWitness], **more: object) -> list[StepWitness]:
    return [replace(w, applied=False, grad_norm=math.inf, nonfinite=True, **more) for w in told]


def nan_in(witness: StepWitness, forward: int) -> StepWitness:
    """The loss of one forward is NaN, and its gradient too."""
    forwards = tuple(
        replace(f, loss_sum=math.nan, token_weight=math.nan) if f.forward == forward else f
        for f in witness.forwards
    )
    return replace(witness, forwards=forwards, loss_sum=math.nan)


def nan_in_a_forward(told: list[StepWitness]) -> list[StepWitness]:
    told = left_out(told)
    return [nan_in(told[0], 0), told[1]]


def overflown(told: list[StepWitness]) -> list[StepWitness]:
    return left_out(told, overflow=True, retries=3)


def test_the_samples_of_the_forward_are_named_whatever_the_policy() -> None:
    found = NotFinite("loss", math.nan, 0, 0, (0, 1), ("data.json:1", "data.json:2"))
    for policies in (Policies("stop"), Policies("skip")):
        (one,) = entry_after(nan_in_a_forward, policies).not_finite
        assert repr(one) == repr(found)  # NaN is not equal to itself
        assert str(one) == "the loss of forward 0 of rank 0 is nan (samples 0, 1)"


def test_stopped_names_it_as_a_cause_and_skipped_as_none() -> None:
    stopped = entry_after(nan_in_a_forward)
    assert [(c.code, c.rank, c.forward, c.sample, c.origin) for c in stopped.causes] == [
        ("CF722", None, None, None, None),
        ("CF723", 0, 0, 0, "data.json:1"),
    ]
    skipped = entry_after(nan_in_a_forward, Policies("skip"))
    assert (skipped.skipped, skipped.causes, skipped.wrong_weight_forwards) == ("not finite", (), 0)


def test_a_weight_that_is_no_number_is_a_fault_where_the_loss_is_one() -> None:
    def change(told: list[StepWitness]) -> list[StepWitness]:
        forwards = tuple(replace(f, token_weight=math.nan) for f in told[0].forwards)
        return [replace(told[0], forwards=forwards), told[1]]

    assert entry_after(change).wrong_weight_forwards == 2


def test_a_gradient_norm_is_named_only_where_every_loss_is_a_number() -> None:
    (norm,) = entry_after(left_out).not_finite
    assert (norm.what, norm.rank, norm.forward, norm.samples) == ("gradient norm", None, None, ())
    assert str(norm) == "the gradient norm is inf, and every loss is a number"
    assert [one.what for one in entry_after(nan_in_a_forward).not_finite] == ["loss"]


def test_of_an_overflow_under_a_loss_scale_nothing_is_named_but_the_update() -> None:
    entry = entry_after(overflown)
    assert entry.not_finite == () and entry.retries == 3
    (cause,) = entry.causes
    assert cause.message == "no rank updated the weights: its gradients were too large for float16 in 4 tries"
    both = entry_after(lambda told: [nan_in(w, 1) for w in overflown(told)])
    assert [(one.rank, one.forward, one.samples) for one in both.not_finite] == [(0, 1, (2,)), (1, 1, (4,))]


def test_a_rank_whose_bad_forward_is_not_known() -> None:
    entry = entry_after(lambda told: [told[0], replace(told[1], loss_sum=math.inf, nonfinite=True)])
    (one,) = entry.not_finite
    assert (one.rank, one.forward, one.samples) == (1, None, (3, 4))
    assert str(one) == "the loss of rank 1 is inf (samples 3, 4)"
    lost = entry_after(lambda told: [told[0], without_forward(nan_in(told[1], 1), 1)])
    assert [(one.rank, one.forward, one.samples) for one in lost.not_finite] == [(1, None, (3,))]


def test_at_most_eight_are_listed() -> None:
    data = six_samples()
    planned = data.plan(7, [[[0]] * 6, [[1]] * 6])
    told = [nan_in(w, f) for w in data.obey(planned) for f in (0,)]
    for forward in range(6):
        told = [nan_in(w, forward) for w in told]
    assert len(data.reconciler(2).step(planned, told).not_finite) == 8


@pytest.mark.parametrize("change", [nan_in_a_forward, left_out, overflown])
def test_the_line_comes_back(change: Change) -> None:
    entry = entry_after(change)
    assert repr(entry_of(entry.to_line())) == repr(entry)
    assert "NaN" not in entry.to_line()


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("samples", [1.5], "samples.0 is 1.5"),
        ("origins", "data.json:1", "not a list"),
        ("value", None, "value is None"),
        ("rank", "0", "rank is '0'"),
    ],
)
def test_a_damaged_line_is_refused(where: str, value: object, words: str) -> None:
    document = json.loads(entry_after(nan_in_a_forward).to_line())
    document["not_finite"][0][where] = value
    with pytest.raises(ValueError, match=words):
        entry_of(json.dumps(document))


def run_of_six(folder: Path, change: Change, **faults: str) -> Job:
    """Six steps of two samples; the change is made to step 1."""
    steps = [[(epoch, sample), (epoch, sample + 1)] for epoch in (0, 1) for sample in (0, 2, 4)]
    job = Job(folder, six_samples(), steps, faults={"nonfinite": "stop", "overflow": "retry", **faults})
    job.run(
        6,
        ending=Ending("finished", 6, 0, 6),
        change=lambda step, told: change(told) if step == 1 else told,
        policies=Policies(**job.faults or {}),
    )
    return job


def test_a_receipt_foots_and_names_what_was_skipped(tmp_path: Path) -> None:
    job = run_of_six(tmp_path, nan_in_a_forward, nonfinite="skip")
    receipt = receipt_of(str(job.folder))
    assert receipt.foots and (receipt.applied_steps, receipt.skipped_steps) == (5, 1)
    (found,) = receipt.not_finite
    assert isinstance(found, Unlearned) and (found.step, found.found.samples) == (1, (2,))
    assert "\n    step 2: the loss of forward 0 of rank 0 is nan (sample 2)\n" in render_receipt(receipt)
    assert (
        json.loads(json.dumps(receipt.to_json(), allow_nan=False))["not_finite"][0]["found"]["value"] == "nan"
    )


def test_tries_that_were_thrown_away_are_told_and_nothing_else_of_them(tmp_path: Path) -> None:
    job = run_of_six(tmp_path / "tried", lambda told: [replace(w, retries=3) for w in told])
    receipt = receipt_of(str(job.folder))
    calm = receipt_of(str(run_of_six(tmp_path / "calm", lambda told: told).folder))
    assert receipt.foots and receipt.retried == 3 and calm.retried == 0
    assert receipt.rows == calm.rows and receipt.attempted_steps == receipt.applied_steps == 6
    words = "3 tries were thrown away and done again at a lower loss scale, as faults.overflow says"
    assert f"\n  {words}\n" in render_receipt(receipt) and words not in render_receipt(calm)


def test_the_run_that_stopped_says_which_samples(tmp_path: Path) -> None:
    (finding,) = unlearnable((entry_after(nan_in_a_forward), 1.0), is_finite=True)
    assert finding.code == "CF741"
    assert finding.title == (
        "step 8 (epoch 1) cannot be learned from: the loss of forward 0 of rank 0 is nan (samples 0, 1)"
    )
    assert finding.notes[:2] == ("sample 0 is data.json:1", "sample 1 is data.json:2")
    assert finding.helps[0] == "look at these samples"
    (gradient,) = unlearnable((entry_after(left_out), 1.0), is_finite=False)
    assert gradient.code == "CF741" and "the gradient norm is inf" in gradient.title
    assert gradient.helps[0] == "look at the 5 samples"
    assert gradient.notes[-1] == "the trained weights are not finite either, so they were not saved"
    assert unlearnable(None, True) == []


def test_the_run_that_no_loss_scale_helps_says_so() -> None:
    (finding,) = unlearnable((entry_after(overflown), 2.0), is_finite=True)
    assert finding.code == "CF778"
    assert finding.title == "the gradients of step 8 overflow float16: 4 tries, the last at loss scale 2"
    (hopeless,) = unlearnable((entry_after(lambda t: [nan_in(w, 0) for w in overflown(t)]), 2.0), True)
    assert hopeless.code == "CF741"
