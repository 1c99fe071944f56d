"""A new plan held against the steps that are done: what is trained cannot be planned otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossfoot.arithmetic.batch import GLOBAL
from crossfoot.arithmetic.rate import RatePlan
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.findings.finding import Refused
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.matching import Uint64Array
from crossfoot.ledger.measured import samples_sha256
from crossfoot.phrases import counted, step_name
from crossfoot.runs.attempts import Change
from crossfoot.runs.changing import batches_of, hold_against
from crossfoot.runs.findings import never_changes, other_rates
from crossfoot.shell_words import joined
from crossfoot.written.run_file import RunFile

LENGTH: tuple[str, ...] = ("train.epochs", "train.max_steps")
"""The keys that say how long a run is."""
_SAME_RATE = 1e-9
"""Of a rate."""


@dataclass(frozen=True)
class Past:
    """The steps that are done. attempt, lock: which they were last trained with. lines: of them, one a step
    and in order. is_branch: of another run, from which a new one begins.
    """

    attempt: int
    lock: Mapping[str, Any]
    lines: tuple[StepEntry, ...]
    is_branch: bool = False

    @property
    def steps(self) -> int:
        """How many are done."""
        return len(self.lines)

    @property
    def samples(self) -> int:
        """Trained in them."""
        return sum(line.planned_samples for line in self.lines)


def past_of(
    attempt: int,
    lock: Mapping[str, Any],
    counted_lines: Iterable[StepEntry],
    steps: int,
    is_branch: bool = False,
) -> Past:
    """The first `steps` steps. counted_lines: one for each of them, in file order."""
    lines = sorted((line for line in counted_lines if line.step < steps), key=lambda line: line.step)
    return Past(attempt, lock, tuple(lines), is_branch)


def hold_plan(
    run: RunFile,
    past: Past,
    lock: Mapping[str, Any],
    schedule: Schedule,
    rate: RatePlan,
    digests: Uint64Array,
    allow: Sequence[str],
) -> tuple[Change, ...]:
    """Hold a new plan against what is trained. Returns the changes that were allowed.

    lock, schedule, rate, digests (uint64[N], of the index): of the new plan. allow: keys that may change; of
    a branch its length may too. Raises Refused.
    """
    length = LENGTH if past.is_branch else ()
    is_other_batch = batches_of(past.lock) != batches_of(lock)
    allowed = hold_against(
        run,
        (past.attempt, past.lock),
        lock,
        [*allow, *length],
        trained_samples=past.samples,
        is_past_kept=is_other_batch and bool(past.lines) and not _first_other(past.lines, schedule, digests),
    )
    refuse_other_past(run, past, schedule, digests)
    if any(change.key == GLOBAL for change in allowed):
        _refuse_other_rates(run, past, rate, allow)
    return allowed


def refuse_other_past(run: RunFile, past: Past, schedule: Schedule, digests: Uint64Array) -> None:
    """Refused (CF745) when the steps that are done are not the first steps of the new plan.

    Where the batch is the same, only a run of another length can come to this: it may be shorter than what is
    done, or the old plan's last step, which held what was left, is now an ordinary one. digests: uint64[N],
    of the index.
    """
    key = "max_steps" if run.config.train.max_steps is not None else "epochs"
    change = Change(f"train.{key}", past.lock["config"]["train"].get(key), getattr(run.config.train, key))
    done = f"{past.steps:,} steps are done"
    if schedule.total_steps < past.steps:
        title = f"{change.key} makes a run of {schedule.total_steps:,} steps, and {done}"
        raise Refused(never_changes(run, change, past.attempt, "what is trained cannot be taken back", title))
    line = _first_other(past.lines[-1:], schedule, digests)
    if line is not None:
        title = (
            f"{change.key} gives {step_name(line.step)} {schedule.step_size(line.step):,} samples, "
            f"and it was trained with {line.planned_samples:,}, what was left then"
        )
        why = f"{done}, and the last of them was the end of the run; continue from before it to go on"
        raise Refused(never_changes(run, change, past.attempt, why, title))


def _first_other(lines: Iterable[StepEntry], schedule: Schedule, digests: Uint64Array) -> StepEntry | None:
    """The first step that holds other samples in this schedule, or is none of it."""
    for line in lines:
        is_one = line.step < schedule.total_steps and line.planned_samples == schedule.step_size(line.step)
        if not is_one or line.planned_samples_sha256 != samples_sha256(digests[schedule.samples(line.step)]):
            return line
    return None


def _refuse_other_rates(run: RunFile, past: Past, rate: RatePlan, allow: Sequence[str]) -> None:
    """Refused (CF119) when a new batch gives the steps that are done other rates: by another horizon, or by a
    warm-up that is not over. Not where the rates were to change: lr.reference alone lifts all of them.
    """
    if any(key in LENGTH or (key.startswith("lr.") and key != "lr.reference") for key in allow):
        return
    lifted = past.lock["config"]["lr"]["reference"] / rate.reference
    for line in past.lines:
        now = rate.at(line.step) * lifted
        if line.attempt == past.attempt and not math.isclose(line.planned_lr, now, rel_tol=_SAME_RATE):
            notes, helps = _why_other(run, past, rate)
            raise Refused(other_rates(run, line.step, (line.planned_lr, now), notes, helps))


def _why_other(run: RunFile, past: Past, rate: RatePlan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(notes, helps) about rates that differ."""
    plan, train, lr = past.lock["plan"], run.config.train, run.config.lr
    steps, warm = plan["total_steps"], plan["warmup_steps"]
    own = "train.max_steps" if train.max_steps is not None else "train.epochs"
    if rate.warmup_steps != warm and lr.warmup_fraction is None:
        key = "lr.warmup_steps" if lr.warmup_samples is None else "lr.warmup_samples"
        note = f"the warm-up was {counted(warm, 'step')}, and is {counted(rate.warmup_steps, 'step')} now"
        behind = f"change the batch behind the warm-up: {counted(warm, 'step')} or more done"
        return (note,), (behind, f"or take the other rates on purpose: --allow {key}")
    words = [f"train.max_steps={steps}"]
    words += ["train.epochs=null"] if train.epochs is not None else []
    if not past.is_branch:
        by_epochs = past.lock["config"]["train"].get("epochs") is not None
        changed = LENGTH if by_epochs else LENGTH[1:]
        words += [word for key in changed for word in ("--allow", key)]
    follows = f"lr.schedule {rate.schedule}" if rate.warmup_steps == warm else "lr.warmup_fraction"
    note = f"{follows} follows the length of the run: {rate.total_steps:,} steps now, {steps:,} before"
    unending = "rates of lr.schedule constant, and of wsd before its decay, do not depend on the length"
    return (note, unending), (
        f"keep the length of the run: {joined(words)}",
        f"or take the other rates on purpose: --allow {own}",
    )
