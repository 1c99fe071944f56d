"""A safetensors file written one tensor at a time: the library's own writer wants all of them in memory.

The format: eight bytes with the length of a JSON header, the header, the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from crossfoot.merging.base_files import DTYPE_NAMES

_ALIGNED = 8
"""The header's length is a multiple of it, so that numbers lie where a machine reads them at once."""


class Form(NamedTuple):
    """What a tensor is, without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What it takes in a file."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


def write_tensors(path: Path, forms: Mapping[str, Form], value: Callable[[str], torch.Tensor]) -> None:
    """Write a file. value: is asked for each tensor in turn, and let go of. Raises OSError; ValueError when a
    value has not the form that was said.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, form in forms.items():
        header[name] = {
            "dtype": DTYPE_NAMES[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [at, at + form.bytes],
        }
        at += form.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, form in forms.items():
            tensor = value(name)
            if Form(tensor.dtype, tuple(tensor.shape)) != form:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {form}")
            file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
