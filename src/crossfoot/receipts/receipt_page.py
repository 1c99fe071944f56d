"""The receipt as a person reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from crossfoot.ledger.entry import NO_STEP, SKIPS, Cause
from crossfoot.phrases import counted, listed, step_name
from crossfoot.receipts.cause_summary import CauseSummary, distinct_helps
from crossfoot.receipts.verdict import Receipt

MOST_SHOWN = 10
MOST_OF_A_KIND_SHOWN = 3
_LABEL_COLUMNS, _LEAST_COLUMN = 46, 10


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
    if receipt.asked_steps < receipt.total_steps and receipt.reason == "patience":
        lines.append(
            f"  the first {receipt.asked_steps:,} of {receipt.total_steps:,} steps: it learned no more"
        )
    elif receipt.asked_steps < receipt.total_steps:
        lines.append(
            f"  the first {receipt.asked_steps:,} of {receipt.total_steps:,} steps, stopped there on purpose"
        )
    lines += [f"  {words}" for words in (*_history_words(receipt), *_accepted_words(receipt))]
    lines.append(f"foots: {'yes' if receipt.foots else 'no'}")
    if not receipt.complete:
        verdict = "what was done foots" if receipt.foots_so_far else "what was done does not foot"
        lines.append(
            f"  not complete: {receipt.done_steps:,} of {receipt.asked_steps:,} steps done; {verdict}"
        )
    for summary in receipt.summary:
        lines += [f"  {words}" for words in _kind_words(receipt, summary)]
    lines += [f"  help: {text}" for text in distinct_helps(receipt.summary)]
    lines += [f"  note: {note}" for note in receipt.notes]
    if receipt.validation_loss is not None:
        lines.append(f"validation loss  {receipt.validation_loss:.6g}")
    if receipt.evaluation is not None:
        lines.append(f"evaluation       {receipt.evaluation}")
    if receipt.saved_path is not None and receipt.result_missing is None:
        lines.append(f"{os.path.basename(receipt.saved_path):<15}  {receipt.saved_path}")
    return "\n".join(lines) + "\n"


def _history_words(receipt: Receipt) -> list[str]:
    """What the rows do not show: lost steps, skipped ones, changes on purpose. Nothing for an ordinary run of
    one attempt.
    """
    words = [] if receipt.branch is None else [receipt.branch.words]
    if receipt.attempts > 1 or receipt.lost_steps:
        kept = receipt.attempted_steps - receipt.lost_steps
        lost = f"{receipt.lost_steps:,} lost" + (" and computed again" if receipt.is_regained else "")
        words.append(
            f"{counted(receipt.attempts, 'attempt')}: {counted(receipt.attempted_steps, 'step')} attempted, "
            f"{lost if receipt.lost_steps else 'none lost'}, {kept:,} counted"
        )
    for row in receipt.history:
        if row.from_checkpoint is not None:
            writer = "" if row.checkpoint_attempt is None else f" of attempt {row.checkpoint_attempt}"
            plan = "" if row.checkpoint_plan is None else f", plan {row.checkpoint_plan[:7]}"
            words.append(f"  attempt {row.attempt} began from {row.from_checkpoint}{writer}{plan}")
    for skip in receipt.skips:
        words.append(
            f"{counted(skip.steps, 'step')} skipped as {SKIPS[skip.why]} says: "
            f"{counted(skip.samples, 'sample')} seen, not learned from"
        )
    words += [f"  {step_name(one.step)}: {one.found}" for one in receipt.not_finite[:MOST_SHOWN]]
    if (more := len(receipt.not_finite) - MOST_SHOWN) > 0:
        words.append(f"  and {more:,} more")
    if receipt.retried:
        tries = "1 try was" if receipt.retried == 1 else f"{receipt.retried:,} tries were"
        words.append(f"{tries} thrown away and done again at a lower loss scale, as faults.overflow says")
    if receipt.pause_seconds:
        share = receipt.pause_seconds / (receipt.seconds + receipt.pause_seconds)
        words.append(f"checkpoints took {share:.1%} of the time")
    for change in receipt.allowed:
        words.append(
            f"changed on purpose in attempt {change.attempt}: "
            f"{change.key} {_shown(change.before)} -> {_shown(change.now)}"
        )
    return words


def _accepted_words(receipt: Receipt) -> list[str]:
    """`1 finding accepted on purpose:`, and each with its reason."""
    if not receipt.accepted:
        return []
    words = [f"{counted(len(receipt.accepted), 'finding')} accepted on purpose:"]
    for one in receipt.accepted:
        numbers = [str(number) for number in one.attempts]
        where = f"  [attempt{'s' * (len(numbers) > 1)} {listed(numbers)}]" if receipt.attempts > 1 else ""
        words.append(f"  {one.code} {one.title}; reason: {one.reason}{where}")
    return words


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _kind_words(receipt: Receipt, summary: CauseSummary) -> Iterator[str]:
    """The first causes of one kind, and what all of them come to."""
    shown = [cause for cause in receipt.causes if cause.kind == summary.kind][:MOST_OF_A_KIND_SHOWN]
    yield from map(_cause_words, shown)
    margin = " " * len(f"{summary.code}  ")
    if (more := summary.causes - len(shown)) > 0:
        least = "" if summary.is_exact else "at least "
        yield f"{margin}and {least}{more:,} more; all {summary.where}".rstrip()
    yield f"{margin}how much: {summary.amount}"
    yield f"{margin}weights:  {summary.weights}"


def _cause_words(cause: Cause) -> str:
    place = [step_name(cause.step)] if cause.step != NO_STEP else ["the run"]
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
