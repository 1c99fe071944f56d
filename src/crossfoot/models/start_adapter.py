"""The adapter that a run starts from: merged into the base, or its values put into the adapters to train."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from crossfoot.findings.finding import Refused
from crossfoot.models.grow import grow_vocabulary
from crossfoot.models.parameters import is_tied, partition, rows_of, whole_to_change
from crossfoot.phrases import first_line
from crossfoot.written.adapter_folder import AdapterFolder, adapter_unreadable

_TWICE = re.compile(r"\.(?:original_module|modules_to_save)\.\w+$")
"""What peft saves once more of a table that was grown: as it was before training, and as it is."""


def merge_adapter(
    model: PreTrainedModel, adapter: AdapterFolder, deepspeed_config: dict[str, Any] | None
) -> PreTrainedModel:
    """The model with the adapter in its weights, its tables grown to the adapter's and replaced by them. All
    ranks call it together.

    peft merges, one layer at a time, in float64, so that the sums are the same on every machine but for their
    last rounding. deepspeed_config: under ZeRO-3, where each layer is made whole for it. Raises Refused for
    an adapter that does not fit, or that would untie tied tables.
    """
    was_tied = is_tied(model)
    if adapter.rows > rows_of(model.get_input_embeddings()):
        grow_vocabulary(model, adapter.rows, deepspeed_config)
    config = LoraConfig.from_pretrained(adapter.folder)
    config.inference_mode = True
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    for name, parameter in wrapped.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    put_into(wrapped, adapter)
    for layer in wrapped.modules():
        if isinstance(layer, BaseTunerLayer):
            with _in_float64(layer):
                layer.merge()
    merged: PreTrainedModel = wrapped.unload()
    if was_tied and not is_tied(merged):
        raise Refused(adapter_unreadable(adapter.path, "it trained one of two tables that the model ties"))
    if deepspeed_config is not None:
        partition(merged, deepspeed_config)
    return merged


def put_into(model: PeftModel, adapter: AdapterFolder) -> None:
    """Set the model's adapters, and its modules to save, to the values of the folder. Raises Refused where
    names or shapes are others.
    """
    stored = {name: value for name, value in _tensors(adapter).items() if not _TWICE.search(name)}
    wanted = {
        name: tuple(value.shape)
        for name, value in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    there = {name: tuple(value.shape) for name, value in stored.items()}
    if wrong := sorted(dict(set(wanted.items()) ^ set(there.items()))):
        lacking = "it lacks" if wrong[0] not in there else "not of this run is"
        what = "of another shape is" if wrong[0] in there and wrong[0] in wanted else lacking
        more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise Refused(adapter_unreadable(adapter.path, f"{what} {wrong[0]}{more}"))
    set_peft_model_state_dict(model, stored)


def _tensors(adapter: AdapterFolder) -> dict[str, torch.Tensor]:
    try:
        if adapter.is_pickled:
            found: dict[str, torch.Tensor] = torch.load(adapter.weights, "cpu", weights_only=True)
        else:
            found = load_file(adapter.weights)
        if all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
            return found
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise Refused(adapter_unreadable(adapter.path, f"{adapter.weights}: {first_line(error)}")) from error
    raise Refused(adapter_unreadable(adapter.path, f"{adapter.weights} holds NaN or infinite numbers"))


@contextmanager
def _in_float64(layer: nn.Module) -> Iterator[None]:
    """Inside, a layer and its adapter are whole and in float64; then the base has its own precision again,
    and under ZeRO-3 rank 0's values are cut into parts for all.
    """
    base = list(layer.get_base_layer().parameters())
    with whole_to_change(base):
        own = [(parameter, parameter.data) for parameter in base]
        for parameter in layer.parameters():
            parameter.data = parameter.data.double()
        yield
        for parameter, values in own:
            values.copy_(parameter.data)
            parameter.data = values
