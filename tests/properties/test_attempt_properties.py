"""For any history of attempts (kills anywhere, torn lines, lost steps, other topologies) the receipt foots
when each step's counted line is honest, never when one was altered, and always can be read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfoot.findings.finding import Refused
from crossfoot.ledger.book import read_book
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.skipping import Policies
from crossfoot.ledger.witness import StepWitness
from crossfoot.receipts.receipt import receipt_of
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.attempts import counted, read_attempts, vouched_steps
from crossfoot.runs.ending import Ending
from ledger_cases import Data, Job, of_first_rank, with_columns

FEW = settings(max_examples=40, deadline=None)
POLICIES = Policies("skip", "skip")


@dataclass(frozen=True)
class Leg:
    """One attempt that is killed. back: steps that it loses of those done; steps: that it trains."""

    back: int
    steps: int
    topology: tuple[int, int]
    torn_bytes: int


@dataclass(frozen=True)
class History:
    """A run's legs, the last of which trains it to its end; skipped: steps that no rank can learn from."""

    data: Data
    steps: list[list[tuple[int, int]]]
    legs: list[Leg]
    last: tuple[int, int]
    skipped: frozenset[int]

    def happens(self, folder: str) -> Job:
        """Write the run into a folder, attempt by attempt."""
        job = Job(Path(folder), self.data, self.steps, faults={"nonfinite": "skip", "overflow": "skip"})
        done, total = 0, len(self.steps)
        for leg in self.legs:
            first_step = max(0, done - leg.back)
            done = min(total, first_step + leg.steps)
            torn_bytes = leg.torn_bytes if done < total else 0
            self.attempt(job, first_step, done, leg.topology, torn_bytes, None)
        first_step = max(0, done - 1)
        self.attempt(job, first_step, total, self.last, 0, Ending("finished", total, 0, total))
        return job

    def attempt(
        self,
        job: Job,
        first_step: int,
        end: int,
        topology: tuple[int, int],
        torn_bytes: int,
        ending: Ending | None,
    ) -> None:
        def told(step: int, witnesses: list[StepWitness]) -> list[StepWitness]:
            if step not in self.skipped:
                return witnesses
            return [replace(w, applied=False, lr=float("nan"), overflow=True) for w in witnesses]

        job.run(
            end,
            first_step=first_step,
            topology=topology,
            torn_bytes=torn_bytes,
            ending=ending,
            change=told,
            policies=POLICIES,
        )


TOPOLOGIES = st.tuples(st.integers(1, 3), st.integers(1, 2))


@st.composite
def histories(draw: st.DrawFn) -> History:
    size, epochs = draw(st.integers(1, 9)), draw(st.integers(1, 2))
    contents = draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))  # few values: many duplicates
    data = Data(contents, [40 + c for c in contents], [20 + c for c in contents])
    flat = [(epoch, sample) for epoch in range(epochs) for sample in range(size)]
    step_size = draw(st.integers(1, min(4, size)))
    steps = [flat[first : first + step_size] for first in range(0, len(flat), step_size)]
    leg = st.builds(Leg, st.integers(0, 4), st.integers(0, 5), TOPOLOGIES, st.integers(0, 400))
    legs = draw(st.lists(leg, max_size=4))
    most = min(2, len(steps) - 1)  # a run of which every step is skipped trains nothing, and does not foot
    skipped = draw(st.frozensets(st.integers(0, len(steps) - 1), max_size=most))
    return History(data, steps, legs, draw(TOPOLOGIES), skipped)


@contextmanager
def happened(history: History) -> Iterator[Job]:
    with tempfile.TemporaryDirectory() as folder:
        yield history.happens(folder)


def rewrite(job: Job, lines: list[StepEntry]) -> None:
    job.ledger.write_text("".join(line.to_line() for line in lines))


def foots(job: Job) -> bool:
    """Whether a receipt can be made, and foots."""
    try:
        return receipt_of(str(job.folder)).foots
    except Refused as refused:
        assert {finding.code for finding in refused.findings} <= {"CF704", "CF742"}
        return False


def adds_up(receipt: Receipt, lines: list[StepEntry]) -> bool:
    kept = receipt.attempted_steps - receipt.lost_steps
    return receipt.attempted_steps == len(lines) and kept == receipt.applied_steps + receipt.skipped_steps


@FEW
@given(histories())
def test_any_honest_history_foots(history: History) -> None:
    with happened(history) as job:
        receipt, lines = receipt_of(str(job.folder)), read_book(str(job.ledger))
        assert receipt.foots, receipt
        assert receipt.attempts == len(history.legs) + 1 and adds_up(receipt, lines)
        kept, lost = counted(lines, read_attempts(str(job.folder)))
        assert [line.step for line in kept] == list(range(len(history.steps)))
        assert receipt.lost_steps == len(lost) and receipt.is_regained
        assert receipt.skipped_steps == len(history.skipped)


@FEW
@given(histories(), st.data())
def test_a_killed_history_foots_so_far_whatever_is_cut_off(history: History, draw: st.DataObject) -> None:
    with happened(history) as job:
        whole = job.ledger.read_bytes()
        (job.folder / f"attempt-{len(history.legs) + 1:03d}" / "ending.json").unlink()
        before_last = whole.rfind(b"\n", 0, -1) + 1
        job.ledger.write_bytes(whole[: draw.draw(st.integers(before_last, len(whole) - 1))])
        receipt = receipt_of(str(job.folder))
        assert receipt.foots_so_far and not receipt.foots and not receipt.complete
        lines, attempts = read_book(str(job.ledger)), read_attempts(str(job.folder))
        assert receipt.done_steps == vouched_steps(lines, attempts) == len(history.steps) - 1
        assert adds_up(receipt, lines)


def more(name: str) -> Callable[[StepEntry], StepEntry]:
    return lambda line: replace(line, **{name: getattr(line, name) + 1})


def first_rank(**change: int) -> Callable[[StepEntry], StepEntry]:
    return lambda line: of_first_rank(line, **change)


COUNTED = (
    *("step", "attempt", "planned_samples", "real_samples", "distinct_samples", "repeated_samples"),
    *("planned_first_seen_samples", "first_seen_samples", "planned_real_tokens", "real_tokens"),
    *("planned_trained_tokens", "trained_tokens", "token_slots", "planned_forwards", "real_forwards"),
    *("wrong_rate_ranks", "wrong_weight_forwards", "cause_count"),
)
TOLD: dict[str, Callable[[StepEntry], Any]] = {
    "step before": lambda line: replace(line, step=line.step - 1),
    "another attempt": lambda line: replace(line, attempt=line.attempt - 1 or 2),
    "applied": lambda line: replace(line, applied=not line.applied),
    "skipped": lambda line: replace(line, skipped="overflow" if line.skipped is None else None),
    "samples": lambda line: replace(line, samples_sha256="0" * 16),
    "planned samples": lambda line: replace(line, planned_samples_sha256="0" * 16),
    "a rank's samples": first_rank(samples=1),
    "a rank's tokens": first_rank(real_tokens=-1),
    "a rank's forwards": first_rank(forwards=1),
    "a rank gone": lambda line: with_columns(line, lambda column, _: column[1:]),
    "forwards all over": lambda line: first_rank(forwards=1)(
        more("planned_forwards")(more("real_forwards")(line))
    ),
    "trained tokens all over": lambda line: first_rank(trained_tokens=1)(
        more("planned_trained_tokens")(more("trained_tokens")(line))
    ),
    "lr": lambda line: replace(line, lr=line.lr * 1.01) if line.applied else more("real_tokens")(line),
    "planned lr": lambda line: replace(line, planned_lr=1.0) if line.applied else more("real_tokens")(line),
    **{name: more(name) for name in COUNTED},
}


@settings(max_examples=100, deadline=None)
@given(histories(), st.sampled_from(sorted(TOLD)), st.data())
def test_an_altered_line_that_counts_never_foots(history: History, change: str, draw: st.DataObject) -> None:
    with happened(history) as job:
        lines, attempts = read_book(str(job.ledger)), read_attempts(str(job.folder))
        kept, _ = counted(lines, attempts)
        victim = draw.draw(st.sampled_from(kept))
        rewrite(job, [TOLD[change](line) if line is victim else line for line in lines])
        assert not foots(job), (change, victim.attempt, victim.step)


@FEW
@given(histories(), st.data())
def test_a_counted_line_lost_or_doubled_never_foots(history: History, draw: st.DataObject) -> None:
    with happened(history) as job:
        lines = read_book(str(job.ledger))
        kept, _ = counted(lines, read_attempts(str(job.folder)))
        victim = draw.draw(st.sampled_from(kept))
        copies = draw.draw(st.sampled_from([0, 2]))
        rewrite(job, [line for line in lines for _ in range(copies if line is victim else 1)])
        assert not foots(job)


VALUES = sorted({*TOLD} - {"step", "attempt", "step before", "another attempt"})


@FEW
@given(histories(), st.sampled_from(VALUES), st.data())
def test_what_a_lost_line_says_is_no_fault(history: History, change: str, draw: st.DataObject) -> None:
    with happened(history) as job:
        lines = read_book(str(job.ledger))
        _, lost = counted(lines, read_attempts(str(job.folder)))
        victim = draw.draw(st.sampled_from(lost)) if lost else None
        copies = draw.draw(st.integers(0, 2))
        altered = [
            TOLD[change](line) if line is victim else line
            for line in lines
            for _ in range(copies if line is victim else 1)
        ]
        rewrite(job, altered)
        assert foots(job)
