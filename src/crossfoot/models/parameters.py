"""The tensors of a model, whole or, under ZeRO-3, in parts on all ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from crossfoot.models.quantise import packed_shape


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the input table and the output head are one tensor (not only whether config.json says so)."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def is_partitioned(parameter: torch.Tensor) -> bool:
    """Whether ZeRO-3 keeps this parameter in parts, one on each rank."""
    return hasattr(parameter, "ds_numel")


def numel_of(parameter: torch.Tensor) -> int:
    """Elements of the whole parameter, also when this rank holds a part of it, or its 4 bits."""
    return int(parameter.ds_numel) if hasattr(parameter, "ds_numel") else math.prod(packed_shape(parameter))


def shape_of(parameter: torch.Tensor) -> tuple[int, ...]:
    """Shape of the whole parameter, also when this rank holds a part of it."""
    return tuple(parameter.ds_shape) if hasattr(parameter, "ds_shape") else tuple(parameter.shape)


def rows_of(table: nn.Module) -> int:
    """Rows of an embedding table or head."""
    return shape_of(table.weight)[0]


@contextmanager
def whole(parameters: Iterable[torch.Tensor]) -> Iterator[None]:
    """Inside, these parameters have their full values to read, on all ranks; all ranks must enter. Free
    without ZeRO-3.
    """
    parted = [parameter for parameter in parameters if is_partitioned(parameter)]
    if not parted:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parted):
        yield


@contextmanager
def whole_to_change(parameters: Iterable[torch.Tensor]) -> Iterator[None]:
    """Inside, these parameters have their full values; under ZeRO-3 rank 0's are then cut into parts for all.
    All ranks must enter.
    """
    parted = [parameter for parameter in parameters if is_partitioned(parameter)]
    if not parted:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parted, modifier_rank=0):
        yield


def partition(module: nn.Module, deepspeed_config: dict[str, Any]) -> None:
    """Under ZeRO-3: cut every parameter of `module` that is still whole into parts; rank 0's values go to
    all.
    """
    import deepspeed

    deepspeed.zero.Init(module=module, config_dict_or_path=deepspeed_config)


def give_values(parameter: nn.Parameter, value: torch.Tensor) -> None:
    """Set a parameter to these values, in its own precision; one that had none yet gets memory for them."""
    if parameter.is_meta:
        own = nn.Parameter(value.to(parameter.dtype), requires_grad=parameter.requires_grad)
        torch.utils.swap_tensors(parameter, own)
    else:
        with torch.no_grad():
            parameter.copy_(value)
