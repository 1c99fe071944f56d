"""Begin a branch: its folder is a copy of another run's past, made aside and named when it is whole."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from crossfoot.branching.findings import no_branch_point
from crossfoot.branching.point import BranchPoint
from crossfoot.checkpoints.manifest import MANIFEST_FILE
from crossfoot.durable import name_folder
from crossfoot.findings.finding import Refused
from crossfoot.index.store import DataIndex
from crossfoot.ledger.book import read_readable
from crossfoot.phrases import after_steps, said_by
from crossfoot.planning.lock import make_lock
from crossfoot.planning.plan import RunPlan
from crossfoot.receipts.receipt import receipt_of
from crossfoot.runs.attempts import (
    ENDING_FILE,
    LEDGER_FILE,
    LOCK_FILE,
    attempt_path,
    lock_path,
    run_lock_path,
    write_attempt,
)
from crossfoot.runs.branched import Branched, read_branch, write_branch
from crossfoot.runs.past import hold_plan
from crossfoot.runs.run_folder import folder_not_writable, folder_refusals
from crossfoot.runs.validations import append_validation, read_validations
from crossfoot.shell_words import quoted_path

_MOST_FAULTS = 3


def begin_branch(point: BranchPoint, plan: RunPlan, index: DataIndex, allow: Sequence[str] = ()) -> Branched:
    """Make the folder of a run that goes on from `point` as `plan` says, in `plan.run.run_dir`; one that was
    made for the same point is left as it is. It is then continued like any run.

    index: of what is trained. allow: keys that may be others than the run had, besides the batch behind the
    point and the length. The run that it comes from is not touched; files of its checkpoint are linked where
    the file system can, else copied. Raises Refused: the plan is none that can follow (CF119, CF743, CF745),
    the past does not foot (CF120), the folder is taken (CF011) or cannot be written (CF012).
    """
    run, run_dir = plan.run, plan.run.run_dir
    branch = _record(point, allow)
    hold_plan(run, point.past, make_lock(plan), plan.schedule, plan.rate, index.digests, allow)
    if _is_made(run_dir, branch):
        return branch
    if findings := folder_refusals(run):
        raise Refused(findings)
    target = Path(run_dir)
    for leftover in glob.glob(glob.escape(_partial(target, "")) + "*"):  # of one that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial = Path(_partial(target, secrets.token_hex(4)))
    try:
        _copy_past(point, partial)
        write_branch(str(partial), branch)
        _refuse_astray(point, partial)
        name_folder(partial, target)
    except OSError as error:
        if not _is_made(run_dir, branch):  # by another process meanwhile
            raise Refused(folder_not_writable(run, said_by(error))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return branch


def _record(point: BranchPoint, allow: Sequence[str]) -> Branched:
    return Branched(
        run_dir=os.path.abspath(point.run_dir),
        name=str(point.lock["name"]),
        step=point.step,
        samples=point.samples,
        attempt=point.attempt,
        written=point.checkpoint.manifest.written,
        allow=tuple(dict.fromkeys(allow)),
    )


def _is_made(run_dir: str, branch: Branched) -> bool:
    there = read_branch(run_dir)
    return there is not None and replace(there, allow=branch.allow) == branch


def _partial(target: Path, mark: str) -> str:
    """A name beside the folder, with a mark that nobody else has."""
    return str(target.absolute().with_name(f".{target.name}.branching-{mark}"))


def _copy_past(point: BranchPoint, folder: Path) -> None:
    """Locks, attempts and how those before the last one ended, lines, validations and the checkpoint."""
    source, checkpoint = point.run_dir, point.checkpoint
    saved = folder / checkpoint.folder.relative_to(source)
    saved.mkdir(parents=True)
    for name in (*(file.name for file in checkpoint.manifest.files), MANIFEST_FILE):
        _link(checkpoint.folder / name, saved / name)
    shutil.copyfile(run_lock_path(source), folder / LOCK_FILE)
    for attempt in point.attempts:
        number = attempt.attempt
        own = Path(attempt_path(str(folder), number))
        own.mkdir()
        shutil.copyfile(lock_path(source, number), own / LOCK_FILE)
        ending = attempt_path(source, number, ENDING_FILE)
        if number != point.attempt and os.path.exists(ending):
            shutil.copyfile(ending, own / ENDING_FILE)
        # without the command that continues the run it comes from
        write_attempt(str(folder), replace(attempt, command=()))
    (folder / LEDGER_FILE).write_bytes(_lines(point))
    for one in read_validations(source):
        if one.step <= point.step and one.attempt <= point.attempt:
            append_validation(str(folder), one)


def _lines(point: BranchPoint) -> bytes:
    """The lines of the past as they were written."""
    path = os.path.join(point.run_dir, LEDGER_FILE)
    entries = read_readable(path)
    texts = Path(path).read_bytes()[: entries.whole_bytes].splitlines(keepends=True)
    wanted = {(line.attempt, line.step) for line in point.lines}
    return b"".join(
        text for text, line in zip(texts, entries, strict=True) if (line.attempt, line.step) in wanted
    )


def _link(source: Path, target: Path) -> None:
    """Checkpoints are never written again, only deleted: two names of one file are two of them."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _refuse_astray(point: BranchPoint, folder: Path) -> None:
    """Refused when what was copied does not foot, by the receipt's own arithmetic."""
    receipt = receipt_of(str(folder))
    if not receipt.foots_so_far:
        faults = [cause.message for cause in receipt.causes[:_MOST_FAULTS]]
        title = f"the steps of {point.run_dir} do not foot {after_steps(point.step)}"
        see = f"see what is wrong: crossfoot receipt {quoted_path(point.run_dir)}"
        raise Refused(no_branch_point(title, see, notes=faults))
