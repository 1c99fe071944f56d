"""How float32 matrices are multiplied is measured, decided for all ranks alike, noted, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from crossfoot.training import cpu_compute
from crossfoot.training.cpu_compute import Probe, decide
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

FAST = Probe(error=4e-7, medium=1.9, bfloat16=2.5)
EVEN = Probe(error=4e-7, medium=1.0, bfloat16=1.0)
ROUNDED = Probe(error=2e-3, medium=4.0, bfloat16=4.0)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with cpu_compute.matmul("highest"):
        yield


@pytest.mark.parametrize(
    ("wanted", "found", "before", "way"),
    [
        ("auto", [FAST, FAST], None, "medium"),
        ("auto", [FAST, ROUNDED], None, "highest"),
        ("auto", [EVEN, EVEN, FAST], None, "highest"),
        ("auto", [EVEN], "medium", "medium"),
        ("auto", [FAST], "highest", "highest"),
        ("auto", [ROUNDED], "medium", "highest"),
        ("medium", [ROUNDED], "highest", "medium"),
    ],
)
def test_all_ranks_decide_by_what_all_measured(
    wanted: str, found: list[Probe], before: str | None, way: str
) -> None:
    assert decide(wanted, found, before)[0] == way


def test_the_probe_sees_a_product_that_is_rounded_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine makes of "medium": where it has AMX, that is bfloat16 too."""
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda left, right: (left.double() @ right.double()).to(left.dtype))
    assert cpu_compute.probe().error < cpu_compute.LARGEST_ERROR

    def rounding(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if torch.get_float32_matmul_precision() == "medium":
            left, right = left.bfloat16().float(), right.bfloat16().float()
        return real(left, right)

    monkeypatch.setattr(torch, "mm", rounding)
    assert cpu_compute.probe().error > 1e-3


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    return room.config(
        model={"matmul": "auto"},
        batch={"micro_batch_size": 3, "grad_accum_steps": 1},
        lr={"reference": 0.01},
        checkpoint={"every_steps": 1},
        train={"max_steps": 3},
    )


def test_an_attempt_that_goes_on_multiplies_as_the_one_before(
    trains: Callable[..., Watched],
    values: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cpu_compute, "probe", lambda: FAST)
    first = trains(values, stop_after=1)
    assert first.paper(1, "attempt.json")["matmul"] == "medium"
    said = capsys.readouterr().err
    assert "float32 matrices are multiplied by oneDNN: 1.90 times as fast, 4e-07 off float64\n" in said
    assert "note: this CPU multiplies bfloat16 2.5 times as fast: model.dtype bfloat16\n" in said

    monkeypatch.setattr(cpu_compute, "probe", lambda: EVEN)
    assert trains(values, stop_after=2, continues=True).paper(2, "attempt.json")["matmul"] == "medium"
    assert "multiplied by oneDNN: as in the attempt before\n" in capsys.readouterr().err

    monkeypatch.setattr(cpu_compute, "probe", lambda: ROUNDED)
    assert trains(values, continues=True).paper(3, "attempt.json")["matmul"] == "highest"
    assert "oneDNN, by which the run was trained so far, is 2e-03 off float64 on this machine" in (
        capsys.readouterr().err
    )
