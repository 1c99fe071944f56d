"""The way to the meeting point: torch's store on MASTER_ADDR, MASTER_PORT, and the word of this start."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from crossfoot.environment.master_address import (
    is_held_by_launcher,
    is_own_address,
    look_at_meeting_point,
    wait_for_listener,
)
from crossfoot.environment.world import World
from crossfoot.findings.finding import Refused
from crossfoot.phrases import counted
from crossfoot.rendezvous.findings import (
    first_left,
    first_unreachable,
    folder_not_shared,
    rank_twice,
    worlds_differ,
)
from crossfoot.rendezvous.meeting_word import MeetingWord, WordFile, find_word, lonely_word
from crossfoot.rendezvous.rendezvous import (
    BLIND_SECONDS,
    PATIENCE_SECONDS,
    RefusedTogether,
    Rendezvous,
    blind_key,
    staying,
)

_CONNECT_SECONDS = 30.0
_PREFIX = "crossfoot"
_WORD, _GONE = "word", "gone"
_LONGEST_ID = 64

_met: dict[tuple[str, ...], Rendezvous] = {}


def meet(
    world: World, environ: Mapping[str, str], run_dir: str, patience_seconds: float | None = None
) -> Rendezvous:
    """Open the meeting point, or come to it; once in the life of a process.

    run_dir: of the run, on storage that every rank sees: the word by which ranks know each other lies there.

    Raises Refused: CF417, CF433, CF434 before torch is imported, CF448 when nobody is there, CF421.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    known = _met.get(tuple(environ.get(name, "") for name in names))
    if known is not None:
        return known
    told = look_at_meeting_point(world, environ)
    os.environ.update(told)
    # What torch's C++ would print of a place that cannot be reached is pages long, and said by CF448.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR" if is_own_address(told["MASTER_ADDR"]) else "FATAL")
    patience = patience_seconds or PATIENCE_SECONDS
    store = _store(world, told, environ, patience)
    point = f"{told['MASTER_ADDR']}:{told['MASTER_PORT']}"
    rendezvous = introduce(store, world.rank, world.world_size, point, run_dir, patience)
    _met[tuple(told[name] for name in names)] = rendezvous
    return rendezvous


def introduce(
    store: Any, rank: int, world_size: int, point: str, run_dir: str, patience_seconds: float
) -> Rendezvous:
    """Rank 0 hands the word out, the others find it; all have it when this returns. Raises Refused: ranks
    that do not come, or do not see the word (CF421).
    """
    if world_size == 1:
        return Rendezvous(store, rank, world_size, point, lonely_word(), run_dir)
    if rank == 0:
        with WordFile(run_dir) as file:
            rendezvous = Rendezvous(store, rank, world_size, point, MeetingWord(file.word), run_dir)
            store.set(_WORD, file.id)
            rendezvous.greet(patience_seconds)
            store.set(_WORD, _GONE)
        return rendezvous
    with staying(rank, point):
        word = _find_word(store, rank, world_size, point, run_dir, patience_seconds)
    rendezvous = Rendezvous(store, rank, world_size, point, MeetingWord(word), run_dir)
    rendezvous.greet(patience_seconds)
    return rendezvous


def _find_word(
    store: Any, rank: int, world_size: int, point: str, run_dir: str, patience_seconds: float
) -> bytes:
    """The word of rank 0. Raises Refused: it is nowhere to be seen, or all have met already."""
    began, told_at = time.monotonic(), 0.0
    who = f"rank {rank} on {socket.gethostname()}"
    while True:
        now = time.monotonic()
        id = store.get(_WORD)[:_LONGEST_ID].decode("utf-8", "replace") if store.check([_WORD]) else ""
        if id == _GONE and store.check([f"1/{rank}"]):
            raise Refused(rank_twice([rank], [f"{who} (process {os.getpid()}) came last"]))
        if id == _GONE:
            told = f"{who} was told {counted(world_size, 'rank')}, and the others have met without it"
            raise Refused(worlds_differ([told]))
        if id and (word := find_word(run_dir, id)) is not None:
            return word
        told_at = told_at or (now if id else 0.0)
        if told_at and now - told_at > BLIND_SECONDS:
            store.set(blind_key(rank), socket.gethostname())
            raise RefusedTogether([folder_not_shared(who, "rank 0", run_dir)])
        if now - began > patience_seconds:
            raise Refused(first_left(who, point, "rank 0 never said where the word of this start lies"))
        time.sleep(0.02 if now - began < 2 else 0.2)


def _store(world: World, told: Mapping[str, str], environ: Mapping[str, str], patience_seconds: float) -> Any:
    """torch's store: rank 0 holds it, unless torchrun's agent does; a restart's attempts stay apart."""
    from torch.distributed import DistError, PrefixStore, TCPStore

    address, port = told["MASTER_ADDR"], int(told["MASTER_PORT"])
    who = f"rank {world.rank} on {socket.gethostname()}"
    held = is_held_by_launcher(environ)
    is_holder = world.rank == 0 and not held
    made: list[Any] = []
    timeout = timedelta(seconds=_CONNECT_SECONDS)

    def refuse(why: str, seconds: float) -> Refused:
        notes = []
        if is_holder and not is_own_address(address):
            notes = [f"rank 0 is on this machine, and {address} is not one of its addresses"]
        point = f"{address}:{port}"
        return Refused(first_unreachable(who, point, world.world_size, why, seconds, notes))

    def make() -> None:
        try:
            made.append(
                TCPStore(
                    address,
                    port,
                    is_master=is_holder,
                    timeout=timeout,
                    wait_for_workers=False,
                    multi_tenant=True,
                )
            )
        except (DistError, RuntimeError) as error:
            made.append(error)

    if not is_holder and (why := wait_for_listener(address, port, patience_seconds)):
        raise refuse(why, patience_seconds)
    # In a thread: torch waits without end for an answer from a stranger who listens there.
    thread = threading.Thread(target=make, name="rendezvous", daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS + 5)
    if not made:
        raise refuse("whoever listens there does not answer as a rank 0 does", _CONNECT_SECONDS)
    if isinstance(made[0], Exception):
        raise refuse(str(made[0]).splitlines()[0].rstrip("."), _CONNECT_SECONDS) from made[0]
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"{_PREFIX}/{attempt}", made[0])
