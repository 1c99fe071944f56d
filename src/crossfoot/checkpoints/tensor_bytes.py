"""A tensor file of a checkpoint, read once: the sha256 of its bytes, and whether they are numbers.

What a run would learn from a NaN in its optimizer's state is NaN, and its samples would be blamed.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossfoot.documents import Malformed, parse_object, value_of

_CHUNK_BYTES = 1 << 24
_MOST_HEADER_BYTES = 100_000_000
"""What safetensors itself allows."""
_NUMBER = np.dtype("<f4")


@dataclass(frozen=True)
class _Tensor:
    """An entry of a safetensors header. data_offsets: of its first byte, and of the one behind its last."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class ReadBytes:
    """sha256: of the whole file. strange: the first tensor that holds a NaN or an infinity; None: none does,
    or the file's bytes are not float32 tensors throughout.
    """

    sha256: str
    strange: str | None


def read_tensor_bytes(path: Path) -> ReadBytes:
    """Reads the whole file. Raises OSError."""
    digest = hashlib.sha256()
    strange = None
    with open(path, "rb", buffering=0) as file:
        head = file.read(8)
        header = file.read(min(int.from_bytes(head, "little"), _MOST_HEADER_BYTES))
        digest.update(head)
        digest.update(header)
        starts = _starts_of(header)
        at, rest = 0, b""
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if starts and strange is None:
                data = rest + chunk
                whole = len(data) - len(data) % _NUMBER.itemsize
                strange = _strange(np.frombuffer(data[:whole], _NUMBER), at, starts)
                at, rest = at + whole, data[whole:]
    return ReadBytes(digest.hexdigest(), strange)


def _starts_of(header: bytes) -> list[tuple[int, str]]:
    """(first byte, name) of each tensor, in the order of the bytes; none where one is not float32."""
    try:
        entries = parse_object(header)
        entries.pop("__metadata__", None)
        tensors = {name: value_of(_Tensor, entry) for name, entry in entries.items()}
    except Malformed:
        return []
    if any(tensor.dtype != "F32" for tensor in tensors.values()):
        return []
    offsets = {name: tensor.data_offsets for name, tensor in tensors.items()}
    return sorted((first, name) for name, (first, end) in offsets.items() if first < end)


def _strange(numbers: np.ndarray, at: int, starts: list[tuple[int, str]]) -> str | None:
    """The tensor of the first of these numbers, which begin at byte `at`, that is none."""
    is_number = np.isfinite(numbers)
    if is_number.all():
        return None
    byte = at + int(np.argmin(is_number)) * _NUMBER.itemsize
    return starts[max(0, bisect_right(starts, (byte, "\U0010ffff")) - 1)][1]
