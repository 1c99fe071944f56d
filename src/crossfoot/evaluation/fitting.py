"""Whether a model fits into the memory that is free, known from the headers of its weight files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from crossfoot.checks.model_folder import tensors_in
from crossfoot.evaluation.findings import model_too_large
from crossfoot.extras import missing_of
from crossfoot.findings.finding import Refused
from crossfoot.phrases import size
from crossfoot.written.model_facts import INPUT_TABLE_NAMES, OUTPUT_TABLE_NAMES, model_folder
from crossfoot.written.tensor_headers import Tensor

_BYTES: Mapping[str, float] = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_PACKED_BYTES: Mapping[str, float] = {"nf4": 0.5 + 4 / 64, "int8": 1.0}
"""Of a packed weight: nf4 has a float32 scale for 64 of them."""
_TABLES = frozenset((*INPUT_TABLE_NAMES, *OUTPUT_TABLE_NAMES))


def refuse_too_large(base: str, dtype: str, quantization: str, free: int, device: str) -> None:
    """base: of a voice. Raises Refused (CF877). Nothing is said of files that are not looked into: loading
    them says what is wrong.
    """
    folder = model_folder(base)
    tensors = tensors_in(base, folder)[0] if folder is not None else None
    if not tensors:
        return
    needed = held_bytes(tensors, dtype, quantization)
    if needed > free:
        raise Refused(model_too_large(base, needed, free, device, tuple(_fitting(tensors, dtype, free))))


def held_bytes(tensors: Mapping[str, Tensor], dtype: str, quantization: str = "none") -> int:
    """Of a model in memory."""
    each = _BYTES[dtype]
    total = 0.0
    for name, tensor in tensors.items():
        is_packed = (
            quantization != "none" and len(tensor.shape) == 2 and name.split(".")[-2:][0] not in _TABLES
        )
        total += math.prod(tensor.shape) * (_PACKED_BYTES[quantization] if is_packed else each)
    return int(total)


def _fitting(tensors: Mapping[str, Tensor], dtype: str, free: int) -> Iterator[str]:
    """What would fit."""
    ways = [("--dtype bfloat16", "bfloat16", "none")] if dtype == "float32" else []
    if not missing_of("quant"):
        ways += [(f"--quantization {kept} --dtype bfloat16", "bfloat16", kept) for kept in ("int8", "nf4")]
    for words, kind, kept in ways:
        needed = held_bytes(tensors, kind, kept)
        if needed <= free:
            yield f"write {words}: it then takes {size(needed)}"
