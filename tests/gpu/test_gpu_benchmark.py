"""benchmarks/gpu.py on a GPU, but for the 7B: kernels, oracle and demo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def test_kernels_agree_with_exact_ones(tmp_path: Path) -> None:
    found = gpu.kernels("cuda", tmp_path)
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 3e-2)):
        differences = [*found[dtype]["attention"].values(), *found[dtype]["loss"].values()]
        assert 0 < max(differences) < bound, found


def test_the_oracle_proves_and_the_demo_agrees(tmp_path: Path) -> None:
    assert all(proof["proven"] for proof in gpu.proofs("cuda", tmp_path).values())
    found = gpu.demo("cuda", tmp_path)
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 3e-2)):
        for layout in gpu.LAYOUTS:
            assert found[f"{dtype}, {layout}"]["largest_difference"] < bound, found
