"""Where the ranks of one launch meet before there is a process group: a store on MASTER_ADDR, MASTER_PORT.

It shows who is there and who is missing, which a process group cannot. The process group is made later over
the same port; torch shares the store's server within rank 0's process.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from crossfoot.documents import Malformed, parse, plain, value_of
from crossfoot.findings.finding import Finding, Refused
from crossfoot.output import tell
from crossfoot.rendezvous.findings import (
    first_left,
    folder_not_shared,
    rank_not_understood,
    rank_twice,
    ranks_missing,
)
from crossfoot.rendezvous.meeting_word import MeetingWord
from crossfoot.rendezvous.preflight import disagreements
from crossfoot.rendezvous.rank_info import RankInfo, without_fixes
from crossfoot.written.launch.host_names import LONGEST_HOST, is_host_name

PATIENCE_SECONDS = 300.0
"""How long ranks wait for one another at the start: nodes boot and load libraries at different speeds."""
_SAY_AFTER_SECONDS = 20.0
_FAREWELL_SECONDS = 10.0
BLIND_SECONDS = 10.0
"""A network file system may show a new file late."""
_STOPPED = "stopped"

Read = TypeVar("Read")


class RefusedTogether(Refused):
    """Refused for the same findings on every rank: rank 0 says them, the others need not."""


class Rendezvous:
    """The meeting point of `world_size` ranks, as rank `rank` sees it. Everything here is text, from every
    rank to every rank; each call is one round, and all ranks make the same calls.

    word: what the texts are sealed with. run_dir: where ranks on other machines look for it, for people.
    """

    def __init__(
        self, store: Any, rank: int, world_size: int, point: str, word: MeetingWord, run_dir: str = ""
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.point = point
        self._store = store
        self._word = word
        self._run_dir = run_dir
        self._rounds = 0

    def preflight(
        self, mine: RankInfo, patience_seconds: float | None = None
    ) -> tuple[tuple[RankInfo, ...], tuple[Finding, ...]]:
        """Every rank's RankInfo, compared. Returns them in rank order, and the warnings.

        Raises RefusedTogether (the same on all ranks), or Refused for ranks that did not come.
        """
        texts = self._round(mine.to_json(), patience_seconds or PATIENCE_SECONDS)
        rank_infos = tuple(self.read(text, RankInfo) for text in texts)
        found = disagreements(rank_infos)
        self.refuse_together([finding for finding in found if finding.counts_as == "error"])
        return rank_infos, found

    def read(self, text: str, kind: type[Read]) -> Read:
        """What another rank said, by its type. Raises RefusedTogether, as all ranks do who hear it."""
        try:
            return value_of(kind, parse(text))
        except Malformed as error:
            self.refuse_together([rank_not_understood(str(error))])
            raise AssertionError from error  # refuse_together has raised

    def greet(self, patience_seconds: float) -> None:
        """The first round: who is here. Afterwards all have the word."""
        me = {"rank": self.rank, "host": socket.gethostname(), "pid": os.getpid()}
        self._round(json.dumps(me), patience_seconds)

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
        mine = json.dumps(plain(Findings(tuple(without_fixes(refused)))))
        texts = self._round(mine, PATIENCE_SECONDS + seconds)
        told = [finding for text in texts for finding in self.read(text, Findings).there]
        self.refuse_together(list(dict.fromkeys(told)))

    def refuse_together(self, findings: Sequence[Finding]) -> None:
        """Raise RefusedTogether when there are findings: equal on all ranks. Rank 0, which holds the store,
        leaves last.
        """
        if not findings:
            return
        done = [f"{self._rounds}/done/{rank}" for rank in range(self.world_size)]
        self._store.set(done[self.rank], "")
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while self.rank == 0 and time.monotonic() < deadline and not self._store.check(done):
            time.sleep(0.02)
        raise RefusedTogether(findings)

    def _round(self, text: str, patience_seconds: float) -> list[str]:
        """One text of every rank, in rank order. Raises Refused when a rank is missing or comes twice, or
        when the meeting point is gone.
        """
        with staying(self.rank, self.point):
            return self._gather(text, patience_seconds)

    def _gather(self, text: str, patience_seconds: float) -> list[str]:
        self._rounds += 1
        head = str(self._rounds)
        self._claim_rank(head, text)
        self._claim_size(head)
        began, said = time.monotonic(), self.rank != 0
        while (texts := self._all(head)) is None:
            if self._read(f"{head}/contradiction") is not None:
                time.sleep(1.0)  # for those who are on their way
                return list(self._here(head).values())
            waited = time.monotonic() - began
            if waited > patience_seconds:
                self._refuse_missing(head, patience_seconds)
            self._refuse_blind(head, waited)
            if waited > _SAY_AFTER_SECONDS and not said:
                said = True
                absent = [str(rank) for rank in self._absent(head)]
                tell(f"waiting for rank {', '.join(absent[:8])} of {self.world_size}")
            time.sleep(0.02 if waited < 2 else 0.2)
        return texts

    def _all(self, head: str) -> list[str] | None:
        """What every rank has said in this round; None as long as one has not."""
        keys = [f"{head}/{rank}" for rank in range(self.world_size)]
        if not self._store.check(keys):
            return None
        found = [self._word.opened(*one) for one in zip(keys, self._store.multi_get(keys), strict=True)]
        texts = [text for text in found if text is not None]
        return texts if len(texts) == len(keys) else None

    def _here(self, head: str) -> dict[int, str]:
        """What ranks have said in this round so far, by rank. A stranger's text is none."""
        found = ((rank, self._read(f"{head}/{rank}")) for rank in range(self.world_size))
        return {rank: text for rank, text in found if text is not None}

    def _absent(self, head: str) -> list[int]:
        here = self._here(head)
        return [rank for rank in range(self.world_size) if rank not in here]

    def _read(self, key: str) -> str | None:
        """What a rank of this start has written there."""
        return self._word.opened(key, self._store.get(key)) if self._store.check([key]) else None

    def _write_first(self, key: str, text: str) -> str:
        """Write there if no rank has; what stands there then. What a stranger wrote is written over."""
        mine = self._word.sealed(key, text)
        found = self._store.compare_set(key, "", mine)
        if self._word.opened(key, found) is None:
            self._store.set(key, mine)
            found = mine.encode()
        return "" if found == mine.encode() else self._word.opened(key, found) or ""

    def _claim_rank(self, head: str, text: str) -> None:
        """The second process that comes as one rank is refused, with who was first."""
        if first := self._write_first(f"{head}/{self.rank}", text):
            raise Refused(rank_twice([self.rank], [_who(first), _who(text)]))

    def _claim_size(self, head: str) -> None:
        """Ranks that were told another number of ranks must not wait for those who are none."""
        said = self._write_first(f"{head}/size", str(self.world_size))
        if said and said != str(self.world_size):
            self._write_first(f"{head}/contradiction", "sizes differ")

    def _refuse_missing(self, head: str, patience_seconds: float) -> None:
        here, missing = self._here(head), self._absent(head)
        names = [_who(text) for text in here.values()]
        strange = [rank for rank in missing if self._store.check([f"{head}/{rank}"])]
        raise Refused(ranks_missing(missing, self.world_size, names, self.point, patience_seconds, strange))

    def _refuse_blind(self, head: str, waited: float) -> None:
        """Refuse, on all ranks, for those that say they do not see the word that rank 0 wrote. Anybody can
        say so: it counts only for a rank that has said nothing else for long.
        """
        if self.rank == 0 and waited > BLIND_SECONDS:
            blind = [rank for rank in self._absent(head) if self._store.check([blind_key(rank)])]
            found = [folder_not_shared(self._blind_rank(rank), "rank 0", self._run_dir) for rank in blind]
            if blind:
                self._write_first(_STOPPED, json.dumps(plain(Findings(tuple(found)))))
                time.sleep(1.0)  # for the others to read it
        if (told := self._read(_STOPPED)) is not None:
            raise RefusedTogether(value_of(Findings, parse(told)).there)

    def _blind_rank(self, rank: int) -> str:
        """`rank 1 on node2`, where it said the name of a machine."""
        host = self._store.get(blind_key(rank))[:LONGEST_HOST].decode("ascii", "replace")
        return f"rank {rank} on {host}" if is_host_name(host) else f"rank {rank}"


@contextmanager
def staying(rank: int, point: str) -> Iterator[None]:
    """Raises Refused (CF449) when the meeting point goes away meanwhile."""
    from torch.distributed import DistError

    try:
        yield
    except DistError as error:
        who = f"rank {rank} on {socket.gethostname()}"
        raise Refused(first_left(who, point, str(error).splitlines()[0])) from error


@dataclass(frozen=True)
class Findings:
    """What a rank was refused for, as it travels."""

    there: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class _Known:
    """Who a rank is, of all that it says."""

    rank: int
    host: str
    pid: int


def _who(text: str) -> str:
    try:
        told = value_of(_Known, parse(text))
    except Malformed:
        return "a rank"
    return f"rank {told.rank} on {told.host} (process {told.pid})"


def blind_key(rank: int) -> str:
    """Where a rank says that it does not see the word of this start."""
    return f"blind/{rank}"
