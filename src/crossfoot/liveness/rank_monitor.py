"""The monitor of each rank: threads that show that this rank lives, see whether the others do, and end the
process when one is lost. The main thread could not: it waits in a collective that nobody can interrupt.

Torch-free. Nothing here takes part in a collective.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from crossfoot.findings.finding import Finding
from crossfoot.liveness.emergency_print import emergency_print, within
from crossfoot.liveness.findings import finding_of, folder_silent, nobody_waits
from crossfoot.liveness.heartbeats import Heartbeat, Phase, read_heartbeats, write_heartbeat
from crossfoot.liveness.judging import Judge, LastSeen, Verdict
from crossfoot.liveness.processes import is_there, supervisors_above
from crossfoot.liveness.stack_location import is_waiting, stack_location
from crossfoot.liveness.verdicts import read_verdict, write_verdict
from crossfoot.phrases import said_by
from crossfoot.processes import start_of, state_of, this_machine
from crossfoot.runs.run_folder import HEARTBEAT_FOLDER
from crossfoot.written.launch.host_names import as_host_name

LONGEST_PERIOD_SECONDS = 10.0
_PERIODS = 10
"""Beats within the timeout: one that is late, or read late, must not cost a run."""
_SEEKING_SECONDS = 0.5
_SEEKING_PERIODS = 5
_PRINT_SECONDS = 2.0
_FAREWELL_SECONDS = 30.0


def period_of(timeout_seconds: float) -> float:
    """Seconds from one beat to the next."""
    return min(LONGEST_PERIOD_SECONDS, timeout_seconds / _PERIODS)


class RankMonitor:
    """Watches over rank `rank` of `world_size` in one attempt at a run; used as a context manager.

    timeout_seconds: so long may a rank be silent, or all be still. on_orphaned: called once, with what there
    is to say, when the launcher that waits for this process is gone; without it the process ends with that.
    before_exit: called when the monitor is about to end the process, to clear the screen; it has two
    seconds. Both are called by a thread of the monitor's.

    The main thread says where it is: `phase` and `tick`. Ticks stand at the same places of the program on all
    ranks, so that it can be told which one came least far.
    """

    def __init__(
        self,
        run_dir: str,
        attempt: int,
        rank: int,
        world_size: int,
        timeout_seconds: float = 600.0,
        *,
        host: str | None = None,
        first_step: int = 0,
        on_orphaned: Callable[[Finding], None] | None = None,
        before_exit: Callable[[], None] | None = None,
    ) -> None:
        self._run_dir, self._attempt, self.rank, self._world_size = run_dir, attempt, rank, world_size
        self._timeout, self._period = timeout_seconds, period_of(timeout_seconds)
        self.host = as_host_name(host or socket.gethostname())
        self.on_orphaned, self.before_exit = on_orphaned, before_exit
        self._machine, self._started = this_machine(), start_of(os.getpid())
        self._judge = Judge(attempt, rank, world_size, timeout_seconds, self._period, self._machine)
        self._place: tuple[Phase, int, int] = ("starting", first_step, 0)
        self._moved: tuple[tuple[Phase, int, int], float] = (self._place, time.monotonic())
        self._beats = self._rounds = 0
        self._trouble = ""
        self._others: dict[int, Heartbeat] = {}
        self._main = threading.get_ident()
        self._supervisors = supervisors_above()
        self._lock = threading.Lock()
        self._wake, self._judged = threading.Event(), threading.Event()
        self._closing, self._over = threading.Event(), threading.Event()
        self._seeking: str | None = None
        self._speaker: str | None = None
        self._found: tuple[Finding, Verdict | None] | None = None
        self._exit_at: float | None = None
        self._heart = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        self._guard = threading.Thread(target=self._stand_guard, name="rank_monitor", daemon=True)

    def __enter__(self) -> RankMonitor:
        with suppress(OSError):  # the heart says it, if it lasts
            os.makedirs(Path(self._run_dir, HEARTBEAT_FOLDER), exist_ok=True)
            write_heartbeat(self._run_dir, self._state())
        self._heart.start()
        self._guard.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def phase(self, name: Phase, step: int | None = None) -> None:
        """The main thread begins something else."""
        self._place = (name, self._place[1] if step is None else step, 0)

    def tick(self, step: int | None = None) -> None:
        """The main thread has done something (a forward, a step). Costs nothing: no lock, no file."""
        phase, now, progress = self._place
        self._place = (phase, now, progress + 1) if step is None or step == now else (phase, step, 1)

    def who_is_lost(self, said: str) -> Finding:
        """Called by the main thread when a collective raised because a connection broke: which rank is it?

        said: torch's words. Waits a few periods at most: a process of this machine that is gone shows at
        once, another one by its silence. From here on the caller says the finding (`speaks`: whether it is
        this rank that does on its node) and ends with exit code 1; the process is ended if it does not. Does
        not return when the monitor prints it already.
        """
        self._take_over()
        self._seeking = said
        self._wake.set()
        if not self._judged.wait(_SEEKING_PERIODS * self._period + _PRINT_SECONDS):
            self._judged_now(write_verdict(self._run_dir, self._judge.verdict("broken", (), said=said)))
        assert self._found is not None
        return self._found[0]

    def failed(self, said: str) -> None:
        """Called by the main thread when it fails on its own: the others are told at once, and end."""
        self._take_over()
        phase, step, progress = self._place
        own = LastSeen(self.rank, self.host, os.getpid(), phase, step, progress)
        verdict = replace(self._judge.verdict("failed", [self.rank], said=said), lost=(own,))
        self._judged_now(write_verdict(self._run_dir, verdict))

    @property
    def speaks(self) -> bool:
        """Whether this rank says what was found: the lowest one of its host that is not lost."""
        lost = self._lost_ranks()
        here = [
            rank
            for rank, beat in self._others.items()
            if beat.host == self.host and rank not in lost and beat.phase != "ended"
        ]
        return self.rank in lost or self.rank < min(here, default=self._world_size)

    def close(self) -> None:
        """This rank ends in order. Does not return when the process is being ended for a lost rank."""
        if self._speaker == "rank_monitor":
            self._wait_for_the_end()
        self._place = ("ended", self._place[1], self._place[2])
        if self._heart.is_alive():
            self._closing.set()
            self._wake.set()
            self._heart.join()  # in a folder that does not answer, until the guard ends the process
            with suppress(OSError):
                write_heartbeat(self._run_dir, self._state())
        self._over.set()

    # The heart: the thread that reads and writes the run folder.

    def _live(self) -> None:
        while not self._closing.is_set():
            try:
                self._round()
            except OSError as error:
                self._trouble = said_by(error)
            except Exception:
                self._trouble = traceback.format_exc(limit=-1).strip().replace("\n", " | ")
            else:
                self._rounds += 1
                self._trouble = ""
            # after the look, so that nothing that was set meanwhile is lost
            self._wake.wait(self._period if self._seeking is None else min(self._period, _SEEKING_SECONDS))
            self._wake.clear()

    def _round(self) -> None:
        """Read first: a process that was stopped for long must not write before it knows what has become of
        the run.
        """
        beats = read_heartbeats(self._run_dir)
        newest = max((beat.attempt for beat in beats), default=0)
        if newest > self._attempt:
            why = f"attempt {newest} has begun, and this process belongs to attempt {self._attempt}"
            self._end(nobody_waits(self._who, why, self._run_dir), None, says=True)
            return
        others = [beat for beat in beats if beat.rank != self.rank and beat.attempt == self._attempt]
        self._others = {beat.rank: beat for beat in others}
        verdict = read_verdict(self._run_dir, self._attempt)
        if verdict is not None:
            self._judged_now(verdict)
        mine = self._state()
        found = self._judge.look(time.monotonic(), [*others, mine], is_broken=self._seeking is not None)
        if found is not None and verdict is None:
            if self._seeking is not None:
                found = replace(found, said=f"torch.distributed said to rank {self.rank}: {self._seeking}")
            self._judged_now(write_verdict(self._run_dir, found))
        write_heartbeat(self._run_dir, mine)

    def _state(self) -> Heartbeat:
        """What this rank says of itself now."""
        place, now = self._place, time.monotonic()
        if place != self._moved[0]:
            self._moved = (place, now)
        is_still = now - self._moved[1] > self._timeout / 2 and place[0] != "ended"
        frame = sys._current_frames().get(self._main) if is_still else None
        self._beats += 1
        return Heartbeat(
            attempt=self._attempt,
            rank=self.rank,
            host=self.host,
            pid=os.getpid(),
            phase=place[0],
            step=place[1],
            progress=place[2],
            beats=self._beats,
            beat_seconds=time.time(),
            period_seconds=self._period,
            where=stack_location(frame),
            is_waiting=is_waiting(frame),
            machine=self._machine,
            started=self._started,
        )

    # The guard: the thread that touches no file of the run folder.

    def _stand_guard(self) -> None:
        tick = min(1.0, self._period)
        silent, rounds, last = 0.0, -1, time.monotonic()
        while not self._over.wait(tick) or self._exit_at is not None:
            if self._over.is_set():
                time.sleep(tick)
            now = time.monotonic()
            silent = 0.0 if rounds != self._rounds else silent + min(now - last, 2 * tick)
            rounds, last = self._rounds, now
            if self._exit_at is not None and now >= self._exit_at:
                self._end_late(silent)
            if silent >= self._timeout and self._world_size > 1:
                self._end(folder_silent(self._who, self._run_dir, silent, self._trouble), None)
            if self._supervisors and not all(is_there(above) for above in self._supervisors):
                self._orphaned()

    def _orphaned(self) -> None:
        gone = [above for above in self._supervisors if not is_there(above)]
        self._supervisors = ()
        if self._closing.is_set() or self._speaker is not None:
            return
        why = f"its launcher, {gone[0].name} (process {gone[0].pid}), is gone"
        finding = nobody_waits(self._who, why, self._run_dir)
        if self.on_orphaned is not None:
            self.on_orphaned(finding)
            return
        self._end(finding, None)

    # The end.

    @property
    def _who(self) -> str:
        return f"rank {self.rank} on {self.host}"

    def _lost_ranks(self) -> frozenset[int]:
        verdict = self._found[1] if self._found is not None else None
        return verdict.lost_ranks if verdict is not None else frozenset()

    def _take_over(self) -> None:
        """From now on the main thread speaks, and is ended if it stays too long."""
        with self._lock:
            if self._speaker is None:
                self._speaker = "main"
        if self._speaker == "rank_monitor":
            self._wait_for_the_end()
        self._exit_at = time.monotonic() + _FAREWELL_SECONDS + 2 * _SEEKING_PERIODS * self._period

    def _judged_now(self, verdict: Verdict) -> None:
        with self._lock:
            if self._found is None:
                self._found = (finding_of(verdict, self._run_dir), verdict)
        if self._speaker == "main":
            self._judged.set()
            return
        self._end(self._found[0], verdict)

    def _end(self, finding: Finding, verdict: Verdict | None, says: bool = False) -> None:
        """Say it, once per node or in any case, and end the process: the lowest rank that lives at once, the
        others a little later, so that a launcher that ends all with the first one does not cut it short.
        """
        with self._lock:
            if self._speaker is not None:
                return
            self._speaker = "rank_monitor"
            self._found = self._found or (finding, verdict)
        first = min(set(range(self._world_size)) - self._lost_ranks(), default=self.rank)
        linger = 0.0 if first == self.rank else 2 * self._period + 1.0
        self._exit_at = time.monotonic() + 2 * _PRINT_SECONDS + linger
        if self.before_exit is not None:
            within(_PRINT_SECONDS, self.before_exit)
        if says or self.speaks:
            within(_PRINT_SECONDS, lambda: emergency_print(finding))
        self._wait_for_exit_of(first, linger)
        os._exit(1)

    def _wait_for_exit_of(self, first: int, seconds: float) -> None:
        """Wait so long at most; less where the first rank is seen to have ended."""
        deadline, beat = time.monotonic() + seconds, self._others.get(first)
        seen = beat if beat is not None and beat.machine == self._machine != "" else None
        while time.monotonic() < deadline and not (seen is not None and state_of(seen.pid) == "gone"):
            time.sleep(0.1)

    def _end_late(self, silent_seconds: float) -> None:
        """The thread that was to end the process hangs; the folder, most often."""
        if self._speaker == "main" and not self._judged.is_set():
            finding = folder_silent(self._who, self._run_dir, silent_seconds, self._trouble)
            within(_PRINT_SECONDS, lambda: emergency_print(finding))
        os._exit(1)

    def _wait_for_the_end(self) -> None:
        while True:
            time.sleep(60.0)
