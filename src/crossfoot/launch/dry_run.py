"""The dry run: the first steps of a cluster's plan, trained in one process, and what they say about it."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossfoot import durable
from crossfoot.findings.finding import Refused
from crossfoot.launch import findings
from crossfoot.ledger.entry import StepEntry
from crossfoot.phrases import counted as with_noun
from crossfoot.phrases import step_of
from crossfoot.receipts.receipt import receipt_of_run
from crossfoot.runs.attempts import attempt_numbers
from crossfoot.runs.dry_run import MARK, dry_dir_of, foreign_in
from crossfoot.runs.reader import read_run
from crossfoot.runs.run_folder import holds_run


def make_room(run_dir: str, steps: int) -> str:
    """The folder for a new dry run; an older one in it is removed. Refused when it holds anything else,
    another run, or a dry run that was continued: then it is more than one.
    """
    folder = dry_dir_of(run_dir)
    mark = Path(folder, MARK)
    if foreign := foreign_in(folder):
        raise Refused(findings.not_a_dry_run(folder, foreign))
    if mark.exists() and len(attempt_numbers(folder)) < 2:
        shutil.rmtree(folder)
    elif holds_run(folder):
        raise Refused(findings.not_a_dry_run(folder))
    mark.parent.mkdir(parents=True, exist_ok=True)
    durable.replace(mark, json.dumps({"of": run_dir, "steps": steps}) + "\n")
    return folder


def report(folder: str) -> str:
    """What a dry run has found out, as a page. Raises Refused when its files cannot be read."""
    run = read_run(folder)
    lock, receipt = run.lock, receipt_of_run(run)
    entries = run.by_step()
    plan: Mapping[str, Any] = lock["plan"]
    ranks, total = int(plan["dp_degree"]), int(plan["total_steps"])
    width = max(len("step"), len(f"{total}/{total}"))
    rows = [
        f"dry run of {lock['name']}: {with_noun(len(entries), 'step')} of {total:,}, "
        f"{with_noun(ranks, 'rank')} folded into this process",
        f"  {'step':>{width}}           loss      grad norm           rate    seconds",
    ]
    for entry in entries:
        done = step_of(entry.step, total).removeprefix("step").strip()
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


def _duration(seconds: float) -> str:
    """`2.5 s`, `52 min`, `3 h 20 min`."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if hours else f"{minutes} min"
