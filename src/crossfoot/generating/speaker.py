"""The model of a voice in memory, ready to answer, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from crossfoot.findings.finding import Refused
from crossfoot.generating.asking import Asking
from crossfoot.generating.findings import device_missing
from crossfoot.generating.options import Settings
from crossfoot.model_source.source import ModelSource
from crossfoot.models.export import load_trained, trained
from crossfoot.models.grow import grow_vocabulary
from crossfoot.models.load import DTYPES, load_model
from crossfoot.models.parameters import rows_of
from crossfoot.models.start_adapter import merge_adapter, put_into
from crossfoot.output import tell
from crossfoot.phrases import first_line
from crossfoot.written.adapter_folder import AdapterFolder
from crossfoot.written.config import Config

_DIVIDED = ("auto", "balanced", "balanced_low_0", "sequential")
_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Answer:
    """ids: without the token that ended it. stopped_by: end, or length."""

    ids: tuple[int, ...]
    stopped_by: str


@dataclass(frozen=True)
class Speaker:
    """A model, and how it is asked. device: where its ids go. autocast: what it computes in where its
    tensors are of several precisions, as in training by accelerate; None: in that of its tensors.
    """

    model: Any
    asking: Asking
    settings: Settings
    device: str
    autocast: torch.dtype | None = None

    def answers(
        self, batch: Sequence[Sequence[int]], limit: int, seed: int, streamer: BaseStreamer | None = None
    ) -> list[Answer]:
        """Of each prompt. limit: tokens of the longest answer. seed: of what is drawn for this batch."""
        ends = self.asking.end_ids
        width = max(map(len, batch))
        ids = torch.full((len(batch), width), ends[0])
        mask = torch.zeros_like(ids)
        for row, one in enumerate(batch):
            ids[row, width - len(one) :] = torch.tensor(one)
            mask[row, width - len(one) :] = 1
        values = {**self.settings.values, "max_new_tokens": limit}
        config = GenerationConfig(**values, eos_token_id=list(ends), pad_token_id=ends[0])
        torch.manual_seed(seed)
        kind = torch.device(self.device).type
        with (
            torch.inference_mode(),
            torch.autocast(kind, dtype=self.autocast, enabled=self.autocast is not None),
        ):
            told = self.model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                generation_config=config,
                streamer=streamer,
            )
        return [_cut(row, ends) for row in told[:, width:].tolist()]


def _cut(ids: Sequence[int], ends: Sequence[int]) -> Answer:
    """Up to the first token that ends an answer; what comes behind it fills the batch."""
    place = next((place for place, one in enumerate(ids) if one in ends), None)
    return Answer(tuple(ids[:place]), "length" if place is None else "end")


def choose_device(asked: str | None) -> str:
    """Where the model goes: a device, or a way to divide it. Raises Refused (CF809)."""
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked in _DIVIDED:
        return asked if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise Refused(device_missing(asked, "it is no device, and no way to divide a model")) from error
    there = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= there:
        raise Refused(device_missing(asked, "there is no GPU" if not there else f"there are {there} GPUs"))
    if device.type not in ("cuda", "cpu"):
        raise Refused(device_missing(asked, "it is neither a CPU nor a GPU of CUDA"))
    return asked


def load_speaker(
    voice: ModelSource, asking: Asking, settings: Settings, *, dtype: str, quantization: str, device: str
) -> Speaker:
    """Load it. dtype, quantization: of the base; the checkpoint's own tensors stay as they were trained.
    Raises Refused.
    """
    vocabulary = asking.encoder.facts.vocabulary
    model = _loaded(voice, dtype, quantization, vocabulary).eval()
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for part in (model, base):
        part.config.use_cache = True
        part.generation_config = GenerationConfig()
    rows = rows_of(model.get_input_embeddings())
    if rows < vocabulary:
        tell(f"warning: the tokenizer has {vocabulary:,} tokens, the model {rows:,}")
    autocast = autocast_of(model, dtype)
    if device in _DIVIDED:
        return Speaker(_divided(model, device), asking, settings, "cuda", autocast)
    try:
        return Speaker(model.to(device), asking, settings, device, autocast)
    except RuntimeError as error:
        raise Refused(device_missing(device, first_line(error))) from error


def autocast_of(model: nn.Module, dtype: str) -> torch.dtype | None:
    """What to compute in where its tensors are of several precisions; None: in that of its tensors."""
    kinds = {one.dtype for one in model.parameters() if one.is_floating_point()}
    return DTYPES[dtype] if len(kinds) > 1 else None


def _loaded(voice: ModelSource, dtype: str, quantization: str, vocabulary: int) -> Any:
    if voice.checkpoint is not None:
        run, _ = trained(voice)
        run = replace(run, config=_as_asked(run.config, dtype, quantization))
        return load_trained(replace(voice, run=run))[0]
    model = load_model(
        _as_asked(_config_of(voice.base), dtype, quantization),
        voice.base,
        vocabulary=0,
        zero_stage=0,
        deepspeed_config=None,
        report=tell,
    ).model
    for adapter in voice.adapters[:-1]:
        model = merge_adapter(model, adapter, None)
    return _with_adapter(model, voice.adapters[-1], dtype, vocabulary) if voice.adapters else model


def _with_adapter(model: Any, adapter: AdapterFolder, dtype: str, vocabulary: int) -> nn.Module:
    """With the adapter beside its weights, as it was trained: merged, a small change is lost in bfloat16.
    vocabulary: rows that the tokenizer needs.
    """
    config = LoraConfig.from_pretrained(adapter.folder)
    trained = config.trainable_token_indices or []
    of_tables = trained.values() if isinstance(trained, dict) else [trained]
    rows = max(adapter.rows, vocabulary, *(1 + max(ids, default=-1) for ids in of_tables))
    if rows > rows_of(model.get_input_embeddings()):
        grow_vocabulary(model, rows, None)
    config.inference_mode = True
    stored = {_NAMES.get(tensor.dtype, "") for tensor in (adapter.tensors or {}).values()}
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=stored != {dtype})
    put_into(wrapped, adapter)
    return wrapped


def _as_asked(config: Config, dtype: str, quantization: str) -> Config:
    """To answer with: what saves memory in training, or packs samples, is left out."""
    section = {
        "dtype": dtype,
        "quantization": quantization,
        "kernels": "auto",
        "gradient_checkpointing": False,
    }
    changes: Mapping[str, Any] = {
        "model": config.model.model_copy(update=section),
        "data": config.data.model_copy(update={"layout": "padded"}),
    }
    return config.model_copy(update=changes)


def _config_of(path: str) -> Config:
    """The config by which a model is loaded that no run is known of."""
    return Config.model_validate(
        {
            "run": {"name": "generate"},
            "model": {"path": path},
            "data": {"task": "pretrain", "train": ["-"], "layout": "padded"},
            "batch": {"micro_batch_size": 1, "global_batch_size": 1},
            "lr": {"reference": 1.0},
            "train": {"max_steps": 1},
        }
    )


def _divided(model: Any, way: str) -> Any:
    """Over all GPUs, by accelerate."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(getattr(model, "_no_split_modules", None) or ())
    memory = None
    if way != "sequential":
        memory = get_balanced_memory(model, no_split_module_classes=whole, low_zero=way == "balanced_low_0")
    plan = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    return dispatch_model(model, device_map=plan)
