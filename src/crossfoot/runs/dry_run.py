"""The dry run of a run: where it is, and what its first steps say about the run's own."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from crossfoot.findings.finding import Finding, Refused
from crossfoot.ledger.entry import StepEntry
from crossfoot.runs import findings
from crossfoot.runs.changing import changes
from crossfoot.runs.reader import RunRecord, read_run
from crossfoot.runs.run_folder import SIGN_OF_LIFE, holds_run
from crossfoot.written.shown import shown

MARK = "dry-run.json"
"""In the folder of a dry run: it may be made again."""
_WRITTEN = re.compile(
    r"(dry-run|plan\.lock|receipt)\.json|ledger\.jsonl|page\.html|\.nonce-\w+|\.[\w.-]+\.partial"
    r"|attempt-\d{3,}/(plan\.lock|attempt|ending|deepspeed)\.json|attempt-\d{3,}/config\.yaml"
    rf"|heartbeat/({SIGN_OF_LIFE.pattern})"
    r"|checkpoints/[\w.-]+/(manifest\.json|tensors-[\w-]+\.safetensors)"
    r"|launch/[\w-]+\.(sh|yaml)"
)
"""Paths of all that a dry run writes."""
_BY_TRACKERS = re.compile(
    r"wandb/(latest-run|debug[\w-]*\.log|(offline-)?run-\d{8}_\d{6}-\w+(/.*)?)"
    r"|tensorboard/attempt-\d{3,}/events\.out\.tfevents\.[\w.-]+"
)
"""What the keys of `tracking` write, links too."""
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3, "float16": 2e-3}
"""Of a step's loss, relative: what the rounding of another layout and another engine may come to. Measured on
a small model, 2 ranks under ZeRO 1-3 against one process: 1e-7 in float32; in bfloat16 6e-5 with LoRA and
2e-4 with all weights trained (tests/distributed/test_end_to_end.py prints it). Other devices have other
kernels: there a loss may be off by one rounding of the format (2 ** -8)."""


def dry_dir_of(run_dir: str) -> str:
    """The folder of a run's dry run."""
    return f"{run_dir}-dryrun"


def foreign_in(folder: str) -> list[str]:
    """What no dry run has written of all that lies in its folder, links too; paths below it."""
    if os.path.islink(folder) or os.path.isfile(folder):
        return [os.path.basename(folder)]
    paths = [
        os.path.join(above, name)
        for above, folders, files in os.walk(folder)
        for name in (*files, *(name for name in folders if os.path.islink(os.path.join(above, name))))
    ]
    below = [os.path.relpath(path, folder) for path in paths]
    return sorted(
        name
        for path, name in zip(paths, below, strict=True)
        if not _BY_TRACKERS.fullmatch(name) and (os.path.islink(path) or not _WRITTEN.fullmatch(name))
    )


def is_dry_run(run_dir: str) -> bool:
    """Whether a folder is a dry run's."""
    return os.path.exists(os.path.join(run_dir, MARK))


def compare_with_dry_run(run: RunRecord) -> str | Finding | None:
    """Hold the first steps of a run against its dry run: a line that says how well they agree, or a warning
    with both values (CF490). None when there is no dry run of these very batches, or nothing to compare yet.

    Only reads. A dry run of another plan (rates, model, precision) is named and not compared.
    """
    folder = dry_dir_of(os.path.normpath(run.run_dir))
    try:
        if not holds_run(folder) or not is_dry_run(folder):
            return None
        dry_run = read_run(folder)
        lock, dry_lock = run.lock, dry_run.lock
        batches = dry_lock["plan"]["batches_sha256"]
        if batches is None or batches != lock["plan"]["batches_sha256"]:
            return None
        if others := changes(dry_lock, lock):
            told = ", ".join(
                f"{one.key} was {shown(one.before)} there and is {shown(one.now)}" for one in others
            )
            return f"not held against the dry run: {told}"
        draws = _other_draws(lock, dry_lock)
        here = {entry.step: entry for entry in run.counted}
        pairs = [(here[entry.step], entry) for entry in dry_run.by_step() if entry.step in here]
    except (Refused, KeyError, TypeError):
        return None  # files of a dry run that cannot be read say nothing against the run
    return _verdict(pairs, lock["config"]["model"]["dtype"], draws, folder) if pairs else None


def _other_draws(lock: Mapping[str, Any], dry_lock: Mapping[str, Any]) -> str | None:
    """Why dropout draws other numbers; None when it draws the same ones, or nothing at all.

    Its draws belong to the slots of a step (`training.loop.slot_seed`).
    """
    if not (lock["config"].get("lora") or {}).get("dropout"):
        return None
    layouts = [one["config"]["data"].get("layout", "padded") for one in (lock, dry_lock)]
    if layouts[0] != layouts[1]:
        return f"dropout draws other numbers in the {layouts[0]} layout than in the {layouts[1]} one"
    by_tokens = [
        (one["plan"].get("micro_batch_tokens"), one["plan"]["dp_degree"]) for one in (lock, dry_lock)
    ]
    if any(tokens for tokens, _ in by_tokens):
        is_same = by_tokens[0] == by_tokens[1]
        return None if is_same else "dropout draws other numbers where other samples share a forward"
    here, there = (one["plan"]["dp_degree"] * one["plan"]["grad_accum_steps"] for one in (lock, dry_lock))
    if here == there:
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
    return findings.differs_from_dry_run(
        real.step + 1, real.loss, dry.loss, differences[worst], tolerance, folder
    )


def _difference(one: float, other: float) -> float:
    """Relative; 0 for two that are equal, both NaN included, and infinite when only one is finite."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))
