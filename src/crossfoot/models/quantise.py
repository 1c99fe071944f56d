"""A frozen base whose linear layers are kept in 4 or 8 bits, by bitsandbytes.

Seen with bitsandbytes 0.50 and transformers 5.23. transformers packs every linear layer but the head, on the
device that it loads to; tables, norms and the head stay as they are. A packed weight is one parameter of
integers, which nobody trains, casts or saves.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from crossfoot.written.config import ModelSection

PACKED = ("Params4bit", "Int8Params")
"""bitsandbytes' classes of packed weights; by name, as the package may not be there."""


def import_bitsandbytes() -> None:
    """Import it, where it is installed, before peft does, and with the package `kernels` out of sight.

    On a CPU with AVX512-BF16 its import asks `kernels` for a kernel: code, fetched from a hub and run. It
    serves a way of computing that is not used here (`compute_as_in_training`).
    """
    if "bitsandbytes" in sys.modules or find_spec("bitsandbytes") is None:
        return
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    there = sys.modules.get("kernels")
    sys.modules["kernels"] = cast(ModuleType, None)  # an import of it is an ImportError
    try:
        importlib.import_module("bitsandbytes")
    finally:
        del sys.modules["kernels"]
        if there is not None:
            sys.modules["kernels"] = there


def packing(section: ModelSection, dtype: torch.dtype) -> Any:
    """transformers' word for it; None where the base is not quantised. dtype: what is computed in."""
    from transformers import BitsAndBytesConfig

    if section.quantization == "none":
        return None
    if section.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def packed_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers whose weight is packed, by name."""
    for name, module in model.named_modules():
        if is_packed(getattr(module, "weight", None)):
            yield name, module


def is_packed(weight: object) -> bool:
    """Whether a weight is kept in 4 or 8 bits."""
    return type(weight).__name__ in PACKED


def packed_shape(weight: torch.Tensor) -> tuple[int, ...]:
    """Shape of the weight that was packed; that of any other tensor as it is."""
    state = getattr(weight, "quant_state", None)
    return tuple(weight.shape if state is None else state.shape)


def compute_as_in_training(model: nn.Module) -> None:
    """Let packed layers compute in a validation as they do in training; they have no dropout to switch off.

    Told to evaluate on a CPU, bitsandbytes computes otherwise. In 8 bits it rounds what goes in as well. In 4
    bits, on a CPU with AVX512-BF16, it repacks the weight for a kernel that asserts widths which 64 divides,
    always computes in bfloat16, and hands no gradient on: training that goes on after it is wrong, silently.
    """
    for _, layer in packed_layers(model):
        layer.train = _stays(layer)


def _stays(layer: nn.Module) -> Any:
    return lambda mode=True: layer


def held_bytes(model: nn.Module) -> int:
    """What the parameters of a model take, with the scales of packed ones."""
    return sum(_bytes_of(parameter) for parameter in model.parameters())


def _bytes_of(parameter: torch.Tensor) -> int:
    scales = [
        getattr(getattr(parameter, "quant_state", None), "absmax", None),
        getattr(parameter, "SCB", None),
    ]
    tensors = [parameter, *(one for one in scales if one is not None)]
    return sum(math.prod(one.shape) * one.element_size() for one in tensors)
