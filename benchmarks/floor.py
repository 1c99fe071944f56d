"""How near every row of the peers' table comes to the floor:   python benchmarks/floor.py

The floor: the FLOPs that a real token needs (counted from shapes, lengths and trained tokens; forward, and
the backward of what is trained), at the speed of the fastest plain matrix product that this machine does in
the row's precision on one thread. Reads benchmarks/data/peers.json; run both on the same machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from measuring import load, save, table
from workload import LONGEST, PROMPT_SHARE, SHAPES, sample_lengths

SIZES = ((1024, 1024, 1024), (2048, 2048, 2048), (640, 512, 1376), (640, 768, 2048), (256, 512, 55_296))
"""Of the products that are tried: square ones, and those of the shapes."""
SECONDS = 0.6


def matmul_flops(dtype: torch.dtype, precision: str, size: tuple[int, int, int]) -> float:
    """FLOPs in a second of CPU time, one thread; the best of several tries."""
    rows, inner, columns = size
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    torch.set_float32_matmul_precision(precision)
    best, end = float("inf"), time.monotonic() + SECONDS
    tries = 0
    while tries < 3 or time.monotonic() < end:
        begin = time.process_time()
        torch.mm(left, right.T)
        best = min(best, time.process_time() - begin)
        tries += 1
    torch.set_float32_matmul_precision("highest")
    return 2 * rows * inner * columns / best


def peaks() -> Iterator[dict[str, Any]]:
    """The fastest product of each precision."""
    for dtype, precision in (("float32", "highest"), ("float32", "medium"), ("bfloat16", "highest")):
        found = {size: matmul_flops(getattr(torch, dtype), precision, size) for size in SIZES}
        size = max(found, key=found.__getitem__)
        yield {"dtype": dtype, "precision": precision, "flops_per_second": found[size], "size": list(size)}


def needed(case: str) -> float:
    """FLOPs of a real token of a case, by its name: "sft S float32"."""
    task, shape, _ = case.split()
    if task == "pretrain":
        return SHAPES[shape].flops_per_token(np.array([LONGEST]), (LONGEST - 1) / LONGEST)
    return SHAPES[shape].flops_per_token(sample_lengths(100_000), 1 - PROMPT_SHARE)


def main() -> int:
    """Measure the peaks, hold the peers' rows against them, write benchmarks/data/floor.json."""
    torch.set_num_threads(1)
    peers = load("peers")
    if peers is None:
        print("benchmarks/data/peers.json is not there: python benchmarks/peers.py makes it")
        return 1
    measured = list(peaks())
    fastest = {
        dtype: max(peak["flops_per_second"] for peak in measured if peak["dtype"] == dtype)
        for dtype in ("float32", "bfloat16")
    }
    rows = []
    for row in peers["rows"]:
        if "failed" in row:
            continue
        flops = needed(row["case"])
        floor = fastest[row["case"].split()[2]] / flops
        reached = row["tokens_per_cpu_second"]["median"]
        rows.append({
            "case": row["case"], "row": row["row"], "gemm": row["gemm"], "flops_per_token": flops,
            "floor_tokens_per_second": floor, "share": reached / floor,
        })  # fmt: skip
    print(table(
        ["product", "precision", "GFLOP/s, one thread"],
        [(peak["dtype"], peak["precision"], f"{peak['flops_per_second'] / 1e9:.0f}") for peak in measured],
    ))  # fmt: skip
    print()
    print(table(
        ["case", "row", "MFLOP a token", "tokens/s at the floor", "share of it"],
        [
            (row["case"], row["row"] + (", medium" if row["gemm"] == "medium" else ""),
             f"{row['flops_per_token'] / 1e6:.0f}", f"{row['floor_tokens_per_second']:.0f}",
             f"{row['share']:.0%}")
            for row in rows
        ],
    ))  # fmt: skip
    print(f"\n{save('floor', {'peaks': measured, 'rows': rows})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
