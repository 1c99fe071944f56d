"""The same run on other topologies is the same run: samples, rates, losses, gradient norms; every receipt
foots.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from support.launching import ROOT, deepspeed, ledger, receipt, short_tokenizer, small_config, write_samples

pytestmark = pytest.mark.distributed

STEPS = 20
RELATIVE = 1e-5
RANKS = (1, 2, 3)
OPTIMIZERS = {
    "adamw": {"lr.reference": "2e-3", "optimizer.name": "adamw", "optimizer.max_grad_norm": "1.0"},
    # SGD shows a wrong gradient scale, which Adam hides; the norm is always beyond the clip
    "sgd": {"lr.reference": "1.0", "optimizer.name": "sgd", "optimizer.max_grad_norm": "0.05"},
}
LAYOUTS = tuple(itertools.product((0, 2, 3), (1, 4), (100, 7)))


def _jobs(folder: Path, config: Path, ranks: int) -> list[dict[str, Any]]:
    jobs = []
    for (stage, accumulation, batch), (optimizer, settings) in itertools.product(LAYOUTS, OPTIMIZERS.items()):
        name = f"{optimizer}-batch{batch}-ranks{ranks}-zero{stage}-accum{accumulation}"
        words = {
            "run.dir": folder / name,
            "run.name": name,
            "deepspeed": ROOT / "ds_configs" / f"zero{stage}.json",
            "batch.grad_accum_steps": accumulation,
            "batch.global_batch_size": batch,
            **settings,
        }
        overrides = [f"{key}={value}" for key, value in words.items()]
        jobs.append({"name": name, "config": str(config), "overrides": overrides})
    return jobs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of the matrix, three launches of the real deepspeed launcher."""
    folder = tmp_path_factory.mktemp("matrix")
    write_samples(folder / "data.jsonl", 230)
    tokenizer = {"path": str(short_tokenizer(folder))}
    batch = {"micro_batch_size": None}
    config = small_config(folder, tokenizer=tokenizer, batch=batch, train={"max_steps": STEPS})
    for ranks in RANKS:
        jobs = folder / f"jobs{ranks}.json"
        jobs.write_text(json.dumps(_jobs(folder, config, ranks)), encoding="utf-8")
        done = deepspeed(ranks, ROOT / "tests" / "support" / "many_runs.py", jobs)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder


@pytest.mark.parametrize("batch", (100, 7))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_same_samples_rates_losses_and_norms(runs: Path, optimizer: str, batch: int) -> None:
    reference = ledger(runs / f"{optimizer}-batch{batch}-ranks1-zero0-accum1")
    assert len(reference) == STEPS
    assert reference[-1]["loss"] < reference[0]["loss"]
    for ranks, stage, accumulation in itertools.product(RANKS, (0, 2, 3), (1, 4)):
        name = f"{optimizer}-batch{batch}-ranks{ranks}-zero{stage}-accum{accumulation}"
        lines = ledger(runs / name)
        for expected, line in zip(reference, lines, strict=True):
            where = f"{name}, step {line['step']}"
            assert line["samples_sha256"] == expected["samples_sha256"], where
            assert line["lr"] == expected["lr"], where
            assert line["loss"] == pytest.approx(expected["loss"], rel=RELATIVE), where
            assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=RELATIVE), where
        assert receipt(runs / name)["foots"] is True, name


def test_clipping_was_active_with_sgd(runs: Path) -> None:
    for batch in (100, 7):
        lines = ledger(runs / f"sgd-batch{batch}-ranks2-zero2-accum4")
        assert all(line["grad_norm"] > 0.05 for line in lines)


def test_the_uneven_batch_is_spread_and_not_rounded(runs: Path) -> None:
    lines = ledger(runs / "adamw-batch100-ranks3-zero2-accum4")
    assert {line["real_samples"] for line in lines} <= {100, 30}
    assert sorted(row["samples"] for row in lines[0]["per_rank"]) == [33, 33, 34]
