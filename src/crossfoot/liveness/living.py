"""Whether the last attempt at a run still lives: nobody may go on with a run while another process does.

The folder that an attempt makes says who was first, once. It does not say that its owner is still at work;
its heartbeats do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from crossfoot.liveness.heartbeats import Heartbeat, read_heartbeats
from crossfoot.processes import start_of, state_of, this_machine
from crossfoot.runs.attempts import ATTEMPT_FILE, ENDING_FILE, attempt_numbers, attempt_path

STARTING_SECONDS = 15.0
"""From making its folder to its first heartbeat an attempt takes no longer than its ranks to see it."""
FRESH_SECONDS = 60.0
"""A folder that is older, by its own disk's clock and ours, is of no attempt that is just starting."""
_PERIODS = 1.5
_LOOK_SECONDS = 0.5


def living(run_dir: str, wait: Callable[[float], None] = time.sleep) -> tuple[Heartbeat, ...]:
    """The ranks of the newest attempt that live; () when none does.

    A process of this machine is looked up; one of another machine lives when it beats again, which is
    waited for one period and a half, and not longer than until the first beat.
    """
    beats = _newest(run_dir)
    if not beats and _is_just_starting(run_dir):
        beats = _first_beats(run_dir, wait)
    here = this_machine()
    mine = [beat for beat in beats if here and beat.machine == here]
    if lives := tuple(beat for beat in mine if _is_there(beat)):
        return lives
    others = {beat.rank: beat.beats for beat in beats if beat not in mine}
    left = _PERIODS * max((beat.period_seconds for beat in beats if beat not in mine), default=0.0)
    while others and left > 0:
        wait(_LOOK_SECONDS)
        left -= _LOOK_SECONDS
        if moved := tuple(
            beat for beat in _newest(run_dir) if others.get(beat.rank, beat.beats) != beat.beats
        ):
            return moved
    return ()


def are_gone(beats: Sequence[Heartbeat]) -> bool:
    """Whether all these ranks were on this machine, and the processes of none of them are there any more."""
    here = this_machine()
    return bool(beats) and all(here and beat.machine == here and not _is_there(beat) for beat in beats)


def _newest(run_dir: str) -> tuple[Heartbeat, ...]:
    """Of the newest attempt, without those that have ended in order."""
    newest = max(attempt_numbers(run_dir), default=0)
    return tuple(
        beat for beat in read_heartbeats(run_dir) if beat.attempt == newest and beat.phase != "ended"
    )


def _is_there(beat: Heartbeat) -> bool:
    """Whether the process that wrote this lives; not another one that has its number now."""
    started = start_of(beat.pid)
    return state_of(beat.pid) != "gone" and (started == beat.started or "" in (started, beat.started))


def _is_just_starting(run_dir: str) -> bool:
    """Whether the newest attempt has made its folder a moment ago, and nothing more."""
    newest = max(attempt_numbers(run_dir), default=0)
    if not newest or any(
        os.path.exists(attempt_path(run_dir, newest, name)) for name in (ATTEMPT_FILE, ENDING_FILE)
    ):
        return False
    try:
        return abs(time.time() - os.stat(attempt_path(run_dir, newest)).st_mtime) < FRESH_SECONDS
    except OSError:
        return False


def _first_beats(run_dir: str, wait: Callable[[float], None]) -> tuple[Heartbeat, ...]:
    left = STARTING_SECONDS
    while left > 0 and _is_just_starting(run_dir):
        if beats := _newest(run_dir):
            return beats
        wait(_LOOK_SECONDS)
        left -= _LOOK_SECONDS
    return _newest(run_dir)
