"""The squared norms of a step's forwards and of its gradient, by kind of parameter: on two ranks of every
ZeRO stage those of the same run in one process, whose forwards are held against plain torch in tests/loop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossfoot.runs.noise_scale import NoiseLine, read_noise_lines
from support.launching import ROOT, folded_config, ledger, plain, receipt, warm_ranks

pytestmark = pytest.mark.distributed

SCRIPT = ROOT / "tests" / "support" / "many_runs.py"
FLOAT16 = {"fp16": {"enabled": True, "initial_scale_power": 12, "loss_scale_window": 2}}
OFFLOADED = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
SMALL: dict[str, tuple[int, str, Any]] = {
    **{f"zero{stage}": (stage, "float32", {}) for stage in range(4)},
    "unmeasured zero2": (2, "float32", {}),
}
OTHERS: dict[str, tuple[int, str, Any]] = {
    **{f"offloaded zero{stage}": (stage, "float32", OFFLOADED) for stage in (1, 2, 3)},
    **{f"bfloat16 zero{stage}": (stage, "bfloat16", {}) for stage in (1, 2, 3)},
    **{f"float16 zero{stage}": (stage, "float16", FLOAT16) for stage in (1, 2, 3)},
}
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.04, "float16": 0.02}


@pytest.fixture(
    scope="module",
    params=[pytest.param(SMALL, id="small"), pytest.param(OTHERS, id="others", marks=pytest.mark.slow)],
)
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, tuple[int, str, Any]]]:
    """(folder, runs): each on two ranks, and `folded` in one process. The loss scale of float16 grows."""
    kinds: dict[str, tuple[int, str, Any]] = request.param
    folder = tmp_path_factory.mktemp("noise")
    train = {"max_steps": 2 if kinds is SMALL else 4, "noise_scale_every_steps": 1}
    config = folded_config(folder, train=train, optimizer={"max_grad_norm": 0.5})
    jobs: list[dict[str, Any]] = []
    for name, (stage, dtype, more) in kinds.items():
        file = folder / f"{name}.json"
        shipped = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text(encoding="utf-8"))
        zero = {**shipped["zero_optimization"], **more.get("zero_optimization", {})}
        file.write_text(json.dumps({**shipped, **more, "zero_optimization": zero}), encoding="utf-8")
        words = [f"run.dir={folder / name}", f"deepspeed={file}", f"model.dtype={dtype}"]
        words += ["train.noise_scale_every_steps=null"] if name.startswith("unmeasured") else []
        jobs.append({"name": name, "config": str(config), "overrides": words})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    for done in (
        warm_ranks(2, SCRIPT, folder / "jobs.json"),
        plain("-m", "crossfoot", "train", config, f"run.dir={folder / 'folded'}"),
    ):
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder, kinds


def test_two_ranks_see_what_one_process_sees(runs: tuple[Path, dict[str, tuple[int, str, Any]]]) -> None:
    folder, kinds = runs
    one = read_noise_lines(str(folder / "folded"))
    assert len(one) >= 2 and all(len(line.tokens) == 4 for line in one)
    for name, (_, dtype, _) in kinds.items():
        assert receipt(folder / name)["foots"], name
        if not name.startswith("unmeasured"):
            found = read_noise_lines(str(folder / name))
            assert len(found) == len(one)
            for line, other in zip(found, one, strict=True):
                are_the_same(line, other, TOLERANCES[dtype])
                parts = [group.big for group in line.groups.values() if group.big is not None]
                assert len(parts) == len(line.groups) == 4
                assert sum(parts) == pytest.approx(line.big, rel=1e-5), name


def are_the_same(found: NoiseLine, other: NoiseLine, tolerance: float) -> None:
    """Forward f of rank r is number 2 f + r of one process."""
    order = (0, 2, 1, 3)
    assert found.tokens == tuple(other.tokens[place] for place in order)
    assert (found.samples, found.applied) == (other.samples, True)
    assert found.squares == pytest.approx([other.squares[place] for place in order], rel=tolerance)
    assert found.big == pytest.approx(other.big, rel=tolerance)
    for kind, group in other.groups.items():
        assert found.groups[kind].small == pytest.approx(group.small, rel=tolerance, abs=1e-9)
        assert found.groups[kind].big == pytest.approx(group.big, rel=tolerance, abs=1e-9)


def test_measuring_changes_nothing(runs: tuple[Path, dict[str, tuple[int, str, Any]]]) -> None:
    folder, kinds = runs
    if "unmeasured zero2" in kinds:
        for name in ("loss", "grad_norm"):
            lines = [[line[name] for line in ledger(folder / run)] for run in ("zero2", "unmeasured zero2")]
            assert lines[0] == lines[1]
        weights = [
            folder / run / "adapter" / "adapter_model.safetensors" for run in ("zero2", "unmeasured zero2")
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
