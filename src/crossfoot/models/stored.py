"""The tensors of a checkpoint, read from its files one at a time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from safetensors import safe_open

from crossfoot.checkpoints.store import Checkpoint


class StoredTensors:
    """Used as a context manager, which keeps the files open."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._open_files = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.clear()
        self._open_files.close()

    def read(self, name: str) -> torch.Tensor | None:
        """A tensor, whole, in float32, on the CPU; None when the checkpoint has none of this name. Raises
        OSError, MemoryError, SafetensorError or RuntimeError.
        """
        stored = self._checkpoint.manifest.tensors.get(name)
        if stored is None:
            return None
        if stored.file not in self._files:
            path = self._checkpoint.folder / stored.file
            opened = self._open_files.enter_context(safe_open(path, framework="pt", device="cpu"))
            self._files[stored.file] = opened
        value: torch.Tensor = self._files[stored.file].get_tensor(name)
        if value.dtype != torch.float32 or tuple(value.shape) != stored.shape:
            raise OSError(f"{name} is not as the manifest says")
        return value
