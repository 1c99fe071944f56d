"""What a ZeRO stage moves and holds: the formula of the plan against bytes counted at torch.distributed and
tensors counted in memory, on two ranks.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from crossfoot.planning.plan import RunPlan
from crossfoot.planning.prepare import plan_written
from support.launching import ROOT, ledger, receipt, short_tokenizer, small_config, warm_ranks

pytestmark = pytest.mark.distributed

STAGES, ACCUMULATIONS = (0, 1, 2, 3), (1, 4)
CELLS = [
    *itertools.product(STAGES, ACCUMULATIONS, ["float32"]),
    *itertools.product(STAGES[1:], ACCUMULATIONS[1:], ["bfloat16"]),  # stage 0: CF311
]
SMALL = 4096
"""Bytes of norms, flags and counts."""


def _words(folder: Path, cell: tuple[int, int, str]) -> list[str]:
    stage, accumulation, dtype = cell
    return [
        f"run.dir={folder / _name(cell)}",
        f"deepspeed={folder / f'zero{stage}.json'}",
        f"batch.grad_accum_steps={accumulation}",
        f"model.dtype={dtype}",
    ]


def _name(cell: tuple[int, int, str]) -> str:
    return "-".join(map(str, cell))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every cell three steps long, in one set of ranks; on stage 3 no weight is kept after it was used."""
    folder = tmp_path_factory.mktemp("bytes")
    for stage in STAGES:
        values = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text(encoding="utf-8"))
        if stage == 3:
            keeps = ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance")
            values["zero_optimization"] |= {f"stage3_{name}": 0 for name in keeps}
        (folder / f"zero{stage}.json").write_text(json.dumps(values), encoding="utf-8")
    config = small_config(
        folder,
        tokenizer={"path": str(short_tokenizer(folder))},
        batch={"micro_batch_size": None, "global_batch_size": 16},
        cluster={"num_nodes": 1, "gpus_per_node": 2},
        data={"layout": "padded"},
        train={"max_steps": 3},
    )
    jobs = [
        {"name": _name(cell), "config": str(config), "overrides": _words(folder, cell), "weigh": cell[1] > 1}
        for cell in CELLS
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = warm_ranks(2, ROOT / "tests" / "support" / "step_probe.py", folder / "jobs.json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder


def _plan(folder: Path, cell: tuple[int, int, str]) -> RunPlan:
    return plan_written(str(folder / "config.yaml"), _words(folder, cell))[0]


def _probed(folder: Path, cell: tuple[int, int, str]) -> dict[str, Any]:
    page: dict[str, Any] = json.loads((folder / f"{_name(cell)}.rank0.json").read_text(encoding="utf-8"))
    return page


@pytest.mark.parametrize("cell", CELLS, ids=_name)
def test_the_plan_says_what_is_moved(runs: Path, cell: tuple[int, int, str]) -> None:
    plan, probed = _plan(runs, cell), _probed(runs, cell)
    assert plan.parameters is not None
    assert (plan.parameters.trained, plan.parameters.held) == (probed["trained"], probed["all"])
    cost = next(cost for cost in plan.stage_costs if cost.stage == cell[0])
    moved = probed["steps"][1]["bytes"]  # the last one has what the end of a run gathers
    reduced = sum(count for name, count in moved.items() if "reduce" in name)
    gathered = sum(count for name, count in moved.items() if "gather" in name)
    assert 0 <= reduced - cost.reduced_bytes < SMALL
    assert 0 <= gathered - cost.gathered_bytes < SMALL
    assert receipt(runs / _name(cell))["foots"] is True


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[1] > 1], ids=_name)
def test_the_plan_says_what_is_held(runs: Path, cell: tuple[int, int, str]) -> None:
    """After the first of four backwards; what is beyond the plan's numbers is DeepSpeed's bucket."""
    stage, _, dtype = cell
    plan, probed = _plan(runs, cell), _probed(runs, cell)
    (cost,) = (cost for cost in plan.stage_costs if cost.stage == stage)
    has_bucket = stage > 1 or (stage, dtype) == (1, "float32")
    bucket = probed["trained"] * (2 if (stage, dtype) == (2, "bfloat16") else 4) if has_bucket else 0
    held = probed["steps"][1]["held"] - probed["before"]
    assert held == pytest.approx(cost.held_bytes + bucket, rel=0.02)


@pytest.mark.parametrize(("accumulation", "dtype"), sorted({cell[1:] for cell in CELLS}))
def test_losses_are_the_same_on_every_stage(runs: Path, accumulation: int, dtype: str) -> None:
    """To the last digits in bfloat16 too: gradients are added up and averaged in float32."""
    first, *others = (
        [line["loss"] for line in ledger(runs / _name(cell))]
        for cell in CELLS
        if cell[1:] == (accumulation, dtype)
    )
    for losses in others:
        assert losses == pytest.approx(first, rel=1e-5 if dtype == "bfloat16" else 1e-6)
