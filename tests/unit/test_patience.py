"""How long a judge waits, to the second: no rank is given up too early, and none too late."""

from __future__ import annotations

import pytest

from crossfoot.liveness.heartbeats import Heartbeat, Phase
from crossfoot.liveness.judging import Judge, Kind, Verdict
from crossfoot.processes import State

TIMEOUT, PERIOD = 100.0, 10.0
NEVER = 10_000


class Ranks:
    """Ranks 0 (the judge's) to 3, looked at once a second. Rank r beats until second `beats[r]` and moves
    until `moves[r]`; phases: of those that do not train.
    """

    def __init__(
        self,
        *,
        beats: dict[int, int] | None = None,
        moves: dict[int, int] | None = None,
        phases: dict[int, Phase] | None = None,
        timeout: float = TIMEOUT,
        is_broken: bool = False,
        waiting: tuple[int, ...] = (),
    ) -> None:
        self.waiting = waiting
        self.beats, self.moves, self.phases = beats or {}, moves or {}, phases or {}
        self.judge = Judge(1, 0, 4, timeout, PERIOD, "here", lambda pid: self.state)
        self.state: State = "running"
        self.is_broken = is_broken

    def at(self, second: int, now: float | None = None) -> Verdict | None:
        """What is judged of the state of this second; now: on the clock, where that is another."""
        heartbeats = [
            Heartbeat(
                attempt=1,
                rank=rank,
                host="node1",
                pid=4_700 + rank,
                phase=self.phases.get(rank, "training"),
                step=4,
                beats=1 + min(second, self.beats.get(rank, NEVER)),
                beat_seconds=1.5e9,
                period_seconds=PERIOD,
                progress=1 + min(second, self.moves.get(rank, NEVER)),
                machine="here",
                is_waiting=rank in self.waiting,
            )
            for rank in range(4)
        ]
        return self.judge.look(float(second) if now is None else now, heartbeats, self.is_broken)

    def first(self) -> tuple[int, Kind, list[int], float]:
        """The second of the first verdict, with its kind, who is lost, and how long was waited."""
        for second in range(NEVER):
            verdict = self.at(second)
            if verdict is not None:
                return second, verdict.kind, [seen.rank for seen in verdict.lost], verdict.seconds
        raise AssertionError("nobody was ever lost")


def test_a_silence_is_borne_for_the_timeout_and_ends_a_node_as_a_whole() -> None:
    assert Ranks(beats={2: 0}).first() == (100, "silent", [2], 100.0)
    # 90 seconds of silence belong to it, 89 do not
    assert Ranks(beats={1: 11, 2: 0, 3: 10}).first() == (100, "silent", [2, 3], 100.0)


def test_after_a_broken_connection_two_and_a_half_periods_are_enough_and_nobody_else_is_lost() -> None:
    assert Ranks(beats={1: 1, 2: 0}, is_broken=True).first() == (25, "silent", [2], 25.0)
    assert Ranks(beats={2: 0}, timeout=20.0, is_broken=True).first() == (20, "silent", [2], 20.0)


def test_who_ended_is_waited_for_as_long_and_after_a_broken_connection_two_periods() -> None:
    ended: dict[int, Phase] = {3: "ended"}
    assert Ranks(phases=ended, moves={3: 0}).first() == (100, "ended", [3], 100.0)
    assert Ranks(phases=ended, moves={3: 0}, is_broken=True).first() == (20, "ended", [3], 20.0)


@pytest.mark.parametrize("own", ("closing", "ended"))
def test_who_is_done_itself_waits_for_nobody(own: Phase) -> None:
    ranks = Ranks(phases={0: own, 3: "ended"}, moves={3: 0})
    assert all(ranks.at(second) is None for second in range(300))


def test_all_stand_still_for_the_timeout() -> None:
    assert Ranks(moves=dict.fromkeys(range(4), 0)).first() == (100, "stuck", [], 100.0)
    assert Ranks(moves={0: 0, 1: 7, 2: 0, 3: 0}).first() == (107, "stuck", [0, 2, 3], 100.0)


def test_who_waits_in_a_collective_is_not_to_blame() -> None:
    still, behind = dict.fromkeys(range(4), 0), {0: 0, 1: 7, 2: 7, 3: 7}
    assert Ranks(moves=still, waiting=(0, 1, 3)).first() == (100, "stuck", [2], 100.0)
    assert Ranks(moves=behind, waiting=(1, 2, 3)).first() == (107, "stuck", [0], 100.0)
    # a cut lets a collective through on some ranks: all of them wait, one of them in the one before
    assert Ranks(moves=behind, waiting=(0, 1, 2, 3)).first() == (107, "stuck", [], 100.0)


def test_who_stands_still_is_not_judged_while_a_heart_stands_still_too() -> None:
    still = dict.fromkeys(range(4), 0)
    assert Ranks(moves=still, beats={1: 75}).first() == (100, "stuck", [], 100.0)
    assert Ranks(moves=still, beats={1: 74}).first() == (174, "silent", [1], 100.0)


def test_of_a_pause_of_the_judge_three_periods_count() -> None:
    ranks = Ranks(beats={2: 0})
    assert ranks.at(0) is None
    assert ranks.at(1, now=50_000.0) is None
    assert all(ranks.at(1 + n, now=50_000.0 + n) is None for n in range(1, 70))
    assert ranks.at(71, now=50_070.0) is not None


def test_a_process_that_is_gone_is_looked_at_twice_in_a_row() -> None:
    ranks = Ranks()
    states: tuple[State, ...] = ("gone", "running", "gone")
    for second, state in enumerate(states):
        ranks.state = state
        assert ranks.at(second) is None
    verdict = ranks.at(3)
    assert verdict is not None and (verdict.kind, len(verdict.lost)) == ("gone", 3)
