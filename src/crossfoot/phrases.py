"""Numbers of things, names of steps, spans of time and reasons inside a sentence.

People read the steps of a run from 1. Files count them from 0 (`step` of ledger.jsonl, of causes and of
heartbeats): an index. Counts of steps that are done are the same for both: after 4 steps, the next one is
step 5, of index 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`1 node`, `8 nodes`, `1,234 steps`. things: of a word that takes more than an s."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def steps_done(index: int) -> int:
    """Steps that are done with the one of this index (from 0): its number, as people count."""
    return index + 1


def step_name(index: int) -> str:
    """`step 5`. index: from 0, as in files."""
    return f"step {index + 1:,}"


def step_names(indexes: Iterable[int], most: int = 3, of: int = 0) -> str:
    """`step 5`, `steps 2 and 5`, `steps 2, 5, 7 and 12 more`. indexes: from 0; each is named once. of: how
    many there are, when not all are given.
    """
    distinct = sorted(set(indexes))
    total = max(of, len(distinct))
    if total < 2:
        return "".join(map(step_name, distinct))
    names = [f"{index + 1:,}" for index in distinct[:most]]
    more = [f"{total - len(names):,} more"] if total > len(names) else []
    return f"steps {listed([*names, *more])}"


def step_span(first: int, last: int) -> str:
    """`step 2`, `steps 2 to 5`: all from one index to another, both from 0."""
    return step_name(first) if first == last else f"steps {first + 1:,} to {last + 1:,}"


def step_of(index: int, total_steps: int | None) -> str:
    """`step    5/1000`, as wide for every step. index: from 0. total_steps: None when it is not known."""
    total = "?" if total_steps is None else str(total_steps)
    return f"step {index + 1:>{len(total)}}/{total}"


def after_steps(done_steps: int) -> str:
    """`after 4 steps`: of a checkpoint, a validation, a stop."""
    return f"after {counted(done_steps, 'step')}"


def clock(seconds: float) -> str:
    """`14 s`, `2:05`, `1:02:03`, `2 days`: whole seconds, whole days from two on."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    days, _ = divmod(hours, 24)
    if days > 1:
        return f"{days:,} days"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def said_by(error: BaseException) -> str:
    """What the system or a library says: `No space left on device`."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """The same inside a sentence: `no space left on device`."""
    text = said_by(error)
    return text[:1].lower() + text[1:]


def first_line(error: BaseException) -> str:
    """Of what a library says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def size(total_bytes: int) -> str:
    """`812 kB`, `7.1 GB`: decimal units."""
    value, units = float(total_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 9.95 or units[0] == "B" else f"{value:.1f} {units[0]}"
