"""Which parts of a DeepSpeed file are refused as a whole, so that nothing is said about what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from crossfoot.checks.deepspeed.vocabulary import KeyPath

_SAMPLING, _ROUTING = ("data_efficiency", "data_sampling"), ("data_efficiency", "data_routing")
TAKES_OVER: Mapping[KeyPath, str] = MappingProxyType(
    {
        ("autotuning", "enabled"): "ends the process after a few steps to try another batch",
        ("data_efficiency", "enabled"): "chooses what is trained, and crossfoot owns that",
        (*_SAMPLING, "curriculum_learning", "enabled"): "chooses the samples of a step; crossfoot owns them",
        (*_SAMPLING, "dynamic_batching", "enabled"): "changes the batch from step to step; crossfoot owns it",
        (
            *_ROUTING,
            "random_ltd",
            "enabled",
        ): "drops tokens inside the layers, and trained tokens are counted",
        ("hybrid_engine", "enabled"): "is an engine for RLHF, not for this run",
        ("managed_gradient_accumulation",): (
            "is false: DeepSpeed then refuses the step boundary that crossfoot sets"
        ),
        ("weight_quantization", "quantized_initialization"): "loads other weights than model.path has",
        ("zero_optimization", "zenflow"): "applies most of a gradient some steps later",
    }
)
"""CF323: what each would do. A switch, or an object that need only be there."""

PARALLEL: tuple[KeyPath, ...] = (
    ("tensor_parallel", "autotp_size"),
    ("tensor_parallel", "tp", "tp_size"),
    ("tensor_parallel", "tensor_parallel", "tp_size"),
    ("sequence_parallel_size",),
    ("expert_parallel", "enabled"),
)
"""CF324: sizes above 1, or switches."""


def taken_over(values: Mapping[str, Any]) -> tuple[KeyPath, ...]:
    """The keys of TAKES_OVER that are on; of data_efficiency the innermost ones."""
    found = [keys for keys in TAKES_OVER if _is_on(keys, _value(values, keys))]
    is_inside = any(keys[0] == "data_efficiency" and len(keys) > 2 for keys in found)
    return tuple(keys for keys in found if not (is_inside and keys == ("data_efficiency", "enabled")))


def parallel(values: Mapping[str, Any]) -> tuple[KeyPath, ...]:
    """The keys of PARALLEL that ask for more than data parallelism."""
    found = [(keys, _value(values, keys)) for keys in PARALLEL]
    return tuple(k for k, value in found if value is True or (type(value) is int and value > 1))


def is_refused_whole(values: Mapping[str, Any], path: KeyPath) -> bool:
    """Whether `path` lies inside a part of which CF323 or CF324 says everything."""
    for keys in (*taken_over(values), *parallel(values)):
        block = keys[:-1] if len(keys) > 1 and keys[-1] in ("enabled", "autotp_size", "tp_size") else keys
        if path[: len(block)] == block:
            return True
    return False


def _is_on(keys: KeyPath, value: Any) -> bool:
    if keys == ("managed_gradient_accumulation",):
        return value is False
    is_there = isinstance(value, Mapping) and keys[-1] == "zenflow"
    return is_there or (bool(value) and value != "auto")  # text is true to a reader that asks `if value`


def _value(values: Any, keys: KeyPath) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
