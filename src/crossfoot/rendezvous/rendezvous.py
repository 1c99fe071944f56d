"""Where the ranks of one launch meet before there is a process group: a store on MASTER_ADDR, MASTER_PORT.

It shows who is there and who is missing, which a process group cannot. The process group is made later over
the same port; torch shares the store's server within rank 0's process.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from crossfoot.environment.master_address import (
    is_held_by_launcher,
    is_own_address,
    look_at_meeting_point,
    wait_for_listener,
)
from crossfoot.environment.world import World
from crossfoot.findings.finding import Finding, Refused
from crossfoot.output import tell
from crossfoot.rendezvous.findings import first_left, first_unreachable, rank_twice, ranks_missing
from crossfoot.rendezvous.preflight import disagreements
from crossfoot.rendezvous.rank_info import RankInfo, read_finding, read_rank_info

PATIENCE_SECONDS = 300.0
"""How long ranks wait for one another at the start: nodes boot and load libraries at different speeds."""
_CONNECT_SECONDS = 30.0
_SAY_AFTER_SECONDS = 20.0
_FAREWELL_SECONDS = 10.0
_PREFIX = "crossfoot"


class RefusedTogether(Refused):
    """Refused for the same findings on every rank: rank 0 says them, the others need not."""


class Rendezvous:
    """The meeting point of `world_size` ranks, as rank `rank` sees it. Everything here is text, from every
    rank to every rank; each call is one round, and all ranks make the same calls.
    """

    def __init__(self, store: Any, rank: int, world_size: int, point: str) -> None:
        self.rank = rank
        self.world_size = world_size
        self.point = point
        self._store = store
        self._rounds = 0

    def preflight(
        self, mine: RankInfo, patience_seconds: float | None = None
    ) -> tuple[tuple[RankInfo, ...], tuple[Finding, ...]]:
        """Every rank's RankInfo, compared. Returns them in rank order, and the warnings.

        Raises RefusedTogether (the same on all ranks), or Refused for ranks that did not come.
        """
        texts = self._round(mine.to_json(), patience_seconds or PATIENCE_SECONDS)
        rank_infos = tuple(read_rank_info(text) for text in texts)
        found = disagreements(rank_infos)
        self.refuse_together([finding for finding in found if finding.severity == "error"])
        return rank_infos, found

    def exchange(self, text: str) -> list[str]:
        """One text of every rank, in rank order, on every rank."""
        return self._round(text, PATIENCE_SECONDS)

    def first_says(self, look: Callable[[], str], seconds: float = 0.0) -> str:
        """What `look` gives on rank 0, on every rank; the others wait so many seconds more than usual.

        RefusedTogether for what it refuses.
        """
        refused: Sequence[Finding] = ()
        word = ""
        if self.rank == 0:
            try:
                word = look()
            except Refused as refusal:
                refused = refusal.findings
        self.share_refusal(refused, seconds)
        return self.exchange(word)[0]

    def share_refusal(self, refused: Sequence[Finding], seconds: float = 0.0) -> None:
        """Every rank hands in what it was refused for, most often nothing. RefusedTogether if any was.

        seconds: to wait for a rank beyond the usual.
        """
        mine = json.dumps([asdict(finding) for finding in refused])
        texts = self._round(mine, PATIENCE_SECONDS + seconds)
        told = [read_finding(finding) for text in texts for finding in json.loads(text)]
        self.refuse_together(list(dict.fromkeys(told)))

    def refuse_together(self, findings: Sequence[Finding]) -> None:
        """Raise RefusedTogether when there are findings: equal on all ranks. Rank 0, which holds the store,
        leaves last.
        """
        if not findings:
            return
        done = f"{self._rounds}/done"
        self._store.add(done, 1)
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while self.rank == 0 and time.monotonic() < deadline and self._store.add(done, 0) < self.world_size:
            time.sleep(0.02)
        raise RefusedTogether(findings)

    def _round(self, text: str, patience_seconds: float) -> list[str]:
        """One text of every rank, in rank order. Raises Refused when a rank is missing or comes twice, or
        when the meeting point is gone.
        """
        from torch.distributed import DistError

        try:
            return self._gather(text, patience_seconds)
        except DistError as error:
            said = str(error).splitlines()[0]
            who = f"rank {self.rank} on {socket.gethostname()}"
            raise Refused(first_left(who, self.point, said)) from error

    def _gather(self, text: str, patience_seconds: float) -> list[str]:
        self._rounds += 1
        head = str(self._rounds)
        keys = [f"{head}/{rank}" for rank in range(self.world_size)]
        self._claim_rank(head, text)
        self._store.set(keys[self.rank], text)
        if int(self._store.compare_set(f"{head}/size", "", str(self.world_size))) != self.world_size:
            self._store.set(f"{head}/contradiction", "1")
        began, said = time.monotonic(), self.rank != 0
        while not self._store.check(keys):
            if self._store.check([f"{head}/contradiction"]):
                time.sleep(1.0)  # for those who are on their way
                keys = [key for key in keys if self._store.check([key])]
                break
            waited = time.monotonic() - began
            if waited > patience_seconds:
                self._refuse_missing(keys, patience_seconds)
            if waited > _SAY_AFTER_SECONDS and not said:
                said = True
                absent = [str(rank) for rank, key in enumerate(keys) if not self._store.check([key])]
                tell(f"waiting for rank {', '.join(absent[:8])} of {self.world_size}")
            time.sleep(0.02 if waited < 2 else 0.2)
        return [value.decode() for value in self._store.multi_get(keys)]

    def _claim_rank(self, head: str, text: str) -> None:
        """The second process that comes as one rank is refused, with who was first."""
        key = f"{head}/{self.rank}"
        if self._store.add(f"{key}/claims", 1) == 1:
            return
        notes = [_who(text)]
        if self._store.check([key]):
            notes.insert(0, _who(self._store.get(key).decode()))
        raise Refused(rank_twice([self.rank], notes))

    def _refuse_missing(self, keys: Sequence[str], patience_seconds: float) -> None:
        here = {rank: self._store.get(key) for rank, key in enumerate(keys) if self._store.check([key])}
        missing = [rank for rank in range(self.world_size) if rank not in here]
        names = [_who(text.decode()) for text in here.values()]
        raise Refused(ranks_missing(missing, self.world_size, names, self.point, patience_seconds))


def _who(text: str) -> str:
    told = json.loads(text)
    if not isinstance(told, dict):
        return "a rank"
    return f"rank {told['rank']} on {told['host']} (process {told['pid']})"


_met: dict[tuple[str, ...], Rendezvous] = {}


def meet(world: World, environ: Mapping[str, str], patience_seconds: float | None = None) -> Rendezvous:
    """Open the meeting point, or come to it; once in the life of a process.

    Raises Refused: CF417, CF433, CF434 before torch is imported, CF448 when nobody is there.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    known = _met.get(tuple(environ.get(name, "") for name in names))
    if known is not None:
        return known
    told = look_at_meeting_point(world, environ)
    os.environ.update(told)
    # What torch's C++ would print of a place that cannot be reached is pages long, and said by CF448.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR" if is_own_address(told["MASTER_ADDR"]) else "FATAL")
    store = _store(world, told, environ, patience_seconds or PATIENCE_SECONDS)
    point = f"{told['MASTER_ADDR']}:{told['MASTER_PORT']}"
    rendezvous = Rendezvous(store, world.rank, world.world_size, point)
    _met[tuple(told[name] for name in names)] = rendezvous
    return rendezvous


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
