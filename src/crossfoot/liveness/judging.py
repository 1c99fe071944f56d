"""Whether a rank is lost, judged by one of the others from the heartbeats that it reads.

Only changes count, on the judge's own clock: clocks of hosts differ. Time in which the judge itself did not
run does not count either, so a job that was suspended as a whole goes on when it is woken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from crossfoot.liveness.heartbeats import Heartbeat
from crossfoot.processes import State, state_of

Kind = Literal["gone", "silent", "ended", "stuck", "broken", "failed"]
_BEATS_MISSED = 2.5
"""So many periods without a beat are enough where a connection broke as well."""
_LOOKS = 2
"""A process that is gone is looked at twice: its last heartbeat may be written after the first look."""


@dataclass(frozen=True)
class LastSeen:
    """Where a rank was last seen. host is "" for one that never was. silent_seconds: since its heart was
    last seen to beat. still_seconds: since its main thread was last seen to do something. state: of its
    process, where the judge can see it.
    """

    rank: int
    host: str = ""
    pid: int = 0
    phase: str = ""
    step: int = 0
    progress: int = 0
    where: str = ""
    silent_seconds: float = 0.0
    still_seconds: float = 0.0
    state: State = ""

    @property
    def who(self) -> str:
        """`rank 1 on node2`."""
        return f"rank {self.rank} on {self.host}" if self.host else f"rank {self.rank}"


@dataclass(frozen=True)
class Verdict:
    """What is wrong with the ranks of an attempt; the first one that is written is everyone's.

    kind: a process is gone; a heart is silent; a rank ended and others wait for it; hearts beat and no main
    thread moves (lost: those that came least far, none when each waits for the others); a connection broke
    and no rank is known to be lost; a rank says of itself that it failed. by: the rank that says so. others:
    where the rest stood. seconds: how long was waited. said: what a library said.
    """

    attempt: int
    kind: Kind
    by: int
    lost: tuple[LastSeen, ...]
    others: tuple[LastSeen, ...]
    seconds: float = 0.0
    said: str = ""

    @property
    def lost_ranks(self) -> frozenset[int]:
        """The ranks that nobody expects anything of any more."""
        return frozenset() if self.kind == "stuck" else frozenset(seen.rank for seen in self.lost)

    @property
    def everyone(self) -> tuple[LastSeen, ...]:
        """All ranks, in rank order."""
        return tuple(sorted((*self.lost, *self.others), key=lambda seen: seen.rank))


@dataclass
class _Rank:
    """What the judge has seen of a rank; times are on its own clock."""

    beat: Heartbeat | None = None
    beat_at: float = 0.0
    moved_at: float = 0.0
    looks_gone: int = 0
    state: State = ""

    @property
    def is_over(self) -> bool:
        return self.beat is not None and self.beat.phase == "ended"

    @property
    def is_timed(self) -> bool:
        """Whether its main thread must move: always while it trains, elsewhere once it has said that it does
        (loading a model and writing a checkpoint take the time they take).
        """
        beat = self.beat
        return beat is not None and (beat.phase == "training" or (beat.progress > 0 and not self.is_over))


class Judge:
    """One rank's view of all `world_size` ranks, its own included."""

    def __init__(
        self,
        attempt: int,
        rank: int,
        world_size: int,
        timeout_seconds: float,
        period_seconds: float,
        machine: str = "",
        process_state: Callable[[int], State] = state_of,
    ) -> None:
        self._attempt, self._rank, self._timeout = attempt, rank, timeout_seconds
        self._period, self._machine, self._process_state = period_seconds, machine, process_state
        self._ranks = {number: _Rank() for number in range(world_size)}
        self._clock = 0.0
        self._looked: float | None = None

    def look(self, now: float, beats: Sequence[Heartbeat], is_broken: bool = False) -> Verdict | None:
        """Take in what was read just now, the own heartbeat too; the verdict, when there is one.

        now: seconds of a monotonic clock. is_broken: a connection to another rank broke, so one is sought.
        """
        if self._looked is not None:
            self._clock += min(now - self._looked, 3 * self._period)
        self._looked = now
        for beat in beats:
            if beat.attempt == self._attempt and beat.rank in self._ranks:
                self._take_in(self._ranks[beat.rank], beat)
        self._look_at_processes()
        return self._gone() or self._silent(is_broken) or self._ended(is_broken) or self._stuck()

    def last_seen(self, but: Sequence[int] = ()) -> tuple[LastSeen, ...]:
        """Where every rank was last seen, in rank order."""
        return tuple(self._last_seen_of(rank) for rank in self._ranks if rank not in but)

    def verdict(self, kind: Kind, lost: Sequence[int], seconds: float = 0.0, said: str = "") -> Verdict:
        """A verdict on some of the ranks, with where all of them were last seen."""
        seen = tuple(self._last_seen_of(rank) for rank in lost)
        return Verdict(self._attempt, kind, self._rank, seen, self.last_seen(lost), seconds, said)

    def _take_in(self, known: _Rank, beat: Heartbeat) -> None:
        before, known.beat = known.beat, beat
        if before is None or before.beats != beat.beats:
            known.beat_at = self._clock
        if before is None or before.place != beat.place:
            known.moved_at = self._clock

    def _look_at_processes(self) -> None:
        for rank, known in self._ranks.items():
            beat = known.beat
            sees = bool(self._machine) and beat is not None and beat.machine == self._machine
            known.state = ""
            if sees and beat is not None and rank != self._rank and not known.is_over:
                known.state = self._process_state(beat.pid)
            known.looks_gone = known.looks_gone + 1 if known.state == "gone" else 0

    def _others(self) -> dict[int, _Rank]:
        return {rank: known for rank, known in self._ranks.items() if rank != self._rank}

    def _gone(self) -> Verdict | None:
        others = self._others()
        if any(known.looks_gone >= _LOOKS for known in others.values()):
            return self.verdict("gone", [rank for rank, known in others.items() if known.looks_gone])
        return None

    def _silent(self, is_broken: bool) -> Verdict | None:
        patience = self._timeout
        slack = self._period  # a node that falls silent does so as a whole, within a period
        if is_broken:
            patience, slack = min(patience, _BEATS_MISSED * self._period), 0.0
        silent = {
            rank: self._clock - known.beat_at for rank, known in self._others().items() if not known.is_over
        }
        if not silent or max(silent.values()) < patience:
            return None
        lost = [rank for rank, seconds in silent.items() if seconds >= patience - slack]
        return self.verdict("silent", lost, patience)

    def _ended(self, is_broken: bool) -> Verdict | None:
        """Somebody ended in order while this rank still trains: what it waits for will not come."""
        own = self._ranks[self._rank].beat
        if own is None or own.phase in ("closing", "ended"):
            return None
        patience = _LOOKS * self._period if is_broken else self._timeout
        over = [
            rank
            for rank, known in self._others().items()
            if known.is_over and self._clock - known.moved_at >= patience
        ]
        return self.verdict("ended", over, patience) if over else None

    def _stuck(self) -> Verdict | None:
        """No main thread moves, and none is at something that takes its time."""
        live = {rank: known for rank, known in self._ranks.items() if not known.is_over}
        if len(self._ranks) == 1 or not all(known.is_timed for known in live.values()):
            return None
        if any(self._clock - known.moved_at < self._timeout for known in live.values()):
            return None
        if any(self._clock - known.beat_at > _BEATS_MISSED * self._period for known in live.values()):
            return None  # its heart stands still too: more is known of it soon
        over = [rank for rank in self._ranks if rank not in live]
        if over:
            return self.verdict("ended", over, self._timeout)
        beats = {rank: known.beat for rank, known in live.items() if known.beat is not None}
        least = [rank for rank, beat in beats.items() if beat.place == min(at.place for at in beats.values())]
        if all(beat.is_waiting for beat in beats.values()):
            least = []  # a collective that the cut let some of them through: whoever waits is not to blame
        elif len(least) == len(beats):
            least = [rank for rank, beat in beats.items() if not beat.is_waiting]
        is_told_apart = len({beat.phase for beat in beats.values()}) == 1 and len(least) < len(beats)
        return self.verdict("stuck", least if is_told_apart else [], self._timeout)

    def _last_seen_of(self, rank: int) -> LastSeen:
        known = self._ranks[rank]
        beat = known.beat
        silent, still = self._clock - known.beat_at, self._clock - known.moved_at
        if beat is None:
            return LastSeen(rank, silent_seconds=silent, still_seconds=still)
        return LastSeen(
            rank=rank,
            host=beat.host,
            pid=beat.pid,
            phase=beat.phase,
            step=beat.step,
            progress=beat.progress,
            where=beat.where,
            silent_seconds=0.0 if rank == self._rank else silent,
            still_seconds=still,
            state=known.state,
        )
