"""The dry run: the first steps of a cluster's plan, trained in one process, and what they say about it."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossfoot import durable
from crossfoot.findings.finding import Finding, Refused
from crossfoot.launch import findings as refusals
from crossfoot.launch.resolving import dry_dir_of
from crossfoot.ledger.attempts import LEDGER_FILE, LOCK_FILE, attempt_numbers, counted, read_attempts
from crossfoot.ledger.book import read_readable
from crossfoot.ledger.ending import read_lock
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.receipt import receipt_of
from crossfoot.phrases import counted as with_noun
from crossfoot.planning.changing import changes
from crossfoot.planning.run_folder import holds_run
from crossfoot.written.shown import shown

MARK = "dry-run.json"
"""In the folder of a dry run: it may be made again."""
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3, "float16": 2e-3}
"""Of a step's loss, relative: what the rounding of another layout and another engine may come to. Measured on
a small model, 2 ranks under ZeRO 1-3 against one process: 1e-7 in float32; in bfloat16 6e-5 with LoRA and
2e-4 with all weights trained (tests/distributed/test_end_to_end.py prints it). Other devices have other
kernels: there a loss may be off by one rounding of the format (2 ** -8)."""


def make_room(run_dir: str, steps: int) -> str:
    """The folder for a new dry run; an older one in it is removed. Refused when it holds another run, or a
    dry run that was continued: then it is more than one.
    """
    folder = dry_dir_of(run_dir)
    mark = Path(folder, MARK)
    if mark.exists() and len(attempt_numbers(folder)) < 2:
        shutil.rmtree(folder)
    elif holds_run(folder):
        raise Refused(refusals.not_a_dry_run(folder))
    mark.parent.mkdir(parents=True, exist_ok=True)
    durable.replace(mark, json.dumps({"of": run_dir, "steps": steps}) + "\n")
    return folder


def report(folder: str) -> str:
    """What a dry run has found out, as a page. Raises Refused when its papers cannot be read."""
    lock, entries, receipt = read_lock(os.path.join(folder, LOCK_FILE)), _lines(folder), receipt_of(folder)
    plan: Mapping[str, Any] = lock["plan"]
    ranks, total = int(plan["dp_degree"]), int(plan["total_steps"])
    width = max(len("step"), len(f"{total}/{total}"))
    rows = [
        f"dry run of {lock['name']}: {with_noun(len(entries), 'step')} of {total:,}, "
        f"{with_noun(ranks, 'rank')} folded into this process",
        f"  {'step':>{width}}           loss      grad norm           rate    seconds",
    ]
    for entry in entries:
        done = f"{entry.step + 1}/{total}"  # as the run itself counts them while it trains
        rows.append(
            f"  {done:>{width}}   {entry.loss:>12.7g}   {entry.grad_norm:>12.6g}   {entry.lr:>12.6g}"
            f"   {entry.seconds:>8.2f}"
        )
    samples = sum(entry.real_samples for entry in entries)
    rows.append(f"receipt: {'foots' if receipt.foots else 'DOES NOT FOOT'}, {samples:,} samples trained")
    rows += _estimate(entries, ranks, total)
    rows.append(f"the run itself will print these losses, and is held against them when it ends ({folder})")
    return "\n".join(rows)


def _estimate(entries: Sequence[StepEntry], ranks: int, total: int) -> list[str]:
    """Seconds per step here, and what the cluster should then need. The first step is not typical."""
    typical = entries[1:] or entries
    if not typical:
        return []
    here = statistics.median(entry.seconds for entry in typical)
    there = here / ranks
    return [
        f"a step takes {_duration(here)} here; on {with_noun(ranks, 'rank')} like this one "
        f"{_duration(there)}, {_duration(there * total)} for all {total:,} steps",
        "    an estimate: it assumes ranks as fast as this process and nothing lost to communication, and "
        "leaves out loading, validation and checkpoints",
    ]


def is_dry_run(run_dir: str) -> bool:
    """Whether a folder is a dry run's."""
    return os.path.exists(os.path.join(run_dir, MARK))


def compare_with_dry_run(run_dir: str) -> str | Finding | None:
    """Hold the first steps of a run against its dry run: a line that says how well they agree, or a warning
    with both values (CF490). None when there is no dry run of these very batches, or nothing to compare yet.

    Only reads. A dry run of another plan (rates, model, precision) is named and not compared.
    """
    folder = dry_dir_of(os.path.normpath(run_dir))
    try:
        if not holds_run(folder) or not is_dry_run(folder):
            return None
        lock, dry_lock = (read_lock(os.path.join(each, LOCK_FILE)) for each in (run_dir, folder))
        batches = dry_lock["plan"]["batches_sha256"]
        if batches is None or batches != lock["plan"]["batches_sha256"]:
            return None
        if others := changes(dry_lock, lock):
            told = ", ".join(
                f"{one.key} was {shown(one.before)} there and is {shown(one.now)}" for one in others
            )
            return f"not held against the dry run: {told}"
        draws = _other_draws(lock, dry_lock)
        here = {entry.step: entry for entry in _lines(run_dir)}
        pairs = [(here[entry.step], entry) for entry in _lines(folder) if entry.step in here]
    except (Refused, KeyError, TypeError):
        return None  # papers of a dry run that cannot be read say nothing against the run
    return _verdict(pairs, lock["config"]["model"]["dtype"], draws, folder) if pairs else None


def _other_draws(lock: Mapping[str, Any], dry_lock: Mapping[str, Any]) -> str | None:
    """Why dropout draws other numbers; None when it draws the same ones, or nothing at all.

    Its draws belong to the slots of a step (`training.loop.slot_seed`).
    """
    here, there = (one["plan"]["dp_degree"] * one["plan"]["grad_accum_steps"] for one in (lock, dry_lock))
    if here == there or not (lock["config"].get("lora") or {}).get("dropout"):
        return None
    return f"dropout draws other numbers in {here:,} slots a step than in {there:,}"


def _verdict(
    pairs: Sequence[tuple[StepEntry, StepEntry]], dtype: str, other_draws: str | None, folder: str
) -> str | Finding:
    differences = [_difference(real.loss, dry.loss) for real, dry in pairs]
    largest = max(differences)
    how_many = "the first step" if len(pairs) == 1 else f"the first {len(pairs)} steps"
    if other_draws is not None:
        return f"{how_many} and the dry run differ by {largest:.0e}: {other_draws}"
    tolerance = TOLERANCE[dtype]
    worst = next((at for at, one in enumerate(differences) if not one <= tolerance), None)
    if worst is None:
        verb = "agrees" if len(pairs) == 1 else "agree"
        return f"{how_many} {verb} with the dry run " + (f"to {largest:.0e}" if largest else "exactly")
    real, dry = pairs[worst]
    return refusals.differs_from_dry_run(
        real.step + 1, real.loss, dry.loss, differences[worst], tolerance, folder
    )


def _difference(one: float, other: float) -> float:
    """Relative; 0 for two that are equal, both no numbers included, and infinite for one that is none."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))


def _lines(run_dir: str) -> list[StepEntry]:
    """The lines that count, by step."""
    lines = read_readable(os.path.join(run_dir, LEDGER_FILE))
    attempts = read_attempts(run_dir, {line.attempt for line in lines})
    return sorted(counted(lines, attempts)[0], key=lambda entry: entry.step)


def _duration(seconds: float) -> str:
    """`2.5 s`, `52 min`, `3 h 20 min`."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if hours else f"{minutes} min"
