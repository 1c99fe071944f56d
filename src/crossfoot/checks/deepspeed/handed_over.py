"""Which part of a DeepSpeed file reaches DeepSpeed, and in which form: the one place that knows it.

Rules about what a file would do ask for it as it is handed over; rules about how it is written ask why an
entry is not.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from crossfoot.checks.deepspeed.values import PRECISION_OF, wrong_value
from crossfoot.checks.deepspeed.vocabulary import Entry, KeyPath, entries, vocabulary, zero_stage
from crossfoot.written.config import Config
from crossfoot.written.section import Unsure
from crossfoot.written.shown import shown

ZERO = "zero_optimization"
MONITORS = ("tensorboard", "wandb", "comet", "csv_monitor")
OFFLOADING: Mapping[str, str] = MappingProxyType(
    {"cpu_offload": "offload_optimizer", "cpu_offload_param": "offload_param"}
)
"""Old switches, each with the block that is written today."""
ON_THE_CPU: Mapping[str, str] = MappingProxyType({"device": "cpu"})
_LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "optimizer": "crossfoot hands over its own optimizer",
        "scheduler": "crossfoot sets the rate of every step",
        **dict.fromkeys(MONITORS, "crossfoot keeps the record of a run"),
        "activation_checkpointing": "model.gradient_checkpointing decides",
        "aio": "nothing is offloaded to a disk",
        "checkpoint": "checkpoints are crossfoot's own",
        "allgather_size": "it is an old name of zero_optimization.allgather_bucket_size",
        "compile": "the engine is not compiled",
        "dataloader_drop_last": "crossfoot makes the batches",
        "disable_allgather": "DeepSpeed never uses it",
        "pipeline": "it is for pipeline models",
        "zero_allow_untested_optimizer": "crossfoot writes it",
        "zero_force_ds_cpu_optimizer": "crossfoot writes it",
    }
)
_ONLY_STAGE_3 = (
    "offload_param",
    "zero_hpz_partition_size",
    "zero_quantized_weights",
    "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights",
    "leaf_module",
)


def handed_over(values: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """A DeepSpeed file as far as it reaches DeepSpeed; what crossfoot owns is then written into it."""
    form = todays_form(values)
    return _kept(form, (), form, config)


def _kept(part: Mapping[str, Any], path: KeyPath, form: Mapping[str, Any], config: Config) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in part.items():
        here = (*path, name)
        if value == "auto" or why_left_out(form, config, here):
            continue
        kept[name] = _kept(value, here, form, config) if isinstance(value, Mapping) else value
    return kept


def todays_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same file in the words of today: old names and forms that DeepSpeed still understands, text that it
    reads as a number or a switch. Where an old and a new name contradict each other, both are kept.
    """
    form = copy.deepcopy(dict(values))
    for entry in entries(values):
        wrong = wrong_value(entry, entry.key) if entry.key is not None else None
        if wrong is not None and wrong.works and wrong.text is not None:
            _inside(form, entry.path[:-1])[entry.path[-1]] = json.loads(wrong.text)
    for entry in list(entries(form)):
        if entry.key is not None and entry.key.deprecated is not None:
            _rename(_inside(form, entry.path[:-1]), entry, entry.key.deprecated)
    if "bf16" not in form and "bfloat16" in form:
        form["bf16"] = form.pop("bfloat16")
    zero = form.get(ZERO)
    if isinstance(zero, dict):
        if values[ZERO] is True and "allgather_size" in form:  # the oldest form
            zero["allgather_bucket_size"] = form["allgather_size"]
        if isinstance(zero.get("stage"), float) and zero["stage"].is_integer():
            zero["stage"] = int(zero["stage"])
    return form


def _inside(form: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    for name in path:
        form = form[name]
    return form


def _rename(block: dict[str, Any], entry: Entry, today: str) -> None:
    old = entry.path[-1]
    if old in OFFLOADING:
        if not entry.value or entry.value == "auto":
            del block[old]
        elif block.get(today) is None:
            del block[old]
            block[today] = dict(ON_THE_CPU)
    elif entry.key is not None and not entry.key.moves:
        del block[old]
    elif today not in block:
        block[today] = block.pop(old)


def why_left_out(form: Mapping[str, Any], config: Config, path: KeyPath) -> str | None:
    """Why the entry at `path` is not handed over, in a few words; None when it is. form: as `todays_form`
    gives it. A block of which crossfoot writes the switch (`bf16`) is handed over, with nothing else in it.
    """
    name, *inside = path
    if name in _LEFT_OUT:
        return _LEFT_OUT[name]
    value = form.get(name)
    if name == ZERO and inside:
        return _left_out_of_zero(form, inside[0])
    if name in form and value in (None, False, "auto") and name in vocabulary().blocks and name != ZERO:
        return f"it is {shown(value)}"
    if name in PRECISION_OF:
        with suppress(Unsure):
            if inside != ["enabled"] and config.model.dtype != PRECISION_OF[name]:
                return f"model.dtype is {config.model.dtype}"
        return "DeepSpeed reads bf16 alone" if name == "bfloat16" and "bf16" in form else None
    block = vocabulary().blocks.get(name)
    if name in vocabulary().refused[""] or block is None:
        return "it is off" if name in vocabulary().refused[""] and is_off(value) else None
    if not isinstance(value, Mapping) or name == ZERO:
        return None
    switch = block.keys.get("enabled")
    is_switched = "enabled" in value if switch is None else switch.default is False
    return "it is off" if is_switched and not _has_on(value) else None


def _left_out_of_zero(form: Mapping[str, Any], name: str) -> str | None:
    written = form.get(ZERO)
    block = written if isinstance(written, Mapping) else {}
    stage, value = zero_stage(form), block.get(name)
    if name in vocabulary().refused[ZERO]:
        return "it is off" if is_off(value) else None
    if name == "elastic_checkpoint":
        return _LEFT_OUT["checkpoint"]
    if stage is not None and stage < 3 and counts_on_stage_3(name):
        return f"it counts on stage 3 alone, and the stage is {stage}"
    if name in OFFLOADING.values() and name in block:
        if stage == 0:
            return "it counts on stages 1 to 3, and the stage is 0"
        if not value or (isinstance(value, Mapping) and value.get("device") in (None, "none", "auto")):
            return "nothing is offloaded"
    return None


def counts_on_stage_3(name: str) -> bool:
    """Whether a key of zero_optimization counts on stage 3 alone."""
    key = vocabulary().blocks[ZERO].keys.get(name)
    main = key.same_as if key is not None and key.same_as else name
    return main.startswith("stage3_") or name in _ONLY_STAGE_3


def is_off(value: Any) -> bool:
    """Whether a value, or an object with switches, switches nothing on."""
    if isinstance(value, Mapping):
        return not value or (bool(_switches(value)) and not _has_on(value))
    return not value or value in (-1, "auto")


def _switches(block: Mapping[str, Any]) -> list[Any]:
    nested = [switch for value in block.values() if isinstance(value, Mapping) for switch in _switches(value)]
    return [block["enabled"], *nested] if "enabled" in block else nested


def _has_on(block: Mapping[str, Any]) -> bool:
    """Whether a switch in it is on, or is what DeepSpeed takes for on."""
    return any(switch and switch != "auto" for switch in _switches(block))
