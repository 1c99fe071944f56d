"""All ranks together: join the process group, agree on the plan, exchange small things on the CPU."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from crossfoot.documents import MOST_BYTES, parse, plain, value_of
from crossfoot.environment.master_address import is_held_by_launcher
from crossfoot.environment.world import World
from crossfoot.findings.finding import Finding, Refused
from crossfoot.output import tell
from crossfoot.phrases import first_line
from crossfoot.rendezvous.devices import choose_index
from crossfoot.rendezvous.findings import device_beyond, plans_differ, ranks_apart, ranks_contradict
from crossfoot.rendezvous.meeting_point import meet
from crossfoot.rendezvous.rendezvous import PATIENCE_SECONDS, RefusedTogether

T = TypeVar("T")
MOST_EXCHANGED_BYTES = MOST_BYTES


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

    def tell(self, line: str) -> None:
        """On stderr, of rank 0 only."""
        if self.is_first:
            tell(line)

    def gather(self, thing: T, kind: Any) -> list[T]:
        """One thing per rank, on every rank, in rank order. For start and end only. It travels as JSON, and
        is read by its type, `kind`: what another rank says is a value, and never code.

        Raises ValueError for what is too large, and Malformed for what another rank should not have said.
        """
        if self._group is None:
            return [thing]
        mine = np.frombuffer(json.dumps(plain(thing), allow_nan=False).encode(), dtype=np.uint8)
        sizes = self.gather_row(np.array([len(mine)], dtype=np.int64))[:, 0].tolist()
        if max(sizes) > MOST_EXCHANGED_BYTES:
            raise ValueError(f"a rank has {max(sizes):,} bytes to say")
        padded = np.zeros(max(sizes), dtype=np.uint8)
        padded[: len(mine)] = mine
        rows = self.gather_row(padded)
        return [value_of(kind, parse(row[:size].tobytes())) for row, size in zip(rows, sizes, strict=True)]

    def gather_row(self, row: np.ndarray) -> np.ndarray:
        """Numbers [width] of every rank -> [world_size, width]."""
        return self.begin_gather_row(row)()

    def begin_gather_row(self, row: np.ndarray) -> Callable[[], np.ndarray]:
        """The same, without waiting for the others: what is returned waits for them, and has the rows. Begun
        and waited for in the same order on all ranks.
        """
        if self._group is None:
            return lambda: row[None, :]
        mine = torch.from_numpy(row)
        rows = torch.empty((self.world_size, *mine.shape), dtype=mine.dtype)
        work = dist.all_gather(list(rows.unbind()), mine, group=self._group, async_op=True)

        def gathered() -> np.ndarray:
            work.wait()
            everyone: np.ndarray = rows.numpy()
            return everyone

        return gathered

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


def join(
    world: World, engine_kind: str, environ: Mapping[str, str], timeout_seconds: float | None = None
) -> Ranks:
    """Join DeepSpeed's process group, with a gloo group beside it; a lone accelerate process joins none.

    timeout_seconds: faults.timeout_seconds. A collective gives up after twice that, and not before the
    libraries' own time: the rank monitor, who knows which rank is missing, comes first.

    Raises Refused when the meeting point cannot be had, when this rank has no device, or when ranks that met
    cannot talk to each other.
    """
    if engine_kind == "accelerate":
        if "RANK" in environ:  # accelerate makes a group of this one process then, and asks where it meets
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
            os.environ.setdefault("MASTER_PORT", "0")  # any
        return Ranks(0, 1, None)
    meet(world, environ, os.getcwd())  # most often they have met before
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.constants import default_pg_timeout as deepspeeds

    # Only an optimisation of CPU collectives, and one that compiles C++ for minutes at the first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    accelerator = get_accelerator()
    backend = "gloo"
    if accelerator.device_name() != "cpu":
        index = choose_index(accelerator.device_count(), world.local_rank)
        if index is None:
            host, visible = socket.gethostname(), accelerator.device_count()
            raise Refused(device_beyond(world.rank, host, world.local_rank, world.local_world_size, visible))
        accelerator.set_device(index)
        backend = accelerator.communication_backend_name()
    timeout = max(deepspeeds, timedelta(seconds=2 * (timeout_seconds or 0.0)))
    try:
        _join_again(environ, backend, timeout)
        deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)
        group = dist.group.WORLD if backend == "gloo" else _gloo_group(timeout)
    except RuntimeError as error:
        if is_lost_rank(error) and "connectfullmesh" not in first_line(error).lower():
            raise
        raise _apart(world, error) from error
    return Ranks(dist.get_rank(), dist.get_world_size(), group)


def join_on_cpu(
    world: World, environ: Mapping[str, str], folder: str, timeout: timedelta = default_pg_timeout
) -> Ranks:
    """Join a gloo group, without DeepSpeed: for ranks that compute each their own. folder: on storage that
    all ranks see. timeout: of waiting for the slowest. Raises Refused as `join`.
    """
    if world.world_size == 1:
        return Ranks(0, 1, None)
    meet(world, environ, folder)
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        _join_under(f"own-{attempt}", "gloo", timeout, world.rank, world.world_size)
    except RuntimeError as error:
        raise _apart(world, error) from error
    return Ranks(world.rank, world.world_size, dist.group.WORLD)


def _apart(world: World, error: RuntimeError) -> Refused:
    """That ranks have met and cannot talk to each other."""
    return Refused(ranks_apart(f"rank {world.rank} on {socket.gethostname()}", first_line(error)))


def _join_under(name: str, backend: str, timeout: timedelta, rank: int = -1, world_size: int = -1) -> None:
    """Join a group whose addresses stand under a name of their own. rank, world_size: -1: of the
    environment.
    """
    store, rank, world_size = next(dist.rendezvous("env://", rank, world_size, timeout=timeout))
    own = dist.PrefixStore(name, store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world_size, timeout=timeout)


def _join_again(environ: Mapping[str, str], backend: str, timeout: timedelta) -> None:
    """Ranks that torchrun has started again meet under names of their own: it may keep the store of the start
    before, in which the addresses of ranks that are gone still stand (torch 2.13, static rendezvous).
    """
    restarts = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or not is_held_by_launcher(environ):
        return
    _join_under(f"restart-{restarts}", backend, timeout)


def _gloo_group(timeout: timedelta) -> dist.ProcessGroup:
    """All ranks on the CPU. A first group, which connects them all, gives up within minutes; the one that is
    kept waits as long as DeepSpeed's, for a rank that loads or saves.
    """
    probe = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_SECONDS))
    dist.destroy_process_group(probe)
    return dist.new_group(backend="gloo", timeout=max(timeout, default_pg_timeout))


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


def agree(ranks: Ranks, world: World, plan_sha256: str) -> None:
    """Every rank holds the same plan, and is the rank that its launcher said; or nobody starts.

    What can make plans differ was compared in the preflight check; this is the last word. Raises the same
    Refused on all ranks.
    """
    mine = _Claim(ranks.rank, socket.gethostname(), (world.rank, world.world_size), plan_sha256)
    findings = list(_disagreements(ranks.gather(mine, _Claim), ranks.world_size))
    if findings:
        raise RefusedTogether(findings)


@dataclass(frozen=True)
class _Claim:
    """What a rank holds itself to be. rank: torch's. told: rank and world size of its launcher."""

    rank: int
    host: str
    told: tuple[int, int]
    plan_sha256: str

    @property
    def who(self) -> str:
        """`rank 1 on node2`."""
        return f"rank {self.rank} on {self.host}"


def _disagreements(everyone: list[_Claim], world_size: int) -> list[Finding]:
    findings: list[Finding] = []
    first = everyone[0]
    for seen in everyone:
        if seen.plan_sha256 != first.plan_sha256:
            findings.append(plans_differ(seen.who, seen.plan_sha256, first.who, first.plan_sha256))
        if seen.told != (seen.rank, world_size):
            findings.append(ranks_contradict(seen.who, seen.told, (seen.rank, world_size)))
    return findings
