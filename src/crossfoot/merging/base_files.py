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
    """A safetensors file is opened anew for each tensor, so that no more than that one is in memory; of a
    pickled file, which is taken apart once, the newest is kept.
    """

    def __init__(self, folder: Path) -> None:
        """Raises DamagedFile, OSError, SafetensorError or RuntimeError for a damaged or missing file."""
        self.files = tuple(weight_files(folder))
        self._pickled: tuple[Path, Mapping[str, torch.Tensor]] | None = None
        self.tensors: dict[str, StoredTensor] = {}
        for file in self.files:
            for name, shape, dtype in self._contents(file):
                self.tensors[name] = StoredTensor(file, dtype, shape)

    def read(self, name: str) -> torch.Tensor:
        """A tensor on the CPU, as it is stored."""
        file = self.tensors[name].file
        if file.suffix != ".safetensors":
            return self._unpickled(file)[name]
        with _safe(file) as opened:
            value: torch.Tensor = opened.get_tensor(name)
        return value

    def close(self) -> None:
        """Let go of what is kept."""
        self._pickled = None

    def in_file(self, file: Path) -> list[str]:
        """Names of the tensors of a file, in their order."""
        return [name for name, one in self.tensors.items() if one.file == file]

    def _contents(self, file: Path) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        if file.suffix != ".safetensors":
            yield from ((name, tuple(one.shape), one.dtype) for name, one in self._unpickled(file).items())
            return
        dtypes = {word: dtype for dtype, word in DTYPE_NAMES.items()}
        with _safe(file) as opened:
            for name in opened.offset_keys():
                part = opened.get_slice(name)
                known = dtypes.get(part.get_dtype())
                yield name, tuple(part.get_shape()), known or opened.get_tensor(name).dtype

    def _unpickled(self, file: Path) -> Mapping[str, torch.Tensor]:
        if self._pickled is None or self._pickled[0] != file:
            self._pickled = None
            try:
                found = torch.load(file, "cpu", weights_only=True, mmap=True)
            except RuntimeError:  # as torch wrote before 1.6: it cannot be mapped
                found = torch.load(file, "cpu", weights_only=True)
            self._pickled = file, found
        return self._pickled[1]


def _safe(file: Path) -> Any:
    return safe_open(file, framework="pt", device="cpu")
