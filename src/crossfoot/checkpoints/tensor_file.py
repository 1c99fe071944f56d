"""A safetensors file written front to back: one tensor in memory at a time, hashed on its way to the disk.

The library writes a file from all of its tensors at once, and hashes nothing. The format is eight bytes with
the length of a JSON header, the header, and the tensors' bytes one after another
(https://github.com/huggingface/safetensors#format); it is read with the library, here and by everyone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence

import numpy as np

from crossfoot.checkpoints.manifest import WrittenFile
from crossfoot.durable import sync_open

DTYPE = "F32"
_BYTES_EACH = 4
_ALIGNMENT = 8
_CHUNK_BYTES = 1 << 24


def bytes_of(shape: Sequence[int]) -> int:
    """Bytes of a float32 tensor."""
    return math.prod(shape) * _BYTES_EACH


class TensorFile:
    """A new file of float32 tensors, whose names, shapes and order are known before the first is written.

    Raises OSError: the file exists already, or the disk refuses.
    """

    def __init__(self, path: str, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        self._name = os.path.basename(path)
        self._waiting = [(name, tuple(shape)) for name, shape in reversed(tensors)]
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 (closed by close and abandon)
        try:
            self._put(_header(tensors))
        except BaseException:
            self._file.close()
            raise

    def write(self, name: str, values: np.ndarray) -> None:
        """The next tensor. Another than announced, in name, shape or type: ValueError."""
        expected = self._waiting.pop() if self._waiting else None
        if expected != (name, values.shape) or values.dtype != np.dtype("<f4"):
            raise ValueError(f"{expected} was announced, {name} {values.shape} {values.dtype} came")
        self._put(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def close(self) -> WrittenFile:
        """On the disk when this returns. ValueError when tensors that were announced never came."""
        if self._waiting:
            raise ValueError(f"{len(self._waiting)} tensors were announced and never came")
        sync_open(self._file.fileno())
        self._file.close()
        return WrittenFile(self._name, self._bytes, self._hash.hexdigest())

    def abandon(self) -> None:
        """Close what will not be finished."""
        self._file.close()

    def _put(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK_BYTES):
            chunk = view[start : start + _CHUNK_BYTES]
            self._hash.update(chunk)
            self._bytes += len(chunk)
            while len(chunk):  # a raw write may take less than it is given
                chunk = chunk[self._file.write(chunk) :]


def _header(tensors: Sequence[tuple[str, tuple[int, ...]]]) -> bytes:
    entries = {}
    offset = 0
    for name, shape in tensors:
        end = offset + bytes_of(shape)
        entries[name] = {"dtype": DTYPE, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
