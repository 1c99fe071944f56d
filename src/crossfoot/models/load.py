"""The base model: loaded (under ZeRO-3 in parts), its vocabulary grown when the tokenizer is larger, and its
optimizer.

Whoever calls `load_model` under ZeRO-3 has initialised torch.distributed before; all ranks call it together.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from crossfoot.checks.model_folder import config_findings, model_folder_findings
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.models.attention import SEGMENT_ATTENTION, require_packable
from crossfoot.models.fitting import refuse_unfitting
from crossfoot.models.grow import grow_vocabulary
from crossfoot.models.liger import require_liger, take_liger
from crossfoot.models.parameters import is_tied, rows_of
from crossfoot.models.quantise import compute_as_in_training, held_bytes, packed_layers, packing
from crossfoot.models.start_adapter import merge_adapter
from crossfoot.phrases import counted, first_line, size
from crossfoot.written.adapter_folder import AdapterFolder, read_adapter
from crossfoot.written.config import Config
from crossfoot.written.hub import hub_model, loadable, not_fetched
from crossfoot.written.model_facts import model_folder, model_missing
from crossfoot.written.model_findings import model_not_causal
from crossfoot.written.model_tensors import compared
from crossfoot.written.weight_findings import (
    attention_missing,
    model_unreadable,
    not_only_tensors,
    reshaped,
    unused,
    weights_missing,
)

Report = Callable[[str], None]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BROKEN_FILE = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, AttributeError),
    *(SafetensorError, StrictDataclassError, pickle.UnpicklingError, zipfile.BadZipFile),
)
"""What transformers raises on a folder or file that is absent, incomplete or something else."""


@dataclass(frozen=True)
class LoadedModel:
    """A base model in memory, the same on every rank (under ZeRO-3 each rank holds its part of every tensor).

    path: as handed to `load_model`. vocabulary_before: rows of the table in the file. vocabulary: rows now
    (larger when it was grown). tied: embed_tokens and lm_head are one tensor. use_cache: what the model's
    config said before training switched it off. deepspeed_handle: HfDeepSpeedConfig of ZeRO-3, None
    otherwise; transformers holds it by a weak reference only, and forgets that the model is partitioned when
    it dies: the model carries a reference too. merged_first: the adapter that became part of the weights.
    """

    model: PreTrainedModel
    path: str
    vocabulary_before: int
    vocabulary: int
    tied: bool
    zero_stage: int
    use_cache: bool
    deepspeed_handle: Any = None
    merged_first: AdapterFolder | None = None

    @property
    def first_new(self) -> int:
        """Rows of the table before it was grown to the tokenizer."""
        return max(self.vocabulary_before, self.merged_first.rows if self.merged_first is not None else 0)

    @property
    def grown_rows(self) -> int:
        """New rows of the table: a merged adapter's, or set to the mean of the old ones."""
        return self.vocabulary - self.vocabulary_before


def load_model(
    config: Config,
    path: str,
    *,
    vocabulary: int,
    zero_stage: int,
    deepspeed_config: dict[str, Any] | None,
    report: Report,
) -> LoadedModel:
    """Load the causal language model at `path` (a folder or a hub id) for training; all ranks together.

    vocabulary: rows the tokenizer needs; the table grows to it, and never shrinks. zero_stage 3 loads
    partitioned and needs `deepspeed_config` as it goes to deepspeed.initialize, with explicit batch numbers
    and precision. report: called with one line for each thing worth saying (call it on rank 0 only by passing
    a no-op elsewhere). Raises Refused: no such folder or hub id, no model in it, not a causal language model,
    weights missing from the file, an attention implementation that is not there.
    """
    if config.model.kernels == "liger":
        require_liger()
    unset_hf_deepspeed_config()  # the switch that an earlier model in this process may have left on
    if zero_stage == 3:
        refuse_unfitting(path, read_model_config(path))
    handle = _zero3_handle(zero_stage, deepspeed_config)
    model = _from_pretrained(config, path, zero_stage, report)
    wanted = DTYPES[config.model.dtype]
    found = {parameter.dtype for parameter in model.parameters()}
    if handle is not None and found != {wanted}:
        raise ValueError(
            f"ZeRO-3 made weights of {found}, wanted {wanted}: the DeepSpeed config names another precision"
        )

    tied = is_tied(model)
    before = rows_of(model.get_input_embeddings())
    partitioned = deepspeed_config if handle is not None else None
    model, merged_first = _with_adapter(model, config, partitioned, report)
    rows = rows_of(model.get_input_embeddings())
    if (adapter := read_adapter(config.model)) is not None:
        vocabulary = max(vocabulary, adapter.rows)
    if vocabulary > rows:
        grow_vocabulary(model, vocabulary, partitioned)
        new = vocabulary - rows
        report(f"vocabulary grown {rows:,} -> {vocabulary:,}: {new:,} new rows set to the mean of the old")
    use_cache = bool(getattr(model.config, "use_cache", False))
    _prepare_forward(model, config, report)
    loaded = LoadedModel(
        model=model,
        path=path,
        vocabulary_before=before,
        vocabulary=max(before, vocabulary),
        tied=tied,
        zero_stage=zero_stage,
        use_cache=use_cache,
        deepspeed_handle=handle,
        merged_first=merged_first,
    )
    model._crossfoot_deepspeed_handle = handle
    return loaded


def _with_adapter(
    model: PreTrainedModel, config: Config, partitioned: dict[str, Any] | None, report: Report
) -> tuple[PreTrainedModel, AdapterFolder | None]:
    """The model, and the adapter that became part of it, if one is to. partitioned: the DeepSpeed config of
    ZeRO-3.
    """
    adapter = read_adapter(config.model)
    if adapter is None or config.model.adapter_use != "merge":
        return model, None
    merged = merge_adapter(model, adapter, partitioned)
    report(f"merged into the base: the adapter {adapter.path}")
    return merged, adapter


def _prepare_forward(model: PreTrainedModel, config: Config, report: Report) -> None:
    """How a forward in training is computed: without a cache, by which kernels, what is computed again."""
    model.config.use_cache = False  # a cache of keys and values is for generation only
    if config.model.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        report("gradient checkpointing: activations are computed again in the backward")
    if config.model.kernels == "liger":
        take_liger(model)
        report("norms and MLP are computed by Liger's kernels")
    model.train()
    compute_as_in_training(model)
    if layers := len(list(packed_layers(model))):
        kept = f"{counted(layers, 'linear layer')} of it in {config.model.quantization}"
        report(f"the base weighs {size(held_bytes(model))}: {kept}, by bitsandbytes")


def _zero3_handle(zero_stage: int, deepspeed_config: dict[str, Any] | None) -> Any:
    """transformers' switch for loading partitioned: it is on as long as this object lives.

    None below stage 3.
    """
    if zero_stage != 3:
        return None
    if deepspeed_config is None:
        raise ValueError("ZeRO-3 loads partitioned: deepspeed_config is needed")
    return HfDeepSpeedConfig(deepspeed_config)


def _from_pretrained(config: Config, path: str, zero_stage: int, report: Report) -> PreTrainedModel:
    """The model at `path`, its weights complete and all used; Refused otherwise."""
    _refuse_folder(path)
    folder, found = folder_at_hand(path), read_model_config(path)
    arguments: dict[str, Any] = {"dtype": DTYPES[config.model.dtype], "output_loading_info": True}
    arguments["trust_remote_code"] = False  # left out, transformers would ask a person at a terminal
    arguments["ignore_mismatched_sizes"] = True  # they are in the info, and refused; else a RuntimeError
    packs = config.data.is_packed and config.model.attention in ("auto", "sdpa")
    if packs:
        arguments["attn_implementation"] = SEGMENT_ATTENTION
    elif config.model.attention != "auto":
        arguments["attn_implementation"] = config.model.attention
    # Under ZeRO-3 ranks load together, and one that is lost is a RuntimeError too.
    arguments["quantization_config"] = packing(config.model, DTYPES[config.model.dtype])
    broken = BROKEN_FILE if zero_stage == 3 else (*BROKEN_FILE, RuntimeError)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder, config=found, **arguments)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except (ImportError, *broken) as error:
        raise Refused(_not_loaded(config, path, error)) from error
    if folder != path:
        model.name_or_path = model.config.name_or_path = loadable(path)  # peft writes it into an adapter
    _require_complete(path, model, info)
    _require_used(path, model, info["unexpected_keys"], report)
    if config.data.is_packed:
        require_packable(model)
    return model


def read_model_config(path: str) -> PretrainedConfig:
    """What the config.json of a model says, as transformers reads it. Refused: there is none, it is that of
    another kind of model, or of a quantised one.
    """
    folder = folder_at_hand(path)
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ImportError, *BROKEN_FILE) as error:
        raise Refused(model_unreadable(path, first_line(error))) from error
    if wrong := tuple(config_findings(path, found.to_dict())):
        raise Refused(wrong)
    if type(found) not in AutoModelForCausalLM._model_mapping:
        raise Refused(model_not_causal(path, found.model_type))
    # A kernel that config.json asks for may be code that is fetched from the hub: the run config chooses.
    found._attn_implementation = found._experts_implementation = None
    return found


def folder_at_hand(path: str) -> str:
    """Of a model; its hub is never asked. Raises Refused (CF060, CF541)."""
    if os.path.isdir(path):
        return path
    if (model := hub_model(path)) is None:
        raise Refused(model_missing(path))
    if (folder := model.folder) is None:
        raise Refused(not_fetched(Place(path), "model.path", model))
    return str(folder)


def _refuse_folder(path: str) -> None:
    """Refused for what the model's files show without a weight being read."""
    if model_folder(path) is not None:
        wrong = [finding for finding in model_folder_findings(path) if finding.counts_as == "error"]
        if wrong:
            raise Refused(wrong)


def _require_complete(path: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Refused when tensors of the model were not in the file, or had another shape: transformers would train
    on random ones with a warning.
    """
    missing = set(info["missing_keys"])
    if is_tied(model):  # one of the two names is enough
        missing -= {
            name for name, _ in model.named_parameters(remove_duplicate=False) if _is_head(model, name)
        }
    wrong = [weights_missing(path, sorted(missing))] if missing else []
    if info["mismatched_keys"]:
        wrong.append(reshaped(path, sorted(info["mismatched_keys"])))
    if wrong:
        raise Refused(wrong)


def _require_used(path: str, model: PreTrainedModel, names: Iterable[str], report: Report) -> None:
    """Refused when tensors of the file belong into the model and are not used by it; others are reported."""
    promised = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    differs = compared(promised, {**promised, **dict.fromkeys(names, ())})
    if differs.unused:
        raise Refused(unused(path, differs.unused))
    if differs.foreign:
        report(f"warning: {unused(path, differs.foreign, 'warning').title}; they are left out")


def _is_head(model: PreTrainedModel, name: str) -> bool:
    head = model.get_output_embeddings()
    return any(f"{prefix}.weight" == name for prefix, module in model.named_modules() if module is head)


def _not_loaded(config: Config, path: str, error: Exception) -> Finding:
    """Why transformers did not load a model whose config.json it has read."""
    asked, why = config.model.attention, first_line(error)
    if asked != "auto" and "attention" in why.lower():
        return attention_missing(asked, why)
    if isinstance(error, pickle.UnpicklingError):  # torch's words tell how to load it all the same
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        return not_only_tensors(path, "one of its weight files", named[1] if named else "something else")
    return model_unreadable(path, first_line(error))
