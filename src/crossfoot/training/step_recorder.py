"""Between the meter and the ledger: every step's witnesses are gathered, one step late, and written down by
rank 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from crossfoot.arithmetic.layout import Layout
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.store import DataIndex
from crossfoot.ledger.book import LedgerBook
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.reconcile import PlannedStep, Reconciler
from crossfoot.ledger.skipping import Policies, stated_skip
from crossfoot.ledger.witness import StepWitness, pack, packed_width, unpack
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
        epochs = schedule.epochs_of(step)
        return PlannedStep(
            step=step,
            epoch=int(epochs[0]),
            lr=self._plan.rate.at(step),
            trained_tokens=int(self._index.trained_tokens[ids].sum(dtype=np.int64)),
            slots=self._layout.slots(ids, self._index.lengths[ids]),
            samples=ids,
            sample_epochs=epochs,
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
        self._reconciler = reconciler
        self._policies = policies
        self._pause_seconds = 0.0
        self.finding: Finding | None = None
        self.unlearnable: tuple[StepEntry, float] | None = None
        """On rank 0: the step that the run stops for, as it cannot be learned from, and its loss scale."""
        self.astray: StepEntry | None = None
        """On rank 0: the first step of the attempt, when it was not as planned."""
        self._has_booked = self._is_drained = False

    def settle(self, closed: ClosedStep, planned: PlannedStep) -> Stop:
        """Hand in a step; book the one before it. What the most urgent rank asks for is every rank's
        answer.
        """
        waiting, self._waiting = self._waiting, (closed, planned)
        if waiting is None:  # nothing to book that a wish could travel with
            return self._agreed() if self._is_drained else Stop.NO
        return self._book_step(*waiting)

    def drain(self) -> Stop:
        """Book the step that waits, and make the ledger durable. Returns what all ranks agree on now."""
        waiting, self._waiting = self._waiting, None
        stop = Stop.NO if waiting is None else self._book_step(*waiting)
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
        if self._book is not None:
            try:
                self._book.close()
            except Refused as refused:
                self._not_writable(refused)

    def rescue(self) -> None:
        """Make what is booked durable, as far as it goes: something else has failed already."""
        if self._book is not None:
            with contextlib.suppress(Refused):
                self._book.close()

    def _book_step(self, closed: ClosedStep, planned: PlannedStep) -> Stop:
        mine = self._meter.witness(closed, stop=int(self._stop.reason))
        # One collective a step: int64 rows of one width, floats by their bit pattern, so nothing is pickled,
        # rounded or agreed on first. On the CPU over gloo: nothing waits for a GPU.
        rows = self._ranks.gather_row(pack(mine, _width(planned)))
        witnesses = [unpack(row) for row in rows]
        entry = self._write(planned, witnesses)
        is_bad = any(witness.nonfinite or witness.overflow for witness in witnesses)
        is_bad |= not planned.trained_tokens  # its loss is 0 / 0
        if is_bad and stated_skip(witnesses, self._policies) is None:
            if entry is not None and self.unlearnable is None:
                self.unlearnable = (entry, closed.update.loss_scale)
            return Stop.NOT_FINITE
        return Stop(max(witness.stop for witness in witnesses))

    def _write(self, planned: PlannedStep, witnesses: Sequence[StepWitness]) -> StepEntry | None:
        """The step's line once it is written; None where nothing is written."""
        if self._book is None or self._reconciler is None or self.finding is not None:
            return None
        entry = replace(self._reconciler.step(planned, witnesses), pause_seconds=self._pause_seconds)
        try:
            self._book.append(entry)
        except Refused as refused:
            self._not_writable(refused)
            return None
        if entry.cause_count and not self._has_booked:
            self.astray = entry
            self._stop.ask(Stop.NOT_AS_PLANNED)
        self._has_booked = True
        self._pause_seconds = 0.0
        for listener in self._listeners:
            listener(entry)
        return entry

    def _not_writable(self, refused: Refused) -> None:
        self.finding = self.finding or refused.findings[0]
        self._stop.ask(Stop.NOT_WRITABLE)


def _width(planned: PlannedStep) -> int:
    """Of a rank's row: the plan is the same on all ranks, so the rows are equally wide."""
    most = max(len(slot) for forwards in planned.slots for slot in forwards)
    return packed_width(len(planned.slots[0]), most)
