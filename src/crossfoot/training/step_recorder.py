"""Between the meter and the ledger: every step's witnesses are gathered while the next step computes, and
written down by a thread of rank 0.

What is written down may be one line behind what all ranks agreed on: who drains (a checkpoint, a stop, the
end) waits for it, and for the disk. An error in the thread is raised by whoever comes to the recorder next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from crossfoot.arithmetic.layout import Layout
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.store import DataIndex
from crossfoot.ledger.book import LedgerBook
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.reconcile import PlannedStep, Reconciler
from crossfoot.ledger.skipping import Policies, stated_skip
from crossfoot.ledger.witness import WitnessRows, pack, packed_width
from crossfoot.liveness.stopping import Stop, StopRequest
from crossfoot.metering.meter import ClosedStep, Meter
from crossfoot.planning.plan import RunPlan
from crossfoot.rendezvous.ranks import Ranks


class StepPlanner:
    """What each step is planned to be, from the schedule and the index; the same on every rank."""

    def __init__(self, plan: RunPlan, index: DataIndex, layout: Layout) -> None:
        self._plan = plan
        self._index = index
        self._layout = layout

    def step(self, step: int) -> PlannedStep:
        """The slots, the rate and the trained tokens of a step, all ranks."""
        schedule = self._plan.schedule
        ids = schedule.samples(step)
        return PlannedStep(
            step=step,
            epoch=schedule.pieces(step)[0][0],
            lr=self._plan.rate.at(step),
            group_lrs=self._plan.rate.groups_at(step),
            trained_tokens=int(self._index.trained_tokens[ids].sum(dtype=np.int64)),
            slots=self._layout.slots(ids, self._index.lengths[ids]),
            samples=ids,
            sample_epochs=schedule.passes_of(step),
        )


class StepRecorder:
    """One per rank. `settle` hands in this rank's closed step and returns what all ranks agree on: go on, or
    stop. book and reconciler: rank 0's.
    """

    def __init__(
        self,
        *,
        ranks: Ranks,
        meter: Meter,
        stop: StopRequest,
        book: LedgerBook | None,
        reconciler: Reconciler | None,
        policies: Policies,
        listeners: Sequence[Callable[[StepEntry], None]] = (),
    ) -> None:
        self._ranks, self._meter, self._stop, self._book = ranks, meter, stop, book
        self._listeners = listeners
        self._waiting: tuple[ClosedStep, PlannedStep] | None = None
        self._gathering: Callable[[], np.ndarray] | None = None
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._booking: Future[StepEntry | None] | None = None
        self._reconciler = reconciler
        self._policies = policies
        self._pause_seconds = 0.0
        self.finding: Finding | None = None
        self.unlearnable: tuple[StepEntry, float] | None = None
        """On rank 0: the step that the run stops for, as it cannot be learned from, and its loss scale."""
        self.astray: StepEntry | None = None
        """On rank 0: the first step of the attempt, when it was not as planned."""
        self._has_booked = self._is_drained = False

    def begin(self) -> None:
        """Begin to gather what waits to be booked, if anything does: the others' rows arrive while this rank
        computes. What a rank asks for after this travels with the next step.
        """
        if self._waiting is not None and self._gathering is None:
            closed, planned = self._waiting
            mine = self._meter.witness(closed, stop=int(self._stop.reason))
            # One collective a step: int64 rows of one width, floats by their bit pattern, so nothing is
            # pickled, rounded or agreed on first. On the CPU over gloo: nothing waits for a GPU.
            self._gathering = self._ranks.begin_gather_row(pack(mine, _width(planned)))

    def wait(self) -> StepEntry | None:
        """Wait until the last line is written and shown. Returns it; None where nothing is written."""
        return None if self._booking is None else self._booking.result()

    def settle(self, closed: ClosedStep, planned: PlannedStep) -> Stop:
        """Hand in a step; book the one before it. What the most urgent rank asks for is every rank's
        answer.
        """
        stop = self._book_waiting()
        self._waiting = (closed, planned)
        if stop is None:  # nothing to book that a wish could travel with
            return self._agreed() if self._is_drained else Stop.NO
        return stop

    def drain(self) -> Stop:
        """Book the step that waits, and make the ledger durable. Returns what all ranks agree on now."""
        stop = self._book_waiting() or Stop.NO
        self.wait()
        if self._book is not None and self.finding is None:
            try:
                self._book.fsync()
            except Refused as refused:
                self._not_writable(refused)
        self._is_drained = True
        return self._agreed(stop)

    def _agreed(self, stop: Stop = Stop.NO) -> Stop:
        """What all ranks agree on now. Only rank 0 meets a full disk, and a signal may reach one rank: nobody
        may go on in another way.
        """
        return Stop(max(self._ranks.gather(int(max(stop, self._stop.reason)), int)))

    def paused(self, seconds: float) -> None:
        """A checkpoint took so long; the next step's line says so."""
        self._pause_seconds += round(seconds, 3)

    def close(self) -> None:
        """Nothing will be booked any more."""
        self._thread.shutdown()
        if self._book is not None:
            try:
                self._book.close()
            except Refused as refused:
                self._not_writable(refused)

    def rescue(self) -> None:
        """Make what is booked durable, as far as it goes: something else has failed already."""
        self._thread.shutdown()
        if self._book is not None:
            with contextlib.suppress(Refused):
                self._book.close()

    def _book_waiting(self) -> Stop | None:
        """Book the step that waits; what its ranks ask for. None where none does."""
        if self._waiting is None:
            return None
        self.begin()
        assert self._gathering is not None
        rows = WitnessRows(self._gathering())
        (closed, planned), self._waiting, self._gathering = self._waiting, None, None
        self.wait()  # one line after the other, and never more than one behind
        if self._book is not None:
            self._booking = self._thread.submit(self._write, planned, rows, self._pause_seconds)
            self._pause_seconds = 0.0
        is_bad = rows.has_bad_step or not planned.trained_tokens  # whose loss is 0 / 0
        if is_bad and stated_skip(rows.witnesses(), self._policies) is None:
            if (entry := self.wait()) is not None and self.unlearnable is None:
                self.unlearnable = (entry, closed.update.loss_scale)
            return Stop.NOT_FINITE
        return Stop(rows.stop)

    def _write(self, planned: PlannedStep, rows: WitnessRows, pause_seconds: float) -> StepEntry | None:
        """The step's line once it is written; None where nothing is written."""
        if self._book is None or self._reconciler is None or self.finding is not None:
            return None
        entry = replace(self._reconciler.book(planned, rows), pause_seconds=pause_seconds)
        try:
            self._book.append(entry)
        except Refused as refused:
            self._not_writable(refused)
            return None
        if entry.cause_count and not self._has_booked:
            self.astray = entry
            self._stop.ask(Stop.NOT_AS_PLANNED)
        self._has_booked = True
        for listener in self._listeners:
            listener(entry)
        return entry

    def _not_writable(self, refused: Refused) -> None:
        self.finding = self.finding or refused.findings[0]
        self._stop.ask(Stop.NOT_WRITABLE)


def _width(planned: PlannedStep) -> int:
    """Of a rank's row: the plan is the same on all ranks, so the rows are equally wide."""
    most = max((len(slot) for forwards in planned.slots for slot in forwards), default=0)
    return packed_width(max(map(len, planned.slots), default=0), most)
