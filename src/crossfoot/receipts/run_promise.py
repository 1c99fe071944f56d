"""What a run folder's papers promise together: the terms of every attempt, the data index that they speak of,
and where locks, checkpoints and index contradict each other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfoot.checkpoints.manifest import Damaged
from crossfoot.checkpoints.store import checkpoint_in
from crossfoot.findings.finding import Place, Refused
from crossfoot.index.store import DataIndex, IndexDamaged, open_index
from crossfoot.ledger.entry import Cause
from crossfoot.ledger.findings import lock_unreadable, promise_broken
from crossfoot.phrases import counted, step_name
from crossfoot.receipts.promise import promised_rates
from crossfoot.receipts.promise_audit import Promise, is_promised, lock_faults
from crossfoot.receipts.promised_heights import beta2_of
from crossfoot.receipts.promised_held_out import trained_part
from crossfoot.receipts.promised_sets import Terms, terms_of
from crossfoot.runs.attempts import LOCK_FILE, Attempt, attempt_path
from crossfoot.runs.reader import RunRecord
from crossfoot.written.paths import at_home


@dataclass(frozen=True)
class RunPromise:
    """promise: of all attempts. causes: contradictions between the papers. notes: what could not be held."""

    promise: Promise
    causes: tuple[Cause, ...]
    notes: tuple[str, ...]


def promise_of_run(run: RunRecord) -> RunPromise:
    """The promise of a run folder. Raises Refused (CF706) for a lock from which no plan can be read."""
    run_dir, lock = run.run_dir, run.lock
    whole = find_index(run_dir, lock, run.started)
    causes: list[Cause] = []
    terms: dict[int, Terms] = {}
    judged: set[str] = set()
    locks = [(one.attempt.attempt, one.lock, _is_folded(one.attempt)) for one in run.attempts]
    index: DataIndex | None = None
    for number, own, is_folded in locks or [(1, lock, False)]:
        try:
            index = None if whole is None else trained_part(whole, own)
            planned = terms_of(own, index)
            if own["sha256"] not in judged:
                causes += lock_faults(own, number, planned, index)
        except (ValueError, KeyError, TypeError) as error:
            path = attempt_path(run_dir, number, LOCK_FILE) if locks else os.path.join(run_dir, LOCK_FILE)
            place = Place(path)
            raise Refused(lock_unreadable("the plan's lock cannot be read", place, (str(error),))) from error
        judged.add(own["sha256"])
        terms[number] = planned.folded() if is_folded else planned
    if locks and (first := str(locks[0][1]["sha256"])) != lock["sha256"]:
        values = (lock["sha256"][:16], first[:16])
        message = f"{LOCK_FILE} is not the lock of the first attempt"
        causes.append(Cause(0, None, None, "lock contradicts itself", message, None, None, *values))
    causes += _checkpoint_faults(run)
    notes = (*_beta_note(lock), *(_held_out_note(whole, index) if index is not None else (_no_index(lock),)))
    return RunPromise(Promise(terms, index), tuple(causes), notes)


def refuse_broken_promise(
    lock: Mapping[str, Any],
    index: DataIndex,
    rates: npt.NDArray[np.float64],
    ratios: Mapping[str, float],
) -> None:
    """Before a run is trained: what its lock says, and the rates it will be told, float64[total_steps], with
    the ratios of its groups, must be what the lock's own numbers make. index: of all of data.train. Raises
    Refused (CF709).
    """
    contents = trained_part(index, lock)
    terms = terms_of(lock, contents)
    faults = [cause.message for cause in lock_faults(lock, 1, terms, contents)]
    promised, peak, _ = promised_rates(terms)
    if len(promised) == len(rates):
        wrong = [k for k in range(len(rates)) if not is_promised(rates[k], promised[k], peak)]
        if wrong:
            step = wrong[0]
            faults.append(
                f"{len(wrong):,} of {len(rates):,} rates differ: {step_name(step)} would be told "
                f"{rates[step]:.9g}, and is promised {promised[step]:.9g}"
            )
    if (said := dict(terms.lr.get("groups") or {})) != ratios:
        faults.append(f"groups of parameters would step at {dict(ratios)}, and are promised {said}")
    if faults:
        raise Refused(promise_broken(tuple(faults)))


def find_index(run_dir: str, lock: Mapping[str, Any], attempts: Sequence[Attempt] = ()) -> DataIndex | None:
    """The data index that a lock speaks of, where its attempts had it, or where the config says; None where
    it is not there any more, or is no whole index.
    """
    try:
        address = str(lock["index"]["address"])
        folders = index_dirs(run_dir, lock, attempts)
    except (KeyError, TypeError, AttributeError):
        return None
    for folder in folders:
        try:
            index = open_index(os.path.join(folder, address))
        except IndexDamaged:
            continue
        if index.address == address and index.num_samples == _samples_of(lock["plan"]):
            return index
    return None


def _samples_of(plan: Mapping[str, Any]) -> int:
    """Of all of data.train."""
    sources = plan.get("sources")
    trained = sum(source["samples"] for source in sources) if sources else int(plan["samples_per_epoch"])
    return int(trained + (plan.get("held_out_samples") or 0) + (plan.get("held_out_duplicates") or 0))


def index_dirs(run_dir: str, lock: Mapping[str, Any], attempts: Sequence[Attempt]) -> list[str]:
    """Where a run's index may lie: as the config has it (beside the run folder as it lies now), then where
    attempts had it. Raises KeyError, TypeError, AttributeError for a lock without such a config.
    """
    given = lock["config"]["data"].get("index_dir")
    first = at_home(given) if given else os.path.join(os.path.dirname(os.path.normpath(run_dir)), ".index")
    noted = [attempt.index_dir for attempt in attempts if attempt.index_dir]
    return list(dict.fromkeys([first, *noted]))


def _is_folded(attempt: Attempt) -> bool:
    """Whether one process stood in for all ranks of the plan."""
    return attempt.engine == "accelerate" and attempt.world_size == 1


def _beta_note(lock: Mapping[str, Any]) -> tuple[str, ...]:
    """Where AdamW's second beta is not the one that is written."""
    if (beta := beta2_of(lock)) is None:
        return ()
    optimizer, batch = lock["config"]["optimizer"], lock["plan"]["global_batch_size"]
    return (
        f"AdamW's second beta was {beta:.6g} at {batch:,} samples a step, as the optimizer itself says: the "
        f"half-life in samples of {optimizer['betas'][1]:g} at {optimizer['beta2_reference_batch']:,}",
    )


def _held_out_note(whole: DataIndex | None, trained: DataIndex) -> tuple[str, ...]:
    """That nothing held out is promised to a step, where something is."""
    if whole is None or whole.num_samples == trained.num_samples:
        return ()
    apart = np.isin(whole.digests, trained.digests, invert=True)
    held_out = np.unique(whole.digests[apart]).size
    return (
        f"{counted(held_out, 'sample')} held out for validation, as worked out again from the data index: no "
        "step is promised one of them, or a duplicate",
    )


def _no_index(lock: Mapping[str, Any]) -> str:
    address = (lock.get("index") or {}).get("address", "?")
    return (
        f"the data index {address} is not here: rates are held against the lock, samples and slots only "
        "against what the ledger itself says was planned"
    )


def _checkpoint_faults(run: RunRecord) -> list[Cause]:
    """Attempts that began from a checkpoint which no attempt of this run wrote: by what they noted when they
    began, and by the checkpoint itself where it is still there.
    """
    locks = {record.attempt.attempt: str(record.lock["sha256"]) for record in run.attempts}
    causes = []
    for attempt in run.started:
        name = attempt.from_checkpoint
        if name is None:
            continue
        marks = {(attempt.checkpoint_attempt, attempt.checkpoint_plan)} - {(None, None)}
        try:
            manifest = checkpoint_in(run.run_dir, name).manifest
            marks.add((manifest.attempt, manifest.plan_sha256))
        except Damaged:
            pass  # pruned since
        for writer, plan in sorted(marks, key=str):
            own = locks.get(writer) if writer is not None else None
            if own != plan:
                message = (
                    f"attempt {attempt.attempt} began from {name}, whose plan is {str(plan)[:7]}; "
                    f"attempt {writer} of this run has {own[:7] if own else 'none'}"
                )
                step = attempt.first_step
                kind = "checkpoint of another run"
                causes.append(Cause(step, None, None, kind, message, None, None, own, plan))
    return causes
