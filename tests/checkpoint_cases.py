"""Checkpoints of two small tensors, made without an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossfoot.checkpoints.manifest import Manifest, StoredTensor, write_manifest
from crossfoot.checkpoints.store import Checkpoint, commit, partial_folder
from crossfoot.checkpoints.tensor_file import TensorFile


def values(step: int, name: str) -> np.ndarray:
    return np.arange(7, dtype=np.float32).reshape(7, 1) * step + len(name)


def half_made(
    run: Path,
    step: int,
    attempt: int = 1,
    loss: float | None = None,
    plan: tuple[str, str] = ("p" * 64, "b" * 64),
) -> Path:
    """Two files and their manifest, not committed. plan: sha256 of a lock, and of its batches."""
    partial = partial_folder(run, step, attempt)
    partial.mkdir(parents=True)
    files, tensors = [], {}
    for rank, name in enumerate(("a", "a.exp_avg")):
        file = TensorFile(str(partial / f"tensors-{rank:05d}-of-00002.safetensors"), [(name, (7, 1))])
        file.write(name, values(step, name))
        files.append(file.close())
        tensors[name] = StoredTensor(files[-1].name, (7, 1), "F32")
    manifest = Manifest(
        step=step,
        plan_sha256=plan[0],
        batches_sha256=plan[1],
        attempt=attempt,
        files=tuple(files),
        tensors=tensors,
        optimizer="adamw",
        optimizer_step=step,
        validation_loss=loss,
        seconds=0.1,
        written="2025-01-01T00:00:00+00:00",
    )
    write_manifest(partial, manifest)
    return partial


def save(
    run: Path, step: int, attempt: int = 1, loss: float | None = None, **plan: tuple[str, str]
) -> Checkpoint:
    """The same, under its name."""
    return commit(half_made(run, step, attempt, loss, **plan))
