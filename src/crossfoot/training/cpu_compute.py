"""How ranks compute on CPUs: threads, memory, and by which library they multiply float32 matrices.

torch gives float32 matrices to MKL, and to oneDNN where `torch.set_float32_matmul_precision("medium")` allows
less than float32. On AMD hosts that is faster by up to two, and as exact; where the CPU has tiles for
bfloat16 (AMX) it may round to them. So it is measured.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from crossfoot.environment.threads import threads_of
from crossfoot.environment.world import World
from crossfoot.rendezvous.devices import CPU, look_at_device
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.training.cpu_memory import keep_memory
from crossfoot.written.config import ModelSection

HIGHEST: Literal["highest"] = "highest"
MEDIUM: Literal["medium"] = "medium"
Way = Literal["highest", "medium"]
LARGEST_ERROR = 1e-6
"""Of a product, relative to float64. Both libraries are at 2e-7 to 6e-7, and bfloat16 is at 2e-3."""
FASTER = 1.02
SAID_FASTER = 1.3
"""bfloat16 is named where it is that much faster."""
_SHAPE = (512, 1024, 768)
_TRIES = 5


@dataclass(frozen=True)
class Probe:
    """One product, as a rank measured it. error: of `medium`, relative to float64. medium, bfloat16: how many
    times as fast as `highest` in float32.
    """

    error: float
    medium: float
    bfloat16: float


def probe() -> Probe:
    """Multiply two matrices in three ways, in turn; the best time of each counts. A fifth of a second."""
    rows, inner, columns = _SHAPE
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in ((rows, inner), (inner, columns)))
    halves = left.bfloat16(), right.bfloat16()
    seconds: dict[str, list[float]] = {HIGHEST: [], MEDIUM: [], "bfloat16": []}
    for _ in range(1 + _TRIES):
        for way, found in seconds.items():
            with matmul(MEDIUM if way == MEDIUM else HIGHEST):
                began = time.perf_counter()
                product = torch.mm(*(halves if way == "bfloat16" else (left, right)))
                found.append(time.perf_counter() - began)
            if way == MEDIUM:
                by_medium = product
    exact = left.double() @ right.double()
    best = {way: min(found[1:]) for way, found in seconds.items()}
    return Probe(
        error=float((by_medium - exact).norm() / exact.norm()),
        medium=best[HIGHEST] / best[MEDIUM],
        bfloat16=best[HIGHEST] / best["bfloat16"],
    )


@contextmanager
def matmul(way: str) -> Iterator[None]:
    """Multiply float32 matrices so; afterwards as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(way)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def settle_compute(model: ModelSection, world: World, ranks: Ranks, before: str | None = None) -> str | None:
    """Set this rank's threads and memory, and how it multiplies float32 matrices; rank 0 says so. All ranks
    call it together, and do alike.

    before: how the earlier attempts at the run did, on rank 0. Returns how it is done; None where it does not
    matter: on other devices, which are never told to round, and in 16 bits.
    """
    if look_at_device(world.local_rank, os.environ).kind != CPU:
        return None
    keep_memory(os.environ)
    threads, why = threads_of(world, os.environ)
    torch.set_num_threads(threads)
    beside = f"{world.local_world_size} ranks on this machine, each " if world.local_world_size > 1 else ""
    ranks.tell(f"on the CPU: {beside}{threads} thread{'s'[: threads > 1]} ({why})")
    if model.dtype != "float32":
        return None
    way: Way
    if model.matmul == HIGHEST:
        found: list[Probe] = []
        way, words = HIGHEST, f"model.matmul {HIGHEST}"
    else:
        found = ranks.gather(probe(), Probe)
        earlier = ranks.gather(before, str | None)[0]
        way, words = decide(model.matmul, found, earlier)
    by = "oneDNN" if way == MEDIUM else "torch's own library"
    ranks.tell(f"float32 matrices are multiplied by {by}: {words}")
    if found and (gain := statistics.median(one.bfloat16 for one in found)) > SAID_FASTER:
        ranks.tell(f"note: this CPU multiplies bfloat16 {gain:.1f} times as fast: model.dtype bfloat16")
    torch.set_float32_matmul_precision(way)
    return way


def decide(wanted: str, found: Sequence[Probe], before: str | None) -> tuple[Way, str]:
    """(how all ranks multiply, why), from what each rank measured. wanted: model.matmul."""
    error = max(one.error for one in found)
    gain = statistics.median(one.medium for one in found)
    off = f"{error:.0e} off float64"
    if wanted == MEDIUM:
        warned = "" if error < LARGEST_ERROR else ", which is not float32"
        return MEDIUM, f"model.matmul {MEDIUM}; {gain:.2f} times as fast, {off}{warned}"
    exact = error < LARGEST_ERROR
    if before is not None:
        if before == MEDIUM and not exact:
            return HIGHEST, f"oneDNN, by which the run was trained so far, is {off} on this machine"
        return (MEDIUM if before == MEDIUM else HIGHEST), "as in the attempt before"
    if not exact:
        return HIGHEST, f"oneDNN is {off} on this machine"
    if gain < FASTER:
        return HIGHEST, f"oneDNN is {gain:.2f} times as fast"
    return MEDIUM, f"{gain:.2f} times as fast, {off}"
