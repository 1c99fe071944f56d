"""manifest.json of a checkpoint: written last, it says what every other file must be."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossfoot.checkpoints.findings import WRITTEN_SO
from crossfoot.checkpoints.tensor_bytes import read_tensor_bytes
from crossfoot.digests import sha256_of_document
from crossfoot.documents import Malformed, read_object, value_of
from crossfoot.phrases import said_by

FORMAT = 1
MANIFEST_FILE = "manifest.json"
_READERS = 8
"""Files that are read at the same time."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Damaged(Exception):
    """A checkpoint is not what it was when it was written; the text says in what."""


@dataclass(frozen=True)
class WrittenFile:
    """A file of a checkpoint as it was written."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. dtype: by safetensors' names."""

    file: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LossScale:
    """Where a float16 run is with its loss scale. scale: of the next loss. steps: applied since the last
    overflow, of which the scale grows after a while. overflows_left: how many more DeepSpeed lets pass before
    it lowers the scale (hysteresis); None where the first does.
    """

    scale: float
    steps: int
    overflows_left: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and self.steps >= 0 and (self.overflows_left or 0) >= 0):
            raise ValueError(f"{self} is no loss scale")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds and what it belongs to.

    step: optimizer steps done. plan_sha256: the lock of the attempt that wrote it. batches_sha256:
    the step sets, None where the plan does not know them. attempt: 1-based. files: all but the manifest.
    tensors: "NAME" the float32 value of the trained parameter NAME, "NAME.exp_avg" and "NAME.exp_avg_sq"
    what adamw keeps for it. optimizer: its name. optimizer_step: how often it stepped. odd_steps: by
    parameter, where that differs. validation_loss: None when none was taken. seconds: the save took.
    written: ISO 8601, UTC. loss_scale: of float16, None elsewhere and where the scale is fixed.
    """

    step: int
    plan_sha256: str
    batches_sha256: str | None
    attempt: int
    files: tuple[WrittenFile, ...]
    tensors: Mapping[str, StoredTensor]
    optimizer: str
    optimizer_step: int
    validation_loss: float | None
    seconds: float
    written: str
    odd_steps: Mapping[str, int] = field(default_factory=dict)
    loss_scale: LossScale | None = None

    @property
    def total_bytes(self) -> int:
        """Of all its files but the manifest."""
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """The document, with the sha256 of everything else in it."""
        loss = self.validation_loss
        document = {
            "format": FORMAT,
            "step": self.step,
            "plan_sha256": self.plan_sha256,
            "batches_sha256": self.batches_sha256,
            "attempt": self.attempt,
            "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in self.files],
            "tensors": {
                name: {"file": tensor.file, "shape": list(tensor.shape), "dtype": tensor.dtype}
                for name, tensor in self.tensors.items()
            },
            "optimizer": {
                "name": self.optimizer,
                "step": self.optimizer_step,
                "odd_steps": dict(self.odd_steps),
            },
            "validation_loss": loss if loss is not None and math.isfinite(loss) else None,
            "seconds": self.seconds,
            "written": self.written,
            **({} if self.loss_scale is None else {"loss_scale": vars(self.loss_scale)}),
        }
        return {**document, "sha256": sha256_of_document(document)}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Into a folder that is not a checkpoint yet; `commit` makes it durable. Raises OSError."""
    text = json.dumps(manifest.to_json(), indent=1, allow_nan=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder. Raises Damaged."""
    try:
        document = read_object(folder / MANIFEST_FILE)
        if isinstance(document.get("format"), int) and document["format"] > FORMAT:
            raise Damaged(
                f"it is written in format {document['format']}, this crossfoot reads format {FORMAT}"
            )
        if document.pop("sha256", None) != sha256_of_document(document):
            raise Damaged(f"{MANIFEST_FILE} is not what was written: its sha256 differs")
        return _manifest_of(value_of(_Document, document))
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST_FILE} is missing") from None
    except OSError as error:
        raise Damaged(f"{MANIFEST_FILE} cannot be read: {said_by(error)}") from error
    except Malformed as error:
        raise Damaged(error.said_of(MANIFEST_FILE)) from error


def verify_sizes(folder: Path, manifest: Manifest) -> None:
    """Every file is there and as long as it was. Raises Damaged."""
    for file in manifest.files:
        try:
            size = os.stat(folder / file.name).st_size
        except FileNotFoundError:
            raise Damaged(f"{file.name} is missing") from None
        except OSError as error:
            raise Damaged(f"{file.name} cannot be read: {said_by(error)}") from error
        if size != file.bytes:
            raise Damaged(f"{file.name} has {size:,} bytes, {file.bytes:,} were written")


def verify_content(folder: Path, files: Iterable[WrittenFile]) -> None:
    """Every byte of these files is as it was, and every number in them is one. Raises Damaged; reads them
    whole, several at a time.
    """

    def verify(file: WrittenFile) -> None:
        try:
            found = read_tensor_bytes(folder / file.name)
        except OSError as error:
            raise Damaged(f"{file.name} cannot be read: {said_by(error)}") from error
        if found.sha256 != file.sha256:
            raise Damaged(f"{file.name} has sha256 {found.sha256[:7]}, {file.sha256[:7]} was written")
        if found.strange is not None:
            raise Damaged(f"{found.strange} holds NaN or infinity, {WRITTEN_SO}")

    with ThreadPoolExecutor(_READERS) as readers:  # hashlib lets other threads run
        for _ in readers.map(verify, files):
            pass


@dataclass(frozen=True)
class _Optimizer:
    name: str
    step: int
    odd_steps: Mapping[str, int]


@dataclass(frozen=True)
class _Document:
    """A manifest as it is written."""

    step: int
    plan_sha256: str
    batches_sha256: str | None
    attempt: int
    files: tuple[WrittenFile, ...]
    tensors: Mapping[str, StoredTensor]
    optimizer: _Optimizer
    validation_loss: float | None
    seconds: float
    written: str
    loss_scale: LossScale | None = None

    def __post_init__(self) -> None:
        names = {file.name for file in self.files}
        for name in names:
            if not _PLAIN_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a file in its folder")
        for name, tensor in self.tensors.items():
            if tensor.file not in names:  # what is in no such file has no checksum
                raise ValueError(f"the tensor {name} is in {tensor.file!r}, which is none of its files")
        steps = (self.optimizer.step, *self.optimizer.odd_steps.values())
        if self.attempt < 1 or not all(0 <= count <= self.step for count in steps):
            raise ValueError(f"the optimizer cannot have stepped {max(steps):,} times in {self.step:,} steps")
        if unknown := sorted(set(self.optimizer.odd_steps) - set(self.tensors)):
            raise ValueError(f"the optimizer stepped {unknown[0]}, which is none of its tensors")


def _manifest_of(document: _Document) -> Manifest:
    optimizer = document.optimizer
    flat = {"optimizer": optimizer.name, "optimizer_step": optimizer.step, "odd_steps": optimizer.odd_steps}
    return Manifest(**{**vars(document), **flat})
