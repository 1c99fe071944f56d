"""The receipt: the whole run's plan against what the ledger says was done, and whether it foots.

It is made from the lock, the ledger's lines as they stand on disk, and what the attempts left, so
`receipt_of` gives later what the run gave at its end. Only lines that count are held against the plan
(`attempts`): what a crash lost was computed again, is told as attempted and lost, and is no fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crossfoot.findings.finding import Finding
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.skipping import Policies, policies_of
from crossfoot.phrases import after_steps
from crossfoot.receipts.audit import NumberedLines, audit
from crossfoot.receipts.cause_summary import summarise
from crossfoot.receipts.columns import (
    Row,
    Sums,
    planned_forwards,
    planned_of,
    planned_of_lock,
    planned_of_steps,
    real_of,
    rows_of_sources,
)
from crossfoot.receipts.early_stop import early_stop
from crossfoot.receipts.promise_audit import Held, hold
from crossfoot.receipts.run_promise import RunPromise, promise_of_run
from crossfoot.receipts.verdict import Accepted, Allowed, AttemptRow, Receipt, Skips, Unlearned
from crossfoot.runs.attempts import Attempt, LiveLines
from crossfoot.runs.ending import CUT_SHORT, Ending, expects_of, write_document
from crossfoot.runs.evaluations import last_of
from crossfoot.runs.lock_shape import Expects
from crossfoot.runs.reader import AttemptRecord, RunRecord, read_run
from crossfoot.runs.result import missing_result
from crossfoot.runs.resume_command import resume_command
from crossfoot.runs.validations import Validation
from crossfoot.shell_words import quoted_path

MOST_CAUSES_WRITTEN = 1000
OTHER_SAMPLES, OTHER_LAYOUT = "steps with other samples", "steps in another layout"


def make_receipt(
    lock: Mapping[str, Any],
    entries: Sequence[StepEntry],
    ending: Ending | None = None,
    torn: Finding | None = None,
    records: Sequence[AttemptRecord] = (),
    run_promise: RunPromise | None = None,
    validations: Sequence[Validation] = (),
) -> Receipt:
    """Hold the ledger's lines, in file order, against the plan.

    lock: of the first attempt. records: of all attempts, in order; none: the run has one, and `ending` is its
    own. With several the last attempt's lock is in force, since the run may have been made longer on purpose.
    ending: of the last attempt, None while it has written none. A run stopped on purpose is held against its
    first N steps, any other against the whole plan. torn: what `read_book` reports about an unfinished last
    line. run_promise: what the locks promise of every step, from `promise_of_run`; without it the lines are
    held against what the loop was told. validations: that bear out a run which ended for them. Raises Refused
    when a lock's promise cannot be read.
    """
    first = expects_of(lock)
    expects = expects_of(records[-1].lock) if records else first
    early, early_notes = early_stop(records[-1].lock if records else lock, ending, validations)
    asked_steps = _asked_steps(expects, ending) if early is None else early
    attempts = [record.attempt for record in records]
    live_lines = LiveLines(attempts)
    lines = [line for line in enumerate(entries, start=1) if live_lines.counts(line[1])]
    count = [entry for _, entry in lines]
    skips = _skips(count)
    held = None if run_promise is None else hold(count, run_promise.promise, asked_steps)
    done, promised, real = _columns(count, skips, asked_steps, expects, records, held)
    first_steps = {attempt.attempt: attempt.first_step for attempt in attempts}
    causes, cause_count = audit(lines, asked_steps, ending, first_steps, _policies(lock, records))
    if run_promise is not None and held is not None:
        held.add(run_promise.causes)
        causes, cause_count = [*held.causes, *causes], cause_count + held.counts.total()
    units = {"sample": promised["samples"], "forward": promised["forwards"], "step": asked_steps}
    seen = {entry.step for entry in count}
    is_complete = all(step in seen for step in range(asked_steps))
    return Receipt(
        name=expects.name,
        sha=first.sha,
        foots=is_complete and cause_count == 0 and real == promised,
        complete=is_complete,
        foots_so_far=cause_count == 0 and real == done,
        asked_steps=asked_steps,
        total_steps=expects.total_steps,
        done_steps=len(seen),
        reason=None if ending is None else ending.reason,
        rows=tuple(Row(name, promised[name], real[name]) for name in real),
        causes=tuple(causes[:MOST_CAUSES_WRITTEN]),
        cause_count=cause_count,
        summary=summarise(causes, count, {} if held is None else held.unlisted, units),
        notes=(
            *early_notes,
            *_notes(ending, torn, entries),
            *(run_promise.notes if run_promise is not None else ()),
        ),
        validation_loss=None if ending is None else ending.validation_loss,
        saved_path=None if ending is None else ending.saved_path,
        attempts=max(1, len(records)),
        skips=skips,
        **_tries(entries, count),
        allowed=_allowed(attempts, lines),
        accepted=_accepted(attempts, lines),
        history=_history(records, entries, count),
    )


def _asked_steps(expects: Expects, ending: Ending | None) -> int:
    """Steps that the run was to do: the plan's, or N of one that was stopped after N on purpose."""
    if ending is not None and ending.reason == "stop_after":
        return min(ending.planned_steps, expects.total_steps)
    return expects.total_steps


def _tries(entries: Sequence[StepEntry], count: Sequence[StepEntry]) -> dict[str, Any]:
    """What all lines, and those that count, come to besides the rows; by the names of a receipt."""
    seen = {entry.step for entry in count}
    unlearned = [Unlearned(entry.step, one) for entry in count if entry.skipped for one in entry.not_finite]
    return {
        "attempted_steps": len(entries),
        "lost_steps": len(entries) - len(count),
        "is_regained": all(entry.step in seen for entry in entries),
        "applied_steps": sum(entry.applied for entry in count),
        "skipped_steps": sum(entry.skipped is not None for entry in count),
        "retried": sum(entry.retries for entry in count),
        "pause_seconds": sum(entry.pause_seconds for entry in entries),
        "seconds": sum(entry.seconds for entry in entries),
        "not_finite": tuple(unlearned[:MOST_CAUSES_WRITTEN]),
    }


def _policies(lock: Mapping[str, Any], records: Sequence[AttemptRecord]) -> dict[int, Policies]:
    """What the locks say of steps that cannot be learned from, by attempt."""
    stated = {1: policies_of(lock), **{one.attempt.attempt: policies_of(one.lock) for one in records}}
    return {attempt: policies for attempt, policies in stated.items() if policies is not None}


def _columns(
    count: Sequence[StepEntry],
    skips: Sequence[Skips],
    asked_steps: int,
    expects: Expects,
    records: Sequence[AttemptRecord],
    held: Held | None,
) -> tuple[Sums, Sums, Sums]:
    """What the steps that were done were planned to be, what everything asked for is, and what was real. A
    step that was skipped on purpose is not planned to be applied.
    """
    real = real_of(count)
    if held is not None:
        real["steps at another rate"] = held.other_rates
        real |= {f"steps at another rate of {group}": n for group, n in held.other_group_rates.items()}
    if held is not None and held.steps:
        seen = {entry.step for entry in count}
        asked = [step for step in held.steps.values() if step.step < asked_steps]
        others = {OTHER_SAMPLES: held.other_samples, OTHER_LAYOUT: held.other_layouts}
        none = dict.fromkeys(others, 0)
        real |= others
        done = planned_of_steps(step for step in asked if step.step in seen) | none
        promised = planned_of_steps(asked) | none
        names = _told_apart(records[-1].lock if records else {}, count)
        if names:
            real |= rows_of_sources(names, (entry.sources for entry in count))
            done |= rows_of_sources(names, (step.sources for step in asked if step.step in seen))
            promised |= rows_of_sources(names, (step.sources for step in asked))
    else:
        done = planned_of(count, asked_steps)
        promised = _promised(count, done, asked_steps, expects, records)
    for column in (done, promised):
        column |= {name: 0 for name in real if name not in column}
        column["updates applied"] -= sum(skip.steps for skip in skips)
    return done, promised, real


def _told_apart(lock: Mapping[str, Any], count: Sequence[StepEntry]) -> list[str]:
    """The names of the sources that all lines count apart; none where one does not (an older version wrote
    it).
    """
    names = [str(source["name"]) for source in lock.get("plan", {}).get("sources") or ()]
    return names if all(len(entry.sources) == len(names) for entry in count) else []


def _promised(
    count: Sequence[StepEntry],
    done: Sums,
    asked_steps: int,
    expects: Expects,
    records: Sequence[AttemptRecord],
) -> Sums:
    """The planned column: of the first steps for a run stopped on purpose, else of the whole plan. Attempts
    on other topologies planned other numbers of forwards.
    """
    if asked_steps < expects.total_steps:
        return {**done, "optimizer steps": asked_steps, "updates applied": asked_steps}
    promised = planned_of_lock(expects)
    if len(records) > 1:
        each = {record.attempt.attempt: _forwards_each_step(record.lock) for record in records}
        promised["forwards"] = planned_forwards(count, each, expects)
    return promised


def _forwards_each_step(lock: Mapping[str, Any]) -> int | None:
    """Over all ranks; None in the packed layout, where a step has as many as it needs."""
    if ((lock.get("config") or {}).get("data") or {}).get("layout") == "packed":
        return None
    expects = expects_of(lock)
    each, rest = divmod(expects.forwards, max(1, expects.total_steps))
    return None if rest else each


def receipt_of(run_dir: str) -> Receipt:
    """The receipt of a run folder. Raises Refused when what is in it cannot be read."""
    return receipt_of_run(read_run(run_dir))


def receipt_of_run(run: RunRecord, ending: Ending | None = None) -> Receipt:
    """The receipt of a run that was read: a running one, a killed one, one continued many times.

    ending: of the last attempt, for a run that is about to end and whose disk may not have taken it. Raises
    Refused when a lock's promise cannot be read.
    """
    ending = ending or run.ending
    receipt = make_receipt(
        run.lock, run.lines, ending, run.lines.torn, run.attempts, promise_of_run(run), run.validations
    )
    scored = None if ending is None else last_of(run.evaluations, ending.step)
    words = None if scored is None else scored.words
    receipt = replace(receipt, evaluation=words, branch=run.branch)
    missing = missing_result(run.run_dir, run.lock.get("config") or {}, ending) if receipt.complete else None
    if missing is None:
        return receipt
    ways = f"{resume_command(run.run_dir)}, or crossfoot export {quoted_path(run.run_dir)} OUT"
    notes = (*receipt.notes, f"{missing}; to make it from the last checkpoint: {ways}")
    return replace(receipt, result_missing=missing, notes=notes)


def write_receipt(path: str, receipt: Receipt) -> None:
    """Write `receipt.json` atomically. Raises Refused when the disk does not take it."""
    write_document(path, receipt.to_json())


def _skips(entries: Sequence[StepEntry]) -> tuple[Skips, ...]:
    """Skipped steps by reason."""
    steps, samples = Counter[str](), Counter[str]()
    for entry in entries:
        if entry.skipped is not None:
            steps[entry.skipped] += 1
            samples[entry.skipped] += entry.real_samples
    return tuple(Skips(why, steps[why], samples[why]) for why in sorted(steps))


def _allowed(attempts: Sequence[Attempt], lines: NumberedLines) -> tuple[Allowed, ...]:
    """The changes that were made on purpose and had an effect: of attempts that have a line that counts."""
    return tuple(
        Allowed(attempt.attempt, change.key, change.before, change.now)
        for attempt in _in_force(attempts, lines)
        for change in attempt.allowed
    )


def _accepted(attempts: Sequence[Attempt], lines: NumberedLines) -> tuple[Accepted, ...]:
    """What was accepted on purpose before attempts that have a line that counts: one for each code and
    reason, in the words of the newest attempt.
    """
    found: dict[tuple[str, str], Accepted] = {}
    for attempt in _in_force(attempts, lines):
        for one in attempt.accepted:
            before = found.get((one.code, one.reason))
            numbers = () if before is None else before.attempts
            found[one.code, one.reason] = Accepted(
                one.code, one.title, one.reason, (*numbers, attempt.attempt)
            )
    return tuple(found[key] for key in sorted(found))


def _in_force(attempts: Sequence[Attempt], lines: NumberedLines) -> list[Attempt]:
    """Those that have a line that counts."""
    trained = {entry.attempt for _, entry in lines}
    return [attempt for attempt in attempts if attempt.attempt in trained]


def _history(
    records: Sequence[AttemptRecord], entries: Sequence[StepEntry], count: Sequence[StepEntry]
) -> tuple[AttemptRow, ...]:
    written, kept = Counter(e.attempt for e in entries), Counter(e.attempt for e in count)
    return tuple(
        AttemptRow(
            attempt=record.attempt.attempt,
            first_step=record.attempt.first_step,
            from_checkpoint=record.attempt.from_checkpoint,
            steps=written[record.attempt.attempt],
            lost=written[record.attempt.attempt] - kept[record.attempt.attempt],
            world_size=record.attempt.world_size,
            engine=record.attempt.engine,
            zero_stage=record.attempt.zero_stage,
            lock=str(record.lock.get("sha256", "")),
            reason=None if record.ending is None else record.ending.reason,
            checkpoint_attempt=record.attempt.checkpoint_attempt,
            checkpoint_plan=record.attempt.checkpoint_plan,
        )
        for record in records
    )


def _notes(ending: Ending | None, torn: Finding | None, entries: Sequence[StepEntry]) -> tuple[str, ...]:
    notes = []
    if ending is None:
        notes.append("the run has not written how it ended: it was killed, or is still running")
    elif (how := CUT_SHORT.get(ending.reason)) is not None:
        notes.append(f"the run {how} {after_steps(ending.step)} (exit code {ending.exit_code})")
    if torn is not None:
        notes.append(torn.title)
    newest = late = 0
    for entry in entries:
        late += entry.attempt < newest
        newest = max(newest, entry.attempt)
    if late:
        what = "a line of an earlier attempt was" if late == 1 else f"{late} lines of earlier attempts were"
        notes.append(f"{what} written when a later one had begun: two of them ran at once")
    return tuple(notes)
