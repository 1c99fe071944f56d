"""The base model: loaded (under ZeRO-3 in parts), its vocabulary grown when the tokenizer is larger, and its
optimizer.

Whoever calls `load_model` under ZeRO-3 has initialised torch.distributed before; all ranks call it together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from crossfoot.findings.finding import Finding, Refused
from crossfoot.models import findings
from crossfoot.models.grow import grow_vocabulary
from crossfoot.models.parameters import is_tied, rows_of
from crossfoot.phrases import first_line
from crossfoot.written.config import Config
from crossfoot.written.model_facts import looks_local, model_missing
from crossfoot.written.model_findings import model_not_causal

Report = Callable[[str], None]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
    # What config.json asks for itself is not followed: a kernel may be code that is fetched from the hub.
    asked = config.model.attention
    found._attn_implementation = found._experts_implementation = None
    arguments: dict[str, Any] = {"dtype": DTYPES[config.model.dtype], "output_loading_info": True}
    arguments["trust_remote_code"] = False  # left out, transformers would ask a person at a terminal
    arguments["attn_implementation"] = None if asked == "auto" else asked
    try:
        model, info = AutoModelForCausalLM.from_pretrained(path, config=found, **arguments)
    except ImportError as error:
        raise Refused(findings.attention_missing(asked, first_line(error))) from error
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
        raise Refused(findings.weights_missing(path, wrong))


def _is_head(model: PreTrainedModel, name: str) -> bool:
    head = model.get_output_embeddings()
    return any(f"{prefix}.weight" == name for prefix, module in model.named_modules() if module is head)


def _no_model(path: str, error: Exception) -> Finding:
    if looks_local(path):
        return findings.model_unreadable(path, first_line(error))
    return model_missing(path, first_line(error))
