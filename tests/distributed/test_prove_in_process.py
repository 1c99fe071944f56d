"""The oracle in one process: random layouts are PROVEN, each planted mistake is NOT PROVEN and named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from support import proving
from support.proving import Case, prove_in_process

CASES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proofs")


def _layouts() -> list[Case]:
    draw = random.Random(20)
    return [
        Case(
            dp_degree=draw.randint(1, 4),
            grad_accum_steps=draw.randint(1, 3),
            micro_batch_size=draw.randint(1, 3),
            folded=draw.random() < 0.5,
            lora=draw.random() < 0.7,
            seed=draw.randrange(1000),
            by_tokens=draw.random() < 0.3,
        )
        for _ in range(CASES)
    ]


@pytest.mark.lie("B7", "B8", answer="impossible")
@pytest.mark.parametrize("case", _layouts(), ids=str)
def test_a_random_layout_is_proven(folder: Path, case: Case) -> None:
    verdict = prove_in_process(folder, case)
    assert verdict.proven, verdict
    assert verdict.finding is None
    assert verdict.exit_code == 0
    assert 0 < verdict.total.relative_error < verdict.total.bound / 4


NAMED = {
    "mean_of_means": "mean of means over forwards",
    "missing_dp_factor": "1/dp_degree (the missing dp factor",
    "accumulation_twice": "1/grad_accum_steps (divided by accumulation twice",
    "sum_of_ranks": "dp_degree (a sum over ranks instead of a mean)",
    "dropped_tail": "the tail is dropped: the last slot",
    "not_cleared": "the gradients of the step before are still there",
    "crossing": "attention crosses samples: in a packed row each sample sees those before it",
    "crossing_with_positions": (
        "attention crosses samples: in a packed row each sample sees those before it, and positions run on"
    ),
}


@pytest.mark.lie("B7", "B8", "J6", answer="CF750")
@pytest.mark.parametrize("lora", (True, False), ids=("lora", "full"))
@pytest.mark.parametrize("fault", NAMED)
def test_a_planted_mistake_is_named(folder: Path, fault: str, lora: bool) -> None:
    case = Case(dp_degree=3, grad_accum_steps=2, micro_batch_size=2, lora=lora)
    verdict = prove_in_process(folder, case, getattr(proving, fault))
    assert not verdict.proven
    assert verdict.exit_code == 3
    assert verdict.cause is not None and verdict.cause.startswith(NAMED[fault]), verdict
    assert verdict.finding is not None and NAMED[fault] in verdict.finding.title
    assert verdict.notes


@pytest.mark.parametrize("fault", ("mean_of_means", "dropped_tail"))
def test_a_planted_mistake_is_named_in_a_folded_plan(folder: Path, fault: str) -> None:
    case = Case(dp_degree=2, grad_accum_steps=2, micro_batch_size=2, folded=True)
    verdict = prove_in_process(folder, case, getattr(proving, fault))
    assert verdict.cause is not None and verdict.cause.startswith(NAMED[fault]), verdict


def test_a_group_with_zero_reference_is_not_proven_and_named(folder: Path) -> None:
    verdict = prove_in_process(folder, Case(2, 2, 2), proving.zero_group)
    assert not verdict.proven
    assert verdict.finding is not None
    assert "reference is zero" in verdict.finding.title
    assert "q_proj.lora_A" in verdict.finding.title
    wrong = [group for group in verdict.groups if not group.proven]
    assert {group.name.split(".")[1] for group in wrong} == {"lora_A"}
    assert all(group.reference == 0 for group in wrong)


def test_an_unknown_factor_is_given_as_a_number(folder: Path) -> None:
    verdict = prove_in_process(folder, Case(2, 2, 2), proving.clipped)
    assert not verdict.proven and verdict.cause is None
    assert "no known factor" in verdict.notes[0]
    assert verdict.total.factor is not None and 0 < verdict.total.factor < 0.1


def test_what_no_weighting_explains_is_said_so(folder: Path) -> None:
    verdict = prove_in_process(folder, Case(2, 2, 2), proving.mask_lost)
    assert not verdict.proven and verdict.cause is None
    assert verdict.notes == (
        "no weights of the samples explain it: the gradient of a forward itself is another",
    )
