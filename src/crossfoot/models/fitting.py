"""Weight files held against the model before ZeRO-3 loads them.

There transformers hands each tensor to rank 0 alone, which stops at one of another shape while the other
ranks wait for it, and leaves out those that the model does not use without a word. So every rank looks first,
at the headers, which are the same for all.
"""

from __future__ import annotations

import re

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from crossfoot.checks.model_folder import tensors_in
from crossfoot.findings.finding import Refused
from crossfoot.written.model_facts import model_folder
from crossfoot.written.model_tensors import compared
from crossfoot.written.weight_findings import reshaped, unused

_NO_WEIGHTS = r"(^|\.)position_ids$"
"""Old files have them; they are counted, not loaded."""


def refuse_unfitting(path: str, config: PretrainedConfig) -> None:
    """Refused when tensors of the model at `path` have other shapes than `config` says, or belong into its
    layers and are not used. Nothing is said of families whose tensors transformers renames or fuses while it
    loads, nor of files that are not here.
    """
    folder = model_folder(path)
    tensors = tensors_in(path, folder)[0] if folder is not None else None
    if tensors is None:
        return
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if get_model_conversion_mapping(model, add_legacy=False):
        return
    promised = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    patterns = (*(model._keys_to_ignore_on_load_unexpected or ()), _NO_WEIGHTS)
    ignored = [re.compile(pattern) for pattern in patterns]
    there = {
        _full_name(model, name, promised): tensor.shape
        for name, tensor in tensors.items()
        if not any(pattern.search(name) for pattern in ignored)
    }
    differs = compared(promised, there)
    findings = [reshaped(path, differs.reshaped)] if differs.reshaped else []
    if differs.unused:
        findings.append(unused(path, differs.unused))
    if findings:
        raise Refused(findings)


def _full_name(model: PreTrainedModel, name: str, promised: dict[str, tuple[int, ...]]) -> str:
    """The name in a model with a head: files of a model without one lack the first part of it."""
    longer = f"{model.base_model_prefix}.{name}"
    return longer if name not in promised and longer in promised else name
