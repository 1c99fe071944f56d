"""The checkpoints of a run: written aside and renamed into place, so that what has its name is whole.

    checkpoints/step-000012/                               12 steps are done
    checkpoints/.partial-step-000012-attempt-001-3f9c/     is being written, or its save was killed
    checkpoints/.replaced-step-000012-3f9c/                made way for a new one of the same step
    checkpoints/.trash-step-000004-3f9c/                   is being deleted

A kill at any instant leaves the last good checkpoint under a name that is looked for.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from crossfoot.checkpoints.findings import damaged, unfinished
from crossfoot.checkpoints.manifest import (
    MANIFEST_FILE,
    Damaged,
    Manifest,
    read_manifest,
    verify_content,
    verify_sizes,
)
from crossfoot.durable import rename_folder, sync
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted

CHECKPOINTS = "checkpoints"
CHECKPOINT_NOW = "checkpoint-now"
"""A file of this name in the run folder asks a running run for a checkpoint."""
ABANDONED_SECONDS = 3600.0
"""A save of this attempt that has not written for so long is not being written any more."""
_DONE = re.compile(r"step-(\d{6,})|\.replaced-step-(\d{6,})-[0-9a-f]+")
_PARTIAL = re.compile(r"\.partial-step-(\d{6,})-attempt-(\d{3,})-[0-9a-f]+")
_REPLACED, _TRASH = ".replaced-", ".trash-"
_OWN_FILE = re.compile(rf"{re.escape(MANIFEST_FILE)}|tensors-\d{{5}}-of-\d{{5}}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. step: optimizer steps done; training goes on with the step of this index."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.manifest.step

    @property
    def name(self) -> str:
        """Of the folder: what an attempt says it was continued from."""
        return self.folder.name


def checkpoint_name(step: int) -> str:
    """Of the folder of a checkpoint after `step` steps."""
    return f"step-{step:06d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether a checkpoint's folder may be called so; what made way for a new one of the same step too."""
    return bool(_DONE.fullmatch(name))


def partial_folder(run_dir: str | Path, step: int, attempt: int) -> Path:
    """A name, not used before, for a checkpoint that is being written. Makes nothing."""
    name = f".partial-{checkpoint_name(step)}-attempt-{attempt:03d}-{secrets.token_hex(4)}"
    return Path(run_dir) / CHECKPOINTS / name


def checkpoint_in(run_dir: str | Path, name: str) -> Checkpoint:
    """The checkpoint of this name. Raises Damaged when its manifest cannot be read."""
    folder = Path(run_dir) / CHECKPOINTS / name
    return Checkpoint(folder, read_manifest(folder))


def list_checkpoints(run_dir: str | Path) -> tuple[Checkpoint, ...]:
    """The checkpoints whose files are all there and as long as they were written, oldest first."""
    return tuple(_good(_candidates(run_dir)))


def list_unfinished(run_dir: str | Path) -> tuple[tuple[int, int, Path], ...]:
    """(step, attempt, folder) of every save that is being written or was killed."""
    return tuple(_partials(Path(run_dir) / CHECKPOINTS))


def newest_good(
    run_dir: str | Path, *, checksums: bool = False, known_bad: Mapping[str, str] | None = None
) -> tuple[Checkpoint | None, tuple[Finding, ...]]:
    """The checkpoint to continue from, None when there is none; a warning for each newer one passed over.

    checksums: read every byte of it; otherwise sizes only. known_bad: what was found wrong with a folder, by
    its name, where somebody else has read its bytes.
    """
    passed_over: list[tuple[Path, str]] = []
    chosen = None
    for folder, checkpoint, problem in reversed(_candidates(run_dir)):
        problem = (known_bad or {}).get(folder.name, problem)
        if checkpoint is not None and checksums and not problem:
            try:
                verify_content(folder, checkpoint.manifest.files)
            except Damaged as damage:
                problem = str(damage)
        if not problem:
            chosen = checkpoint
            break
        passed_over.append((folder, problem))
    used = chosen.name if chosen is not None else None
    findings = [damaged(str(folder), problem, used) for folder, problem in passed_over]
    for step, _, partial in _partials(Path(run_dir) / CHECKPOINTS):
        if chosen is None or step > chosen.step:
            findings.append(unfinished(str(partial), used))
    return chosen, tuple(findings)


def commit(partial: Path) -> Checkpoint:
    """Give a checkpoint, whole and with its manifest, its name: everything is on the disk before and after.

    One of the same step that is there already makes way, and is deleted by the next `prune`. Raises OSError,
    and Damaged when a file is not as the manifest says.
    """
    manifest = read_manifest(partial)
    verify_sizes(partial, manifest)
    target = partial.parent / checkpoint_name(manifest.step)
    rename_folder(partial, target, target.parent / f"{_REPLACED}{target.name}-{secrets.token_hex(4)}")
    sync(target.parents[1])  # the first checkpoint of a run made the folder of all of them
    return Checkpoint(target, manifest)


def prune(run_dir: str | Path, keep: int, best: bool, attempt: int) -> tuple[str, ...]:
    """Delete what is not needed; returns the names of the checkpoints that went.

    Kept are the last `keep` good ones (at least one) and, with `best`, the one of the lowest validation loss
    among those that know theirs (of equal ones the newest). A damaged one goes when a newer one is good.
    Leftovers of killed saves go when they are of an attempt before `attempt` (1-based, the one that calls),
    or of this one and untouched for an hour. One process of a run calls this, and not while it saves.
    A deletion that is killed, or that the disk refuses, is taken up by the next call. A folder in which
    somebody else has put something stays as it is.
    """
    folder = Path(run_dir) / CHECKPOINTS
    candidates = _candidates(run_dir)
    good = _good(candidates)
    kept = {checkpoint.name for checkpoint in good[-max(keep, 1) :]}
    if best and (lowest := _best(good)) is not None:
        kept.add(lowest.name)
    newest = good[-1].step if good else -1
    gone = [path for path, checkpoint, _ in candidates if path.name not in kept and _step_of(path) <= newest]
    leftovers = [path for _, owner, path in _partials(folder) if _is_abandoned(path, owner, attempt)]
    for path in (*gone, *leftovers):
        _delete(path)
    for path in _entries(folder):
        if path.name.startswith(_TRASH):
            _remove(path)
    return tuple(path.name for path in gone)


def remove_partial(partial: Path) -> None:
    """Clear away a save that was given up; what the disk will not let go stays for the next `prune`."""
    _remove(partial)


def _candidates(run_dir: str | Path) -> list[tuple[Path, Checkpoint | None, str]]:
    """(folder, the checkpoint or None, what is wrong with it), oldest first; of two folders of one step the
    one under its own name comes last.
    """
    found = []
    for path in _entries(Path(run_dir) / CHECKPOINTS):
        if _DONE.fullmatch(path.name) and path.is_dir():
            checkpoint, problem = None, ""
            try:
                manifest = read_manifest(path)
                verify_sizes(path, manifest)
                if manifest.step != _step_of(path):
                    raise Damaged(f"its manifest says {counted(manifest.step, 'step')}")
                checkpoint = Checkpoint(path, manifest)
            except Damaged as damage:
                problem = str(damage)
            found.append((path, checkpoint, problem))
    return sorted(found, key=lambda one: (_step_of(one[0]), not one[0].name.startswith(_REPLACED)))


def _good(candidates: list[tuple[Path, Checkpoint | None, str]]) -> list[Checkpoint]:
    """One a step: what made way for a new one counts only where the new one is not good."""
    return list({checkpoint.step: checkpoint for _, checkpoint, _ in candidates if checkpoint}.values())


def _partials(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(step, attempt, folder) of every save that is being written or was killed."""
    for path in _entries(folder):
        if matched := _PARTIAL.fullmatch(path.name):
            yield int(matched[1]), int(matched[2]), path


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(folder.iterdir())
    return []


def _step_of(path: Path) -> int:
    matched = _DONE.fullmatch(path.name)
    return int(matched[1] or matched[2]) if matched else -1


def _best(good: list[Checkpoint]) -> Checkpoint | None:
    known = [checkpoint for checkpoint in good if checkpoint.manifest.validation_loss is not None]
    return min(known, key=lambda one: (one.manifest.validation_loss, -one.step), default=None)


def _is_abandoned(partial: Path, owner: int, attempt: int) -> bool:
    if owner != attempt:
        return owner < attempt
    with contextlib.suppress(OSError):
        touched = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
        # by the clock of the storage alone: the last change in the folder of all of them was just now
        return partial.parent.stat().st_mtime - touched > ABANDONED_SECONDS
    return False


def _delete(path: Path) -> None:
    """Renamed first: half of a deleted checkpoint must not be taken for a damaged one."""
    if not _is_own(path):
        return
    with contextlib.suppress(OSError):
        path.rename(path.parent / f"{_TRASH}{path.name.lstrip('.')}-{secrets.token_hex(4)}")


def _is_own(folder: Path) -> bool:
    """Whether a folder, no link, holds nothing but files of a checkpoint."""
    return not folder.is_symlink() and all(_OWN_FILE.fullmatch(path.name) for path in _entries(folder))


def _remove(folder: Path) -> None:
    """Delete the files of a checkpoint, and the folder when nothing else is in it."""
    if folder.is_symlink():
        return
    with contextlib.suppress(OSError):
        for path in _entries(folder):
            if _OWN_FILE.fullmatch(path.name):
                path.unlink()
        folder.rmdir()
