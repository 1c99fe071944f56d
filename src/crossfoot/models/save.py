"""What was trained, written to a folder: an adapter as peft reads it, or the whole model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from crossfoot.data.plain_ids import PlainIds
from crossfoot.durable import rename_folder
from crossfoot.models.folder_beside import clear_leftovers, folder_beside, open_to_others
from crossfoot.models.load import LoadedModel
from crossfoot.models.parameters import is_partitioned, whole
from crossfoot.models.start_values import on_plain_base, start_values
from crossfoot.models.usage_page import usage_page
from crossfoot.written.adapter_folder import BASE_NAME
from crossfoot.written.hub import loadable


def save_adapter(
    model: PreTrainedModel | PeftModel,
    folder: str | os.PathLike[str],
    *,
    gather: bool,
    loaded: LoadedModel | None = None,
    add_tokenizer: Callable[[str], PlainIds | None] | None = None,
) -> None:
    """Save what was trained, atomically: a PEFT folder for LoRA, the whole model (safetensors) for full
    fine-tuning.

    All ranks call it; rank 0 writes, the others return when they have given their parts (perhaps before the
    folder is there). gather: ZeRO-3 - the tensors are in parts, and made whole one at a time; rank 0 keeps
    the CPU copies of what is saved. Takes the model given to the engine, not the engine. Under ZeRO 1-3 with
    bfloat16 the values are the bfloat16 ones the forward uses. An existing folder is replaced; one in which
    there is more than in the new one is kept, as `adapter-replaced-...`. loaded: lets the README in the
    folder say which base it stands on, and how many rows to grow it to. add_tokenizer: puts the tokenizer's
    files into the folder, and lets the README say how ids are made.
    """
    if not gather and any(is_partitioned(parameter) for parameter in model.parameters()):
        raise ValueError("the model is partitioned (ZeRO-3): call save_adapter with gather=True on all ranks")
    is_lora = isinstance(model, PeftModel)
    is_writer = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    wanted = [
        (name, parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad or not is_lora
    ]
    tensors = _on_cpu(wanted, is_writer)
    if not is_writer:
        return
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(target) as temporary:
        if is_lora:
            _write_adapter(model, temporary, tensors)
            _note_base(temporary, loaded)
        else:
            _write_whole(model, temporary, tensors, loaded)
        ids = add_tokenizer(str(temporary)) if add_tokenizer is not None else None
        page = usage_page(model, os.path.abspath(target), tensors, loaded, ids)
        (temporary / "README.md").write_text(page, encoding="utf-8")
        open_to_others(temporary)
        rename_folder(temporary, target, target.with_name(f"{temporary.name}-old"))
        clear_leftovers(target)


def _on_cpu(wanted: list[tuple[str, nn.Parameter]], keep: bool) -> dict[str, torch.Tensor]:
    """CPU copies by name where `keep`; one parameter is whole at a time, a shared one is copied once."""
    copies: dict[int, torch.Tensor] = {}
    for _, parameter in wanted:
        if id(parameter) in copies:
            continue
        with whole([parameter]):
            copies[id(parameter)] = parameter.detach().to("cpu", copy=True) if keep else torch.empty(0)
    return {name: copies[id(parameter)] for name, parameter in wanted} if keep else {}


def _write_adapter(model: PeftModel, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    says: dict[str, object] = {}
    if start_values(model):
        tensors, says = on_plain_base(model, tensors)
    model.save_pretrained(str(folder), state_dict=tensors, save_embedding_layers=False)
    file = folder / "adapter_config.json"
    values = json.loads(file.read_text(encoding="utf-8")) | says
    if isinstance(values.get("target_modules"), list):
        values["target_modules"].sort()  # a set to peft: its order would differ from process to process
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _note_base(folder: Path, loaded: LoadedModel | None) -> None:
    """Beside an adapter whose base has another one merged into it: which. PEFT has no word for that."""
    if loaded is None or (merged := loaded.merged_first) is None:
        return
    named = {
        "model": loadable(loaded.path),
        "merged_adapter": os.path.abspath(merged.folder),
        **merged.identity,
    }
    (folder / BASE_NAME).write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


def _write_whole(
    model: PreTrainedModel, folder: Path, tensors: dict[str, torch.Tensor], loaded: LoadedModel | None
) -> None:
    training_value = model.config.use_cache
    model.config.use_cache = loaded.use_cache if loaded is not None else True
    try:
        buffers = {
            name: buffer.detach().cpu()
            for name, buffer in model.named_buffers()
            if name in model.state_dict()
        }
        model.save_pretrained(str(folder), state_dict={**tensors, **buffers})
    finally:
        model.config.use_cache = training_value
