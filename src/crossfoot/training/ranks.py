"""All ranks together: join the process group, agree on the plan, exchange small things on the CPU."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from crossfoot.finding import Finding, Refused
from crossfoot.planning.run_folder import system_refused
from crossfoot.starting.world import World, rendezvous
from crossfoot.training import refusals

_NONCE_WAIT_SECONDS = 10.0


class Ranks:
    """This rank among `world_size`. Everything here is on the CPU over gloo, so nothing waits for a GPU."""

    def __init__(self, rank: int, world_size: int, group: dist.ProcessGroup | None) -> None:
        self.rank = rank
        self.world_size = world_size
        self._group = group

    @property
    def is_first(self) -> bool:
        """True on rank 0, which writes and speaks."""
        return self.rank == 0

    def gather(self, thing: Any) -> list[Any]:
        """One object per rank, on every rank, in rank order. For start and end only: it pickles."""
        if self._group is None:
            return [thing]
        things: list[Any] = [None] * self.world_size
        dist.all_gather_object(things, thing, group=self._group)
        return things

    def gather_row(self, row: np.ndarray) -> np.ndarray:
        """int64 [width] of every rank -> int64 [world_size, width]. For every step: no pickle."""
        if self._group is None:
            return row[None, :]
        mine = torch.from_numpy(row)
        rows = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(rows, mine, group=self._group)
        return torch.stack(rows).numpy()

    def total(self, *numbers: float) -> list[float]:
        """Sums over all ranks, in float64."""
        together = torch.tensor(numbers, dtype=torch.float64)
        if self._group is not None:
            dist.all_reduce(together, group=self._group)
        return [float(number) for number in together]

    def leave(self) -> None:
        """Wait for all, then take the process group down."""
        if self._group is not None:
            dist.barrier(group=self._group)
            dist.destroy_process_group()


def join(world: World, engine_kind: str, environ: Mapping[str, str]) -> Ranks:
    """Join DeepSpeed's process group, with a gloo group beside it; a lone accelerate process joins none."""
    if engine_kind == "accelerate":
        return Ranks(0, 1, None)
    os.environ.update(rendezvous(world, environ))
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # Only an optimisation of CPU collectives, and one that compiles C++ for minutes at the first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    accelerator = get_accelerator()
    if accelerator.device_name() != "cpu":
        accelerator.set_device(world.local_rank)
    backend = accelerator.communication_backend_name()
    backend = "gloo" if accelerator.device_name() == "cpu" else backend
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    group = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), group)


def is_lost_rank(error: Exception) -> bool:
    """Whether an exception says that another rank is gone: gloo and NCCL say so in words only."""
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said
        for words in (
            "closed by peer",
            "reset by peer",
            "broken pipe",
            "remote process exited",
            "gloo/transport",
        )
    )


def agree(ranks: Ranks, world: World, plan_sha256: str, run_dir: str) -> None:
    """Every rank holds the same plan and sees the same run folder, or nobody starts.

    Rank 0 writes a nonce into the run folder and every rank reads it there. Raises the same Refused on all
    ranks.
    """
    nonce = ranks.gather(secrets.token_hex(8) if ranks.is_first else None)[0]
    witness = Path(run_dir) / f".nonce-{nonce}"
    problem = _write(witness, nonce) if ranks.is_first else None
    if problem := ranks.gather(problem)[0]:  # nobody looks before it is written
        raise Refused(problem)
    mine = {
        "rank": ranks.rank,
        "host": socket.gethostname(),
        "claims": (world.rank, world.world_size),
        "sha256": plan_sha256,
        "sees": _reads(witness, nonce),
    }
    everyone = ranks.gather(mine)
    if ranks.is_first:
        witness.unlink(missing_ok=True)
    findings = list(_disagreements(everyone, ranks.world_size, run_dir))
    if findings:
        raise Refused(findings)


def _write(path: Path, text: str) -> Finding | None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        path.unlink(missing_ok=True)
        error.filename = str(path.parent)  # a full disk names no file, and the nonce's name means nothing
        return system_refused(error)
    return None


def _reads(path: Path, expected: str) -> bool:
    deadline = time.monotonic() + _NONCE_WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if path.read_text(encoding="utf-8") == expected:
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False


def _disagreements(everyone: list[dict[str, Any]], world_size: int, run_dir: str) -> list[Finding]:
    findings = []
    first = everyone[0]
    for seen in everyone:
        who, leader = (f"rank {rank['rank']} on {rank['host']}" for rank in (seen, first))
        if seen["sha256"] != first["sha256"]:
            findings.append(refusals.plans_differ(who, seen["sha256"], leader, first["sha256"]))
        if not seen["sees"]:
            findings.append(refusals.folder_not_shared(who, leader, run_dir))
        if seen["claims"] != (seen["rank"], world_size):
            findings.append(refusals.ranks_contradict(who, seen["claims"], (seen["rank"], world_size)))
    return findings
