"""Looks at a run folder again and again; each look costs what is new in it."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from crossfoot.checkpoints.store import CHECKPOINTS, Checkpoint, list_checkpoints, list_unfinished
from crossfoot.findings.finding import Finding, Refused
from crossfoot.ledger.entry import StepEntry
from crossfoot.liveness.findings import finding_of
from crossfoot.liveness.heartbeats import Heartbeat, read_heartbeats
from crossfoot.liveness.living import are_gone
from crossfoot.liveness.verdicts import read_verdict
from crossfoot.receipts.receipt import receipt_of
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.attempts import (
    ENDING_FILE,
    LEDGER_FILE,
    Attempt,
    LiveLines,
    attempt_name,
    attempt_numbers,
    attempt_path,
    lock_path,
    read_attempts,
)
from crossfoot.runs.branched import Branched, read_branch
from crossfoot.runs.ending import Ending, expects_of, read_ending, read_lock
from crossfoot.runs.evaluations import EVALUATIONS_FILE, RunEvaluation, read_evaluations
from crossfoot.runs.nearby import refuse_no_run
from crossfoot.runs.noise_scale import NOISE_FILE, RunNoise, read_noise_scale
from crossfoot.runs.validations import VALIDATIONS_FILE, Validation, best_of, read_validations
from crossfoot.watching.follow import LedgerFollower, News
from crossfoot.watching.footing import Footing
from crossfoot.watching.freshness import Freshness
from crossfoot.watching.state import (
    AttemptView,
    Footed,
    RankView,
    RunState,
    SavedView,
    UnfinishedView,
    speed_of,
)

RECENT_STEPS = 240
SILENT_PERIODS = 3.0
LEAST_SILENT_SECONDS = 10.0
"""A rank is called silent after so many of its periods, and not before so many seconds."""
NO_SIGN_SECONDS, NO_SIGN_STEPS = 60.0, 10.0
"""A run without heartbeats is called silent after so many seconds, and so many of its steps."""
STARTING_SECONDS = 600.0
"""An attempt that has only claimed its folder is waited for so long."""
RECEIPT_PAUSE_SECONDS, RECEIPT_PAUSE = 3.0, 10.0
"""Between two receipts of a running run lie so many seconds, and so many times what the last one took."""


class Watcher:
    """The eyes on one run folder."""

    def __init__(self, run_dir: str) -> None:
        self.run_dir = os.path.normpath(run_dir)
        ledger = os.path.join(self.run_dir, LEDGER_FILE)
        self._tail = LedgerFollower(ledger, tail_lines=RECENT_STEPS)
        self._whole = LedgerFollower(ledger)
        self._recent: deque[StepEntry] = deque(maxlen=2 * RECENT_STEPS)
        self._footing = Footing()
        self._locks: dict[int, Mapping[str, Any]] = {}
        self._attempts: tuple[Attempt, ...] = ()
        self._fresh = Freshness()
        self._beats: tuple[Heartbeat, ...] = ()
        self._folder_seen: object = None
        self._checkpoints: tuple[Checkpoint, ...] = ()
        self._validations: tuple[Validation, ...] = ()
        self._evaluations: tuple[RunEvaluation, ...] = ()
        self._bytes_read: dict[str, int] = {}
        self._noise: RunNoise | None = None
        self._receipt: Receipt | None = None
        self._next_receipt = 0.0

    @property
    def is_caught_up(self) -> bool:
        """Whether the whole ledger has been added up."""
        return self._whole.is_caught_up

    @property
    def ledger_bytes(self) -> int:
        """Size of the ledger at the last look."""
        return self._whole.size_bytes

    def look(self, seconds: float = 0.2) -> RunState:
        """The run now. About `seconds` are spent on adding up lines that were not read yet.

        Raises Refused (CF040) when there is no run, or no longer.
        """
        refuse_no_run(self.run_dir, "watch")
        numbers = attempt_numbers(self.run_dir)
        findings: list[Finding] = []
        # Endings before lines before attempts, as in `runs.reader`: what is written later is read first, so
        # that no look finds an ending whose lines it has not seen, or a line without its attempt.
        endings = self._endings(numbers, findings)
        tail = self._tail.look()
        news = self._whole.look(seconds)
        self._read_attempts({entry.attempt for entry in (*tail.entries, *news.entries)}, findings)
        for number in [attempt.attempt for attempt in self._attempts] or numbers[:1]:
            self._read_lock(number)
        self._book(tail, news)
        return self._state(numbers, endings, findings)

    def settle(self, state: RunState) -> RunState:
        """The state of a run that has ended, with its receipt."""
        try:
            receipt = receipt_of(self.run_dir)
        except Refused as refused:
            return replace(state, footed=Footed(None, findings=refused.findings))
        by_number = {row.attempt: row for row in receipt.history}
        attempts = tuple(
            replace(view, written=by_number[view.number].steps, lost=by_number[view.number].lost)
            if view.number in by_number
            else view
            for view in state.attempts
        )
        return replace(state, attempts=attempts, footed=_footed_of(receipt))

    def _endings(self, numbers: list[int], findings: list[Finding]) -> dict[int, Ending]:
        endings = {}
        for number in numbers:
            try:
                ending = read_ending(attempt_path(self.run_dir, number, ENDING_FILE))
            except Refused as refused:
                findings.extend(refused.findings)
                continue
            if ending is not None:
                endings[number] = ending
        return endings

    def _read_attempts(self, trained: set[int], findings: list[Finding]) -> None:
        trained = trained | set(self._footing.written) | {entry.attempt for entry in self._recent}
        try:
            self._attempts = read_attempts(self.run_dir, trained)
        except Refused as refused:
            findings.extend(refused.findings)

    def _branch(self, findings: list[Finding]) -> Branched | None:
        try:
            return read_branch(self.run_dir)
        except Refused as refused:
            findings.extend(refused.findings)
            return None

    def _read_lock(self, number: int) -> None:
        """The lock of an attempt; it never changes. One that is not there yet is tried again."""
        if number in self._locks:
            return
        with suppress(Refused):
            self._locks[number] = read_lock(lock_path(self.run_dir, number))

    def _book(self, tail: News, news: News) -> None:
        if tail.is_anew:
            self._recent.clear()
        self._recent.extend(tail.entries)
        if news.is_anew:
            self._footing = Footing()
            self._receipt = None
        self._footing.add(news.entries, self._locks)
        self._footing.stand(self._attempts)

    def _state(self, numbers: list[int], endings: dict[int, Ending], findings: list[Finding]) -> RunState:
        live_lines = LiveLines(self._attempts)
        recent = tuple(entry for entry in self._recent if live_lines.counts(entry))[-RECENT_STEPS:]
        newest = self._attempts[-1].attempt if self._attempts else 1
        current = max(newest, *numbers) if numbers else 1
        lock = self._locks.get(newest) or self._locks.get(1)
        branch = self._branch(findings)
        promise = expects_of(lock) if lock is not None else None
        ending = endings.get(newest)
        asked = None if promise is None else promise.total_steps
        if ending is not None and ending.reason == "stop_after" and asked is not None:
            asked = min(ending.planned_steps, asked)
        elif ending is not None and ending.reason == "patience":
            asked = ending.step
        first_step = self._attempts[-1].first_step if self._attempts else 0
        ranks = self._ranks(current, newest)
        silent = self._silent_seconds(current, ranks)
        status = self._status(current, newest, ending, recent, ranks, silent)
        if status != "ended" and self._is_killed(current):
            status, ranks = "killed", ()
        self._look_at_checkpoints()
        if self._has_grown(VALIDATIONS_FILE):
            self._validations = read_validations(self.run_dir)
        if self._has_grown(EVALUATIONS_FILE):
            self._evaluations = read_evaluations(self.run_dir)
        if self._has_grown(NOISE_FILE):
            self._noise = read_noise_scale(self.run_dir)
        return RunState(
            run_dir=self.run_dir,
            name=promise.name if promise is not None else os.path.basename(os.path.abspath(self.run_dir)),
            sha=promise.sha if promise is not None else "",
            status=status,
            done_steps=max(recent[-1].step + 1 if recent else 0, first_step),
            asked_steps=asked,
            recent=recent,
            attempts=self._attempt_views(numbers, endings, status),
            saved=self._saved(),
            unfinished=self._unfinished(current, status),
            validation=self._validations[-1] if self._validations else None,
            best_validation=best_of(self._validations),
            evaluation=self._evaluations[-1] if self._evaluations else None,
            noise=self._noise,
            ranks=ranks if status != "ended" else (),
            ended_at=self._ended_at(newest, status, silent),
            ending=ending if current == newest or status == "ended" else None,
            silent_seconds=silent,
            footed=self._footed(asked, ending, findings, is_ended=status == "ended"),
            branch=branch,
        )

    def _status(
        self,
        current: int,
        newest: int,
        ending: Ending | None,
        recent: tuple[StepEntry, ...],
        ranks: tuple[RankView, ...],
        silent: float,
    ) -> str:
        if ending is not None and (current == newest or (silent > STARTING_SECONDS and not ranks)):
            return "ended"
        speed = speed_of(recent)
        patience = max(NO_SIGN_SECONDS, NO_SIGN_STEPS * speed.step_seconds if speed is not None else 0.0)
        has_lines = any(entry.attempt == current for entry in recent)
        if ranks:
            if all(rank.is_silent or rank.phase == "ended" for rank in ranks):
                return "silent"
            return "running" if has_lines else "starting"
        if has_lines:
            return "silent" if silent > patience else "running"
        return "silent" if silent > STARTING_SECONDS else "starting"

    def _is_killed(self, current: int) -> bool:
        """Whether the attempt ran on this machine alone, and its processes are gone."""
        beats = [beat for beat in self._beats if beat.attempt == current]
        attempt = next((one for one in self._attempts if one.attempt == current), None)
        return are_gone(beats) and (attempt is None or len(beats) == attempt.world_size)

    def _ended_at(self, newest: int, status: str, silent: float) -> str:
        """When the run ended, or gave its last sign of life, by the clock of this host."""
        seconds = self._fresh.time_of(silent)
        if status == "ended":
            with suppress(OSError):
                seconds = os.stat(attempt_path(self.run_dir, newest, ENDING_FILE)).st_mtime
        elif status != "killed":
            return ""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

    def _attempt_views(
        self, numbers: list[int], endings: dict[int, Ending], status: str
    ) -> tuple[AttemptView, ...]:
        attempts: dict[int, Attempt | None] = {attempt.attempt: attempt for attempt in self._attempts}
        if numbers and (1 in numbers and 1 not in attempts and self._footing.written[1]):
            attempts[1] = None
        current = max(numbers, default=1)
        if current not in attempts and status != "ended":
            attempts[current] = None
        last = max(attempts, default=1)
        views = []
        for number in sorted(attempts):
            verdict = None if number in endings else read_verdict(self.run_dir, number)
            if number in endings:
                how = endings[number].reason
            elif verdict is not None:
                how = "rank lost" if verdict.lost_ranks else "given up"
            else:
                how = status if number == last else "killed"
            is_known = self._whole.is_caught_up
            views.append(
                AttemptView(
                    number,
                    attempts[number],
                    how,
                    "" if verdict is None else finding_of(verdict, self.run_dir).title,
                    self._footing.written[number] if is_known else None,
                    self._footing.lost[number] if is_known else None,
                )
            )
        return tuple(views)

    def _ranks(self, current: int, newest: int) -> tuple[RankView, ...]:
        """The ranks of the attempt that runs, as far as any of them has ever beaten."""
        views = {}
        self._beats = read_heartbeats(self.run_dir)
        for beat in self._beats:
            if beat.attempt != current:
                continue
            age = self._fresh.age(("rank", current, beat.rank), beat.beats, beat.beat_seconds)
            patience = max(SILENT_PERIODS * beat.period_seconds, LEAST_SILENT_SECONDS)
            is_silent = age > patience and beat.phase != "ended"
            views[beat.rank] = RankView(
                beat.rank, beat.host, beat.phase, beat.step, age, is_silent, beat.where
            )
        if views and current == newest and self._attempts:
            for rank in range(self._attempts[-1].world_size):
                views.setdefault(rank, RankView(rank, "", "", 0, None, True))
        return tuple(views[rank] for rank in sorted(views))

    def _silent_seconds(self, current: int, ranks: tuple[RankView, ...]) -> float:
        """Since the last sign of life: a beat, a line, the start of an attempt."""
        ages = [rank.age_seconds for rank in ranks if rank.age_seconds is not None]
        for name in (LEDGER_FILE, attempt_name(current)):
            with suppress(OSError):
                found = os.stat(os.path.join(self.run_dir, name))
                ages.append(self._fresh.age(name, (found.st_size, found.st_mtime), found.st_mtime))
        return min(ages, default=0.0)

    def _look_at_checkpoints(self) -> None:
        """Their manifests are read again only when a name in their folder has changed."""
        try:
            with os.scandir(os.path.join(self.run_dir, CHECKPOINTS)) as entries:
                seen = sorted((entry.name, entry.inode()) for entry in entries)
        except OSError:
            seen = []
        if seen != self._folder_seen:
            self._folder_seen = seen
            self._checkpoints = list_checkpoints(self.run_dir) if seen else ()

    def _has_grown(self, name: str) -> bool:
        """Whether a file of lines is another one than at the last look: only then is it read again."""
        size = 0
        with suppress(OSError):
            size = os.stat(os.path.join(self.run_dir, name)).st_size
        before, self._bytes_read[name] = self._bytes_read.get(name, 0), size
        return size != before

    def _saved(self) -> SavedView | None:
        if not self._checkpoints:
            return None
        manifest = self._checkpoints[-1].manifest
        age = None
        with suppress(ValueError):
            written = datetime.fromisoformat(manifest.written.replace("Z", "+00:00"))
            age = max(0.0, (datetime.now(timezone.utc) - written).total_seconds())
        return SavedView(manifest.step, age, manifest.seconds, manifest.total_bytes)

    def _unfinished(self, current: int, status: str) -> tuple[UnfinishedView, ...]:
        if not self._folder_seen:
            return ()
        is_alive = status in ("running", "starting")
        return tuple(
            UnfinishedView(step, attempt, is_alive and attempt == current)
            for step, attempt, _ in list_unfinished(Path(self.run_dir))
        )

    def _footed(
        self, asked: int | None, ending: Ending | None, findings: list[Finding], is_ended: bool
    ) -> Footed:
        stopped = (self._whole.finding,) if self._whole.finding is not None else ()
        if findings or stopped:
            return Footed(None, findings=(*findings, *stopped))
        if not self._whole.is_caught_up or is_ended:
            return Footed(None, self._whole.share)
        if not self._footing.counted if asked is None else self._footing.foots(asked, ending):
            return Footed(True, skipped=self._footing.skipped)
        now = time.monotonic()
        if self._receipt is None or now >= self._next_receipt:
            try:
                self._receipt = receipt_of(self.run_dir)
            except Refused as refused:
                return Footed(None, findings=refused.findings)
            took = time.monotonic() - now
            self._next_receipt = now + took + max(RECEIPT_PAUSE_SECONDS, RECEIPT_PAUSE * took)
        return replace(_footed_of(self._receipt), receipt=None)


def _footed_of(receipt: Receipt) -> Footed:
    return Footed(
        receipt.foots_so_far,
        causes=receipt.causes,
        cause_count=receipt.cause_count,
        receipt=receipt,
        skipped=receipt.skipped_steps,
    )
