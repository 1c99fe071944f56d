"""What is merged: a base model and the adapters on it, of a run or of a folder that peft wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from crossfoot.findings.finding import Refused
from crossfoot.merging.findings import not_mergeable
from crossfoot.merging.stages import without_values
from crossfoot.model_source.adapters import chain_of
from crossfoot.model_source.findings import no_model
from crossfoot.model_source.source import ModelSource, find_model
from crossfoot.models.export import load_trained, trained
from crossfoot.models.load import LoadedModel, read_model_config
from crossfoot.models.parameters import is_tied, rows_of
from crossfoot.models.save import save_adapter
from crossfoot.models.tiny_model import tiny_written
from crossfoot.shell_words import quoted_path
from crossfoot.written.adapter_folder import AdapterFolder, open_adapter, read_adapter
from crossfoot.written.config import Config

_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""How init_lora_weights begins, where peft changes the base as it makes the adapter."""
_UNREAD = (
    *("lora_bias", "layer_replication", "target_parameters"),
    *("alora_invocation_tokens", "use_qalora", "megatron_config"),
)
"""Keys of adapter_config.json that ask for more than a merge of layers does."""


def open_source(path: str, step: int | None, base: str | None, work: str) -> ModelSource:
    """What `path` names, all its adapters in folders. base: instead of what it says itself. work: an empty
    folder, for the adapter of a checkpoint. Raises Refused.
    """
    source = tiny_written(find_model(path, "merge", step=step, base=base, from_checkpoint=True))
    if not source.is_adapted:
        if source.run is None:
            lora = "name the folder of a run that trained with lora, or of an adapter"
            raise Refused(no_model(path, "merge", "is a whole model already", lora))
        whole = f"write that: crossfoot export {quoted_path(path)} OUT"
        raise Refused(no_model(path, "merge", "trained the whole model", whole))
    if source.checkpoint is not None:
        _write_adapter(source, work)
        *before, adapter = chain_of(open_adapter(work))
        source = replace(source, adapters=(*before, replace(adapter, path=source.what)))
    for adapter in source.adapters:
        if (why := next(_unmergeable(adapter), None)) is not None:
            raise Refused(not_mergeable(adapter, why))
    return source


def _write_adapter(source: ModelSource, folder: str) -> None:
    """The adapter of a checkpoint, in peft's form; the base it stands on is not loaded."""

    def shapes(config: Config, path: str, *_: Any, **__: Any) -> LoadedModel:
        first = read_adapter(config.model)
        model = without_values(read_model_config(path), 0 if first is None else first.needed_rows)
        rows = rows_of(model.get_input_embeddings())
        return LoadedModel(model, path, rows, rows, is_tied(model), 0, use_cache=True, merged_first=first)

    lora = trained(source)[0].config.lora
    if lora is not None and lora.changes_base:  # a plain one is worked out of the base
        model, loaded = load_trained(source)
    else:
        with torch.device("meta"):
            model, loaded = load_trained(source, shapes)
    save_adapter(model, folder, gather=False, loaded=loaded)


def _unmergeable(adapter: AdapterFolder) -> Iterator[str]:
    values = adapter.values
    if (kind := values.get("peft_type")) != "LORA":
        yield f"it is {kind or 'of no kind that it names'}, not LORA"
        return
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OTHER_BASE):
        yield f"{start} changed its base when it began"
    if values.get("bias", "none") != "none":
        yield "it holds biases of the base too"
    yield from (f"its {key} is not known here" for key in _UNREAD if values.get(key))
