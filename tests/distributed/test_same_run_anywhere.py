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
    "adamw": {"lr.reference": "2e-3", "optimizer.name": "adamw", "optimizer.max_grad_norm": "1.0"},
    # SGD shows a wrong gradient scale, which Adam hides; the norm is always beyond the clip
    "sgd": {"lr.reference": "1.0", "optimizer.name": "sgd", "optimizer.max_grad_norm": "0.05"},
}
RANKS, STAGES, ACCUMULATIONS, BATCHES = (1, 2, 3), (0, 2, 3), (1, 4), (100, 7)


class Cell(NamedTuple):
    """One run of the matrix."""

    optimizer: str
    batch: int
    ranks: int
    stage: int
    accumulation: int

    @property
    def name(self) -> str:
        return "-".join(f"{key}{value}" for key, value in self._asdict().items())


WHOLE = tuple(itertools.starmap(Cell, itertools.product(OPTIMIZERS, BATCHES, RANKS, STAGES, ACCUMULATIONS)))
COVERING = (
    Cell("adamw", 7, 1, 0, 1),
    Cell("adamw", 7, 2, 3, 4),
    Cell("adamw", 100, 1, 3, 1),
    Cell("adamw", 100, 2, 0, 4),
    Cell("adamw", 100, 3, 2, 4),
    Cell("sgd", 7, 1, 0, 4),
    Cell("sgd", 7, 2, 2, 1),
    Cell("sgd", 7, 3, 3, 1),
    Cell("sgd", 7, 3, 0, 1),
    Cell("sgd", 100, 1, 2, 4),
    Cell("sgd", 100, 2, 3, 1),
)
"""Every pair of two settings at least once; of every optimizer and batch one rank, the reference, first."""


def _job(folder: Path, config: Path, cell: Cell) -> dict[str, Any]:
    words = {
        "run.dir": folder / cell.name,
        "run.name": cell.name,
        "deepspeed": ROOT / "ds_configs" / f"zero{cell.stage}.json",
        "batch.grad_accum_steps": cell.accumulation,
        "batch.global_batch_size": cell.batch,
        **OPTIMIZERS[cell.optimizer],
    }
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
    """(folder, cells) of all runs of the matrix, in three sets of ranks."""
    cells: tuple[Cell, ...] = request.param
    folder = tmp_path_factory.mktemp("matrix")
    write_samples(folder / "data.jsonl", 230)
    tokenizer = {"path": str(short_tokenizer(folder))}
    batch = {"micro_batch_size": None}
    config = small_config(folder, tokenizer=tokenizer, batch=batch, train={"max_steps": STEPS})
    for ranks in RANKS:
        jobs = folder / f"jobs{ranks}.json"
        mine = [_job(folder, config, cell) for cell in cells if cell.ranks == ranks]
        jobs.write_text(json.dumps(mine), encoding="utf-8")
        done = warm_ranks(ranks, ROOT / "tests" / "support" / "many_runs.py", jobs)
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
            for number in ("loss", "grad_norm"):
                worst = max(worst, abs(line[number] / expected[number] - 1))
                assert line[number] == pytest.approx(expected[number], rel=RELATIVE), where
        assert receipt(folder / cell.name)["foots"] is True, cell.name
    print(f"{optimizer}, batch {batch}: largest relative difference {worst:.1e}")


def test_clipping_was_active_with_sgd(runs: tuple[Path, tuple[Cell, ...]]) -> None:
    folder, cells = runs
    clipped = [cell for cell in cells if cell.optimizer == "sgd"]
    assert {cell.ranks for cell in clipped} == set(RANKS)
    for cell in clipped:
        assert all(line["grad_norm"] > 0.05 for line in ledger(folder / cell.name))


@pytest.mark.lie("B3", "U6", answer="impossible")
def test_the_uneven_batch_is_spread_and_not_rounded(runs: tuple[Path, tuple[Cell, ...]]) -> None:
    folder, _ = runs
    lines = ledger(folder / Cell("adamw", 100, 3, 2, 4).name)
    assert {line["real_samples"] for line in lines} <= {100, 30}
    assert sorted(lines[0]["per_rank"]["columns"]["samples"]) == [33, 33, 34]
