"""The weight files of a model that is not loaded: every tensor by its name, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from crossfoot.checks.model_folder import weight_files

DTYPE_NAMES: Mapping[torch.dtype, str] = {
    **{torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint8: "U8", torch.bool: "BOOL"},
}
"""As safetensors calls them."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what it is."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]


class BaseFiles:
    """One file is open at a time: what has been read of it leaves the memory with the next one."""

    def __init__(self, folder: Path) -> None:
        """Raises DamagedFile, OSError, SafetensorError or RuntimeError for a damaged or missing file."""
        self.files = tuple(weight_files(folder))
        self._open: tuple[Path, Any] | None = None
        self.tensors: dict[str, StoredTensor] = {}
        for file in self.files:
            for name, shape, dtype in self._contents(file):
                self.tensors[name] = StoredTensor(file, dtype, shape)

    def read(self, name: str) -> torch.Tensor:
        """A tensor on the CPU, as it is stored."""
        file = self.tensors[name].file
        opened = self._opened(file)
        value: torch.Tensor = opened[name] if isinstance(opened, dict) else opened.get_tensor(name)
        return value

    def close(self) -> None:
        """Let go of the open file."""
        self._open = None

    def in_file(self, file: Path) -> list[str]:
        """Names of the tensors of a file, in their order."""
        return [name for name, one in self.tensors.items() if one.file == file]

    def _contents(self, file: Path) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        opened = self._opened(file)
        if isinstance(opened, dict):
            yield from ((name, tuple(value.shape), value.dtype) for name, value in opened.items())
            return
        dtypes = {word: dtype for dtype, word in DTYPE_NAMES.items()}
        for name in opened.offset_keys():
            part = opened.get_slice(name)
            known = dtypes.get(part.get_dtype())
            yield name, tuple(part.get_shape()), known or opened.get_tensor(name).dtype

    def _opened(self, file: Path) -> Any:
        if self._open is None or self._open[0] != file:
            self._open = None
            self._open = (file, _open(file))
        return self._open[1]


def _open(file: Path) -> Any:
    """A safetensors handle, or a mapping of tensors; both are pages of the file until they are read."""
    if file.suffix == ".safetensors":
        return safe_open(file, framework="pt", device="cpu")
    try:
        return torch.load(file, "cpu", weights_only=True, mmap=True)
    except RuntimeError:  # as torch wrote before 1.6: it cannot be mapped
        return torch.load(file, "cpu", weights_only=True)
