"""The same run on other topologies is the same run: samples, rates, losses, gradient norms; every receipt
foots.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.launching import (
    ROOT,
    ledger,
    plain,
    receipt,
    short_tokenizer,
    small_config,
    warm_ranks,
    write_samples,
)

pytestmark = pytest.mark.distributed

STEPS = 20
RELATIVE = 1e-5
OPTIMIZERS = {
    # with rates of their own for adapters' B and the output layer
    "adamw": {
        "lr.reference": "2e-3",
        "lr.groups": "{lora_B: 2, lm_head: 0.5}",
        "optimizer.name": "adamw",
        "optimizer.max_grad_norm": "1.0",
    },
    # SGD shows a wrong gradient scale, which Adam hides; the norm is always beyond the clip
    "sgd": {"lr.reference": "1.0", "optimizer.name": "sgd", "optimizer.max_grad_norm": "0.05"},
}
ENGINES = ("accelerate", "zero0", "zero1", "zero2", "zero3")
RANKS, ACCUMULATIONS, BATCHES, LAYOUTS = (1, 2, 3), (1, 4), (100, 7), ("packed", "tokens", "padded")


class Cell(NamedTuple):
    """One run of the matrix. accelerate folds two ranks into one process; layout `tokens` is the packed one
    by batch.micro_batch_tokens, which works out its accumulation by itself.
    """

    optimizer: str
    batch: int
    ranks: int
    engine: str
    accumulation: int
    layout: str
    checkpointing: bool

    @property
    def name(self) -> str:
        return "-".join(f"{key}{value}" for key, value in self._asdict().items())


WHOLE = tuple(
    cell
    for words in itertools.product(OPTIMIZERS, BATCHES, RANKS, ENGINES, ACCUMULATIONS, LAYOUTS, (False, True))
    if (cell := Cell(*words)).engine != "accelerate" or cell.ranks == 1
    if cell.layout != "tokens" or cell.accumulation == max(ACCUMULATIONS)
)
COVERING = (
    Cell("adamw", 7, 1, "zero2", 4, "padded", True),
    Cell("adamw", 7, 1, "zero3", 1, "packed", False),
    Cell("adamw", 7, 2, "zero3", 4, "packed", False),
    Cell("adamw", 7, 3, "zero0", 4, "packed", False),
    Cell("adamw", 100, 1, "accelerate", 1, "packed", False),
    Cell("adamw", 100, 2, "zero1", 4, "packed", True),
    Cell("sgd", 7, 1, "zero1", 1, "padded", False),
    Cell("sgd", 7, 1, "accelerate", 4, "padded", True),
    Cell("sgd", 7, 2, "zero0", 1, "padded", True),
    Cell("sgd", 7, 3, "zero1", 4, "packed", True),
    Cell("sgd", 100, 1, "zero0", 4, "packed", True),
    Cell("sgd", 100, 2, "zero2", 1, "padded", False),
    Cell("sgd", 100, 3, "zero3", 1, "padded", True),
    Cell("sgd", 100, 3, "zero2", 1, "packed", False),
    Cell("adamw", 7, 1, "accelerate", 4, "tokens", False),
    Cell("adamw", 100, 2, "zero3", 4, "tokens", True),
    Cell("adamw", 100, 3, "zero0", 4, "tokens", False),
    Cell("sgd", 7, 2, "zero1", 4, "tokens", False),
    Cell("sgd", 7, 3, "zero2", 4, "tokens", True),
)
"""Every pair of two settings at least once; of every optimizer and batch one rank, the reference, first."""


def _job(folder: Path, config: Path, cell: Cell) -> dict[str, Any]:
    words: dict[str, object] = {
        "run.dir": folder / cell.name,
        "run.name": cell.name,
        "deepspeed": ROOT / "ds_configs" / f"{cell.engine}.json",
        "batch.grad_accum_steps": cell.accumulation,
        "batch.global_batch_size": cell.batch,
        "data.layout": "padded" if cell.layout == "padded" else "packed",
        "model.gradient_checkpointing": str(cell.checkpointing).lower(),
        **OPTIMIZERS[cell.optimizer],
    }
    if cell.layout == "tokens":
        words |= {"batch.micro_batch_tokens": 512, "batch.grad_accum_steps": "null"}
    if cell.engine == "accelerate":
        words |= {"deepspeed": "null", "cluster.num_nodes": 1, "cluster.gpus_per_node": 2}
    overrides = [f"{key}={value}" for key, value in words.items()]
    return {"name": cell.name, "config": str(config), "overrides": overrides}


def _pairs(cells: Iterable[Cell]) -> set[object]:
    """Every two settings that come together in a cell."""
    return {pair for cell in cells for pair in itertools.combinations(cell._asdict().items(), 2)}


def test_the_covering_cells_have_every_pair_of_settings() -> None:
    assert _pairs(COVERING) == _pairs(WHOLE)


@pytest.fixture(
    scope="module",
    params=[pytest.param(COVERING, id="some"), pytest.param(WHOLE, id="whole", marks=pytest.mark.slow)],
)
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[Cell, ...]]:
    """(folder, cells) of all runs of the matrix: one process of accelerate, and three sets of ranks."""
    cells: tuple[Cell, ...] = request.param
    folder = tmp_path_factory.mktemp("matrix")
    write_samples(folder / "data.jsonl", 230)
    tokenizer = {"path": str(short_tokenizer(folder))}
    batch = {"micro_batch_size": None}
    config = small_config(folder, tokenizer=tokenizer, batch=batch, train={"max_steps": STEPS})
    script = ROOT / "tests" / "support" / "many_runs.py"
    for ranks in (0, *RANKS):
        jobs = folder / f"jobs{ranks}.json"
        mine = [cell for cell in cells if ranks == (cell.engine != "accelerate" and cell.ranks)]
        jobs.write_text(json.dumps([_job(folder, config, cell) for cell in mine]), encoding="utf-8")
        done = warm_ranks(ranks, script, jobs) if ranks else plain(script, jobs)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder, cells


@pytest.mark.lie("B2", "B5", "B7", "B8", "B9", "B10", answer="impossible")
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_same_samples_rates_losses_and_norms(
    runs: tuple[Path, tuple[Cell, ...]], optimizer: str, batch: int
) -> None:
    folder, cells = runs
    alone, *others = (cell for cell in cells if (cell.optimizer, cell.batch) == (optimizer, batch))
    assert alone.ranks == 1 and others
    reference = ledger(folder / alone.name)
    assert len(reference) == STEPS
    assert reference[-1]["loss"] < reference[0]["loss"]
    assert receipt(folder / alone.name)["foots"] is True
    worst = 0.0
    for cell in others:
        for expected, line in zip(reference, ledger(folder / cell.name), strict=True):
            where = f"{cell.name}, step {line['step']}"
            assert line["samples_sha256"] == expected["samples_sha256"], where
            assert line["lr"] == expected["lr"], where
            assert line.get("group_lrs") == expected.get("group_lrs"), where
            for number in ("loss", "grad_norm"):
                worst = max(worst, abs(line[number] / expected[number] - 1))
                assert line[number] == pytest.approx(expected[number], rel=RELATIVE), where
        assert receipt(folder / cell.name)["foots"] is True, cell.name
        batches = (_plan(folder / one.name)["batches_sha256"] for one in (cell, alone))
        assert len(set(batches)) == 1, cell.name
    print(f"{optimizer}, batch {batch}: largest relative difference {worst:.1e}")


def _plan(run_dir: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((run_dir / "plan.lock.json").read_text(encoding="utf-8"))["plan"]
    return plan


def test_by_tokens_a_step_uses_as_few_forwards_as_hold_it(runs: tuple[Path, tuple[Cell, ...]]) -> None:
    folder, cells = runs
    for cell in (cell for cell in cells if cell.layout == "tokens" and cell.batch == 100):
        lines, plan = ledger(folder / cell.name), _plan(folder / cell.name)
        forwards = [line["real_forwards"] for line in lines]
        assert forwards == [line["planned_forwards"] for line in lines]
        assert len(set(forwards)) >= 2 and max(forwards) < plan["world_size"] * plan["grad_accum_steps"]


def test_clipping_was_active_with_sgd(runs: tuple[Path, tuple[Cell, ...]]) -> None:
    folder, cells = runs
    clipped = [cell for cell in cells if cell.optimizer == "sgd"]
    assert {cell.ranks for cell in clipped} == set(RANKS)
    for cell in clipped:
        assert all(line["grad_norm"] > 0.05 for line in ledger(folder / cell.name))


@pytest.mark.lie("B3", "U6", answer="impossible")
def test_the_uneven_batch_is_spread_and_not_rounded(runs: tuple[Path, tuple[Cell, ...]]) -> None:
    folder, _ = runs
    lines = ledger(folder / Cell("sgd", 100, 3, "zero3", 1, "padded", True).name)
    assert {line["real_samples"] for line in lines} <= {100, 30}
    assert sorted(lines[0]["per_rank"]["columns"]["samples"]) == [33, 33, 34]
