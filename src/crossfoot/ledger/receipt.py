"""The receipt: the whole run's plan against what the ledger says was done, and whether it foots.

It is made from the lock, the ledger's lines as they stand on disk and the ending, so `receipt_of` gives later
what the run gave at its end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from crossfoot.finding import Finding, Refused
from crossfoot.ledger.audit import audit
from crossfoot.ledger.book import read_book
from crossfoot.ledger.ending import (
    Ending,
    Expects,
    expects_of,
    read_ending,
    read_lock,
    write_document,
)
from crossfoot.ledger.entry import Cause, StepEntry
from crossfoot.ledger.naming import rate_is_planned

LOCK_FILE, LEDGER_FILE = "plan.lock.json", "ledger.jsonl"
ENDING_FILE, RECEIPT_FILE = "ending.json", "receipt.json"
RECEIPT_FORMAT = 1
MOST_CAUSES_WRITTEN, MOST_CAUSES_SHOWN = 1000, 10
Found = TypeVar("Found")
_LABEL_COLUMNS, _LEAST_COLUMN = 46, 10


@dataclass(frozen=True)
class Row:
    """One line of the receipt; difference is real - planned."""

    name: str
    planned: int
    real: int

    @property
    def difference(self) -> int:
        """0 when the row foots."""
        return self.real - self.planned


@dataclass(frozen=True)
class Receipt:
    """What a run was planned to do and what it did.

    foots: everything that was asked for was done, every row's difference is 0 and there is no cause.
    complete: every step asked for has its line. foots_so_far: the steps that were done are as planned, be the
    run complete or not. asked_steps: N of a run stopped on purpose (the rows are its first N steps), else
    total_steps. done_steps: different steps with a line. reason: of the ending, None without one. causes: the
    first 1,000; cause_count: all. notes: what is worth knowing and no fault, such as a torn last line.
    """

    name: str
    sha: str
    foots: bool
    complete: bool
    foots_so_far: bool
    asked_steps: int
    total_steps: int
    done_steps: int
    reason: str | None
    rows: tuple[Row, ...]
    causes: tuple[Cause, ...]
    cause_count: int
    notes: tuple[str, ...] = ()
    validation_loss: float | None = None
    adapter_path: str | None = None

    @property
    def exit_code(self) -> int:
        """0 when it foots, else 3 (a run that was stopped before its end has its own code: 75 or 130)."""
        return 0 if self.foots else 3

    def to_json(self) -> dict[str, Any]:
        """The document of `receipt.json`."""
        document = {"format": RECEIPT_FORMAT, **asdict(self)}
        document["rows"] = [{**asdict(row), "difference": row.difference} for row in self.rows]
        document["causes"] = [cause.to_json() for cause in self.causes]
        return document


def make_receipt(
    lock: Mapping[str, Any],
    entries: Sequence[StepEntry],
    ending: Ending | None = None,
    torn: Finding | None = None,
) -> Receipt:
    """Hold the ledger's lines, in file order, against the lock. ending: None while the run has written none.

    A run stopped on purpose is held against its first N steps, any other against the whole plan. torn: what
    `read_book` reports about an unfinished last line. Raises Refused when the lock's promise cannot be read.
    """
    expects = expects_of(lock)
    asked_steps = expects.total_steps
    if ending is not None and ending.reason == "stop_after":
        asked_steps = min(ending.planned_steps, expects.total_steps)
    seen = {entry.step for entry in entries}
    is_complete = all(step in seen for step in range(asked_steps))
    done = _planned_of(entries, asked_steps)
    promised = done if asked_steps < expects.total_steps else _planned_of_lock(expects)
    if asked_steps < expects.total_steps:
        promised["optimizer steps"] = promised["updates applied"] = asked_steps
    real = _real_of(entries)
    rows = tuple(Row(name, promised[name], real[name]) for name in real)
    causes, cause_count = audit(entries, asked_steps, ending)
    foots_so_far = cause_count == 0 and all(real[name] == done[name] for name in real)
    return Receipt(
        name=expects.name,
        sha=expects.sha,
        foots=is_complete and cause_count == 0 and all(row.difference == 0 for row in rows),
        complete=is_complete,
        foots_so_far=foots_so_far,
        asked_steps=asked_steps,
        total_steps=expects.total_steps,
        done_steps=len(seen),
        reason=None if ending is None else ending.reason,
        rows=rows,
        causes=tuple(causes[:MOST_CAUSES_WRITTEN]),
        cause_count=cause_count,
        notes=_notes(ending, torn),
        validation_loss=None if ending is None else ending.validation_loss,
        adapter_path=None if ending is None else ending.adapter_path,
    )


def receipt_of(run_dir: str) -> Receipt:
    """The receipt of a run folder, from its lock, its ledger and its ending (which a killed run does not
    have).

    Raises Refused when one of them is missing or damaged; all that can be said about them at once.
    """
    findings: list[Finding] = []

    def tried(read: Callable[[str], Found], name: str) -> Found | None:
        try:
            return read(os.path.join(run_dir, name))
        except Refused as refused:
            findings.extend(refused.findings)
            return None

    lock = tried(read_lock, LOCK_FILE)
    lines = tried(read_book, LEDGER_FILE)
    ending = tried(read_ending, ENDING_FILE)
    if findings or lock is None or lines is None:
        raise Refused(findings)
    return make_receipt(lock, lines, ending, lines.torn)


def write_receipt(path: str, receipt: Receipt) -> None:
    """Write `receipt.json` atomically. Raises Refused when the disk does not take it."""
    write_document(path, receipt.to_json())


def render_receipt(receipt: Receipt) -> str:
    """The receipt as text: rows, the verdict with its causes, then what the run leaves behind."""
    head = f"receipt  {receipt.name}  lock {receipt.sha[:7]}"
    cells = [(f"{row.planned:,}", f"{row.real:,}", _signed(row.difference)) for row in receipt.rows]
    titles = ("planned", "real", "difference")
    columns = [max(_LEAST_COLUMN, *(len(row[i]) for row in [titles, *cells])) for i in range(3)]
    label_columns = max(_LABEL_COLUMNS, len(head) + 2)
    lines = [_line(head, titles, label_columns, columns)]
    for row, cell in zip(receipt.rows, cells, strict=True):
        lines.append(_line(f"  {row.name}", cell, label_columns, columns))
    if receipt.asked_steps < receipt.total_steps:
        lines.append(
            f"  the first {receipt.asked_steps:,} of {receipt.total_steps:,} steps, stopped there on purpose"
        )
    lines.append(f"foots: {'yes' if receipt.foots else 'no'}")
    if not receipt.complete:
        verdict = "what was done foots" if receipt.foots_so_far else "what was done does not foot"
        lines.append(
            f"  not complete: {receipt.done_steps:,} of {receipt.asked_steps:,} steps done; {verdict}"
        )
    lines += [f"  {_cause_words(cause)}" for cause in receipt.causes[:MOST_CAUSES_SHOWN]]
    if (more := receipt.cause_count - MOST_CAUSES_SHOWN) > 0:
        lines.append(f"  and {more:,} more")
    lines += [f"  note: {note}" for note in receipt.notes]
    if receipt.validation_loss is not None:
        lines.append(f"validation loss  {receipt.validation_loss:.6g}")
    if receipt.adapter_path is not None:
        lines.append(f"adapter          {receipt.adapter_path}")
    return "\n".join(lines) + "\n"


def _planned_of_lock(expects: Expects) -> dict[str, int]:
    """The planned column of a whole run."""
    return _rows(
        steps=expects.total_steps,
        samples=expects.samples,
        distinct_samples=expects.distinct_samples,
        real_tokens=expects.real_tokens,
        trained_tokens=expects.trained_tokens,
        forwards=expects.forwards,
    )


def _planned_of(entries: Iterable[StepEntry], asked_steps: int) -> dict[str, int]:
    """The planned column of the steps that have a line, each counted once, none beyond those asked for."""
    once = list({entry.step: entry for entry in entries if 0 <= entry.step < asked_steps}.values())
    return _rows(
        steps=len(once),
        samples=sum(entry.planned_samples for entry in once),
        distinct_samples=sum(entry.planned_first_seen_samples for entry in once),
        real_tokens=sum(entry.planned_real_tokens for entry in once),
        trained_tokens=sum(entry.planned_trained_tokens for entry in once),
        forwards=sum(entry.planned_forwards for entry in once),
    )


def _rows(
    *, steps: int, samples: int, distinct_samples: int, real_tokens: int, trained_tokens: int, forwards: int
) -> dict[str, int]:
    """Row name -> planned; what nobody plans is 0."""
    return {
        "optimizer steps": steps,
        "updates applied": steps,
        "samples": samples,
        "distinct samples": distinct_samples,
        "samples seen twice": 0,
        "real tokens": real_tokens,
        "trained tokens": trained_tokens,
        "forwards": forwards,
        "steps at another rate": 0,
        "steps with a wrong token weight": 0,
    }


def _real_of(entries: Sequence[StepEntry]) -> dict[str, int]:
    """The real column: every line of the ledger, in the order of `_rows`."""
    sums: Counter[str] = Counter(
        _rows(steps=0, samples=0, distinct_samples=0, real_tokens=0, trained_tokens=0, forwards=0)
    )
    for entry in entries:
        is_other_rate = entry.applied and not rate_is_planned(entry.lr, entry.planned_lr)
        sums["optimizer steps"] += 1
        sums["updates applied"] += entry.applied
        sums["samples"] += entry.real_samples
        sums["distinct samples"] += entry.first_seen_samples
        sums["samples seen twice"] += entry.repeated_samples
        sums["real tokens"] += entry.real_tokens
        sums["trained tokens"] += entry.trained_tokens
        sums["forwards"] += entry.real_forwards
        sums["steps at another rate"] += entry.wrong_rate_ranks > 0 or is_other_rate
        sums["steps with a wrong token weight"] += entry.wrong_weight_forwards > 0
    return dict(sums)


def _notes(ending: Ending | None, torn: Finding | None) -> tuple[str, ...]:
    notes = []
    if ending is None:
        notes.append("the run has not written how it ended: it was killed, or is still running")
    elif ending.reason not in ("finished", "stop_after"):
        words = {
            "signal": "was stopped by a signal",
            "interrupt": "was interrupted",
            "fault": "stopped on a fault",
        }
        notes.append(
            f"the run {words[ending.reason]} after {ending.step:,} steps (exit code {ending.exit_code})"
        )
    if torn is not None:
        notes.append(torn.title)
    return tuple(notes)


def _cause_words(cause: Cause) -> str:
    place = [f"step {cause.step}"]
    if cause.rank is not None:
        place.append(f"rank {cause.rank}")
    if cause.forward is not None:
        place.append(f"forward {cause.forward}")
    origin = f"  {cause.origin}" if cause.origin else ""
    return f"{cause.code}  {', '.join(place)}: {cause.message}{origin}"


def _line(label: str, cells: Sequence[str], label_columns: int, columns: Sequence[int]) -> str:
    numbers = "  ".join(cell.rjust(width) for cell, width in zip(cells, columns, strict=True))
    return f"{label.ljust(label_columns)}{numbers}"


def _signed(difference: int) -> str:
    return f"{difference:+,}" if difference else "0"
