"""Plans whose forwards are limited by tokens: the batch, the page, the lock, what DeepSpeed gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossfoot.arithmetic.batch import BatchPlan, Topology, solve_batch
from crossfoot.index.build import ensure_index
from crossfoot.planning.another_plan import another_plan
from crossfoot.planning.deepspeed_config import owned_numbers
from crossfoot.planning.lock import make_lock
from crossfoot.planning.page import render_plan
from crossfoot.planning.plan import RunPlan
from crossfoot.planning.prepare import plan_written
from crossfoot.receipts.promise import promised_sums
from crossfoot.receipts.promised_sets import terms_of
from crossfoot.written.run_file import read_run
from support.launching import small_config, write_samples

TWO = Topology(2, 1)


@pytest.mark.parametrize(
    ("given", "micro", "accum", "batch", "solved"),
    [
        ({"global_batch_size": 30}, 2, 8, 30, "grad_accum_steps"),
        ({"grad_accum_steps": 3}, 2, 3, 12, "global_batch_size"),
        ({"global_batch_size": 30, "grad_accum_steps": 3}, 5, 3, 30, "micro_batch_size"),
        ({"global_batch_size": 30, "grad_accum_steps": 100}, 1, 100, 30, "micro_batch_size"),
    ],
)
def test_tokens_stand_for_the_samples_that_surely_fit(
    given: dict[str, int], micro: int, accum: int, batch: int, solved: str
) -> None:
    """1,100 tokens surely hold 2 samples of 512; with both other numbers given, a forward holds what it
    must.
    """
    plan = solve_batch(TWO, micro_batch_tokens=1100, max_seq_len=512, **given)
    assert plan == BatchPlan(micro, accum, batch, TWO, solved, 1100)
    assert plan.capacity_samples == micro * accum * 2 >= batch
    assert plan.fold().micro_batch_tokens == 1100


def planned(folder: Path, *, with_index: bool = True, **batch: int) -> RunPlan:
    write_samples(folder / "data.jsonl", 40)
    numbers: dict[str, Any] = {"micro_batch_size": None, "global_batch_size": 16, **batch}
    path = str(
        small_config(
            folder, batch=numbers, cluster={"gpus_per_node": 2}, train={"epochs": 1, "max_steps": None}
        )
    )
    if with_index:
        run, _ = read_run(path, [])
        ensure_index(run, run.config.data.train, is_builder=True)
    return plan_written(path, [])[0]


def test_page_lock_receipt_and_deepspeed_have_one_plan(tmp_path: Path) -> None:
    plan = planned(tmp_path, micro_batch_tokens=512)
    page = render_plan(plan)
    assert "tokens per GPU per forward                   512" in page
    assert "samples in them, at least                      2   data.max_seq_len 256" in page
    assert "forwards per step, at most                     4   solved" in page
    assert "forwards per step, really                 2 to 3   all steps" in page
    lock = make_lock(plan)
    assert lock["plan"]["micro_batch_tokens"] == 512
    assert plan.index is not None
    assert promised_sums(terms_of(lock), plan.index)["forwards"] == lock["expects"]["forwards"]
    owned = owned_numbers(plan.run.config, plan.batch)
    assert owned["train_batch_size"] == 16 == 2 * owned["gradient_accumulation_steps"] * 2
    assert another_plan(plan)


def test_without_an_index_the_plan_says_what_is_known(tmp_path: Path) -> None:
    plan = planned(tmp_path, with_index=False, micro_batch_tokens=512, grad_accum_steps=1)
    page = render_plan(plan)
    assert plan.estimated and "estimated" in page
    assert "samples in them, on average                    8   solved" in page
    assert "forwards per step, at most                     1   batch.grad_accum_steps" in page
    assert "really" not in page
