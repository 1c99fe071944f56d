"""The base model: loaded (under ZeRO-3 in parts), its vocabulary grown when the tokenizer is larger, and its
optimizer.

Whoever calls `load_model` under ZeRO-3 has initialised torch.distributed before; all ranks call it together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from crossfoot.findings.finding import Finding, Refused
from crossfoot.phrases import first_line
from crossfoot.training import findings as refusals
from crossfoot.written.config import Config, OptimizerSection
from crossfoot.written.model_facts import looks_local, model_missing
from crossfoot.written.model_findings import model_not_causal

Report = Callable[[str], None]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROWS_AT_ONCE = 8192
"""Rows of a table summed at once in float64: 8192 x 4096 x 8 bytes are 256 MiB."""
BROKEN_FILE = (OSError, ValueError, KeyError, TypeError, EOFError, SafetensorError)
"""What transformers raises on a folder or file that is absent, incomplete or something else."""


@dataclass(frozen=True)
class LoadedModel:
    """A base model in memory, the same on every rank (under ZeRO-3 each rank holds its part of every tensor).

    path: as handed to `load_model`. vocabulary_before: rows of the table in the file. vocabulary: rows now
    (larger when it was grown). tied: embed_tokens and lm_head are one tensor. use_cache: what the model's
    config said before training switched it off. deepspeed_handle: HfDeepSpeedConfig of ZeRO-3, None
    otherwise; transformers holds it by a weak reference only, and forgets that the model is partitioned when
    it dies: the model carries a reference too.
    """

    model: PreTrainedModel
    path: str
    vocabulary_before: int
    vocabulary: int
    tied: bool
    zero_stage: int
    use_cache: bool
    deepspeed_handle: Any = None

    @property
    def grown_rows(self) -> int:
        """New rows of the table, set to the mean of the old ones."""
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
    handle = _zero3_handle(zero_stage, deepspeed_config)
    model = _from_pretrained(config, path)
    wanted = DTYPES[config.model.dtype]
    found = {parameter.dtype for parameter in model.parameters()}
    if handle is not None and found != {wanted}:
        raise ValueError(
            f"ZeRO-3 made weights of {found}, wanted {wanted}: the DeepSpeed config names another precision"
        )

    tied = is_tied(model)
    before = rows_of(model.get_input_embeddings())
    if vocabulary > before:
        grow_vocabulary(model, vocabulary, deepspeed_config if handle is not None else None)
        new = vocabulary - before
        report(f"vocabulary grown {before:,} -> {vocabulary:,}: {new:,} new rows set to the mean of the old")
    use_cache = bool(getattr(model.config, "use_cache", False))
    model.config.use_cache = False  # a cache of keys and values is for generation only
    if config.model.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        report("gradient checkpointing: activations are computed again in the backward")
    model.train()
    loaded = LoadedModel(
        model=model,
        path=path,
        vocabulary_before=before,
        vocabulary=max(before, vocabulary),
        tied=tied,
        zero_stage=zero_stage,
        use_cache=use_cache,
        deepspeed_handle=handle,
    )
    model._crossfoot_deepspeed_handle = handle
    return loaded


def grow_vocabulary(model: PreTrainedModel, rows: int, deepspeed_config: dict[str, Any] | None) -> None:
    """Grow embed_tokens and lm_head to `rows` rows; new rows (and bias entries) are the mean of the old ones.

    The mean is summed in float64 in row order, so it is bitwise the same on every rank, stage and world. A
    tied model stays tied. deepspeed_config: given under ZeRO-3; only one table is whole at a time, and it is
    partitioned again at once. transformers' own resize_token_embeddings draws the new rows at random, and
    differently on each rank.
    """
    table, head, tied = model.get_input_embeddings(), model.get_output_embeddings(), is_tied(model)
    _grow_module(table, rows, deepspeed_config)
    if head is not None:
        if tied:
            head.weight = table.weight
        else:
            _grow_module(head, rows, deepspeed_config)
        if hasattr(head, "out_features"):
            head.out_features = rows
    table.num_embeddings = rows
    model.config.get_text_config().vocab_size = rows
    if hasattr(model, "vocab_size"):
        model.vocab_size = rows
    inner = getattr(model, model.base_model_prefix, None)
    if inner is not None and hasattr(inner, "vocab_size"):
        inner.vocab_size = rows


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the input table and the output head are one tensor (not only whether config.json says so)."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def is_partitioned(parameter: torch.Tensor) -> bool:
    """Whether ZeRO-3 keeps this parameter in parts, one on each rank."""
    return hasattr(parameter, "ds_numel")


def numel_of(parameter: torch.Tensor) -> int:
    """Elements of the whole parameter, also when this rank holds a part of it."""
    return int(parameter.ds_numel) if hasattr(parameter, "ds_numel") else parameter.numel()


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


def partition(module: nn.Module, deepspeed_config: dict[str, Any]) -> None:
    """Under ZeRO-3: cut every parameter of `module` that is still whole into parts; rank 0's values go to
    all.
    """
    import deepspeed

    deepspeed.zero.Init(module=module, config_dict_or_path=deepspeed_config)


def open_to_others(folder: Path) -> None:
    """Give a fresh temporary folder and its files the permissions that mkdir and open give, by the umask.

    mkdtemp and safetensors make what only its owner can read, on storage that a group shares.
    """
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)
    folder.chmod(0o777 & ~mask)


def build_optimizer(model: nn.Module, section: OptimizerSection) -> torch.optim.Optimizer:
    """The optimizer over the trained parameters, at rate 0 (the loop sets the rate of every step before it).

    adamw: torch's, fused. sgd: without momentum or decay. Matrices (two dimensions and more, ZeRO-3: of the
    whole tensor) are decayed, vectors (norms, biases) are not; an empty group is left out. A shared tensor is
    one parameter.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if len(shape_of(parameter)) >= 2]
    vectors = [parameter for parameter in trained if len(shape_of(parameter)) < 2]
    decay = section.weight_decay if section.name == "adamw" else 0.0
    groups = [
        {"params": parameters, "weight_decay": weight_decay}
        for parameters, weight_decay in ((matrices, decay), (vectors, 0.0))
        if parameters
    ]
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0)
    return torch.optim.AdamW(groups, lr=0.0, betas=section.betas, eps=section.eps, fused=True)


def _zero3_handle(zero_stage: int, deepspeed_config: dict[str, Any] | None) -> Any:
    """transformers' switch for loading partitioned: it is on as long as this object lives.

    None below stage 3, and a switch that an earlier model in this process left on is put off.
    """
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    if zero_stage != 3:
        unset_hf_deepspeed_config()
        return None
    if deepspeed_config is None:
        raise ValueError("ZeRO-3 loads partitioned: deepspeed_config is needed")
    return HfDeepSpeedConfig(deepspeed_config)


def _from_pretrained(config: Config, path: str) -> PreTrainedModel:
    """The model at `path`, its weights complete; Refused otherwise."""
    if looks_local(path) and not os.path.isdir(os.path.expanduser(path)):
        raise Refused(model_missing(path))
    path = os.path.expanduser(path) if looks_local(path) else path
    try:
        found = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except BROKEN_FILE as error:
        raise Refused(_no_model(path, error)) from error
    if type(found) not in AutoModelForCausalLM._model_mapping:
        raise Refused(model_not_causal(path, found.model_type))
    arguments: dict[str, Any] = {"dtype": DTYPES[config.model.dtype], "output_loading_info": True}
    arguments["trust_remote_code"] = False  # left out, transformers would ask a person at a terminal
    if config.model.attention != "auto":
        arguments["attn_implementation"] = config.model.attention
    try:
        model, info = AutoModelForCausalLM.from_pretrained(path, **arguments)
    except ImportError as error:
        raise Refused(refusals.attention_missing(config.model.attention, first_line(error))) from error
    except BROKEN_FILE as error:
        raise Refused(_no_model(path, error)) from error
    _require_complete(path, model, info)
    return model


def _require_complete(path: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Refused when tensors of the model were not in the file: transformers would train on random ones with a
    warning.
    """
    missing = set(info["missing_keys"])
    if is_tied(model):  # one of the two names is enough
        missing -= {
            name for name, _ in model.named_parameters(remove_duplicate=False) if _is_head(model, name)
        }
    wrong = sorted(missing) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise Refused(refusals.weights_missing(path, wrong))


def _is_head(model: PreTrainedModel, name: str) -> bool:
    head = model.get_output_embeddings()
    return any(f"{prefix}.weight" == name for prefix, module in model.named_modules() if module is head)


def _grow_module(module: nn.Module, rows: int, deepspeed_config: dict[str, Any] | None) -> None:
    """Grow the first dimension of a module's parameters to `rows`, filled with the mean; partition again
    under ZeRO-3.
    """
    for name, old in list(module.named_parameters(recurse=False)):
        with whole([old]), torch.no_grad():
            grown = torch.empty((rows, *old.shape[1:]), dtype=old.dtype, device=old.device)
            grown[: old.shape[0]] = old
            grown[old.shape[0] :] = _mean_row(old)
        setattr(module, name, nn.Parameter(grown, requires_grad=old.requires_grad))
    if deepspeed_config is not None:
        partition(module, deepspeed_config)


def _mean_row(table: torch.Tensor) -> torch.Tensor:
    """Mean over the rows, in the table's dtype: float64 sums of blocks of rows, added in order."""
    total = torch.zeros(table.shape[1:], dtype=torch.float64, device=table.device)
    for block in table.detach().split(ROWS_AT_ONCE):
        total += block.double().sum(dim=0)
    return (total / table.shape[0]).to(table.dtype)


def _no_model(path: str, error: Exception) -> Finding:
    if looks_local(path):
        return refusals.model_unreadable(path, first_line(error))
    return model_missing(path, first_line(error))
