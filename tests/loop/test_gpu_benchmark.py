"""benchmarks/gpu.py without a GPU: the same code on the tiny shape, started warm."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import environments
import gpu
from support.launching import plain


@pytest.fixture(autouse=True)
def starts_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(
        words: Sequence[str | Path], around: Mapping[str, str], seconds: float
    ) -> subprocess.CompletedProcess[str]:
        return plain(*words[1:])

    monkeypatch.setattr(environments, "started", started)


def test_kernels_agree_with_exact_ones(tmp_path: Path) -> None:
    found = gpu.kernels("cpu", tmp_path)
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 3e-2)):
        differences = [*found[dtype]["attention"].values(), *found[dtype]["loss"].values()]
        assert 0 < max(differences) < bound


def test_proof_and_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DTYPES", ("float32",))
    monkeypatch.setattr(gpu, "LAYOUTS", ("padded",))  # the reference on the CPU is packed
    monkeypatch.setattr(gpu, "DEMO_STEPS", 1)
    assert all(proof["proven"] for proof in gpu.proofs("cpu", tmp_path).values())
    found = gpu.demo("cpu", tmp_path)
    assert found["float32, padded"]["largest_difference"] < 1e-5


def test_speed_counts_real_tokens_of_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SAMPLES", 16)
    monkeypatch.setattr(gpu, "SPEED", gpu.SPEED[::2])
    found = gpu.speed("cpu", tmp_path)
    assert [row["row"] for row in found["rows"]] == [row.name for row in gpu.SPEED]
    for row in found["rows"]:
        assert row["tokens_per_second"] > 0 and 0.5 < row["real_share"] <= 1, row
    assert "nominal" not in found["peak_flops"]


def test_what_fails_is_said_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str, folder: Path) -> dict[str, object]:
        raise RuntimeError("a first line\nthe kernel is not there")

    monkeypatch.setattr(gpu, "PARTS", {"broken": broken, "kernels": gpu.kernels})
    found = dict(gpu.measured("cpu", tmp_path, [], 1.0))
    assert found["broken"]["failed"] == "RuntimeError: the kernel is not there"
    assert "attention" in found["kernels"]["float32"]
    late = dict(gpu.measured("cpu", tmp_path, ["kernels"], -1.0))
    assert late["kernels"]["failed"].startswith("not begun")
