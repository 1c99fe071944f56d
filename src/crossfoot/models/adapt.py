"""What is trained and how it is saved: LoRA adapters and fully trained modules by peft, or the whole model.

Seen with peft 0.21.2 on a tied model (embed_tokens and lm_head one tensor): `ensure_weight_tying=True` with
either name or both in modules_to_save makes one trained copy that both use, one parameter to the optimizer,
under ZeRO 0-3; the file has both names (equal tensors), and PeftModel.from_pretrained ties them again.
Without it peft unties them with a warning.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from crossfoot.findings.finding import Finding, Refused
from crossfoot.models.dropout import draw_less
from crossfoot.models.load import DTYPES, LoadedModel, Report
from crossfoot.models.parameters import is_partitioned, is_tied, numel_of, partition, rows_of
from crossfoot.models.quantise import packed_layers
from crossfoot.models.start_adapter import merge_adapter, put_into
from crossfoot.models.start_values import take_from_base
from crossfoot.phrases import counted
from crossfoot.written import model_findings
from crossfoot.written.adapter_folder import merged_first, open_adapter, read_adapter
from crossfoot.written.config import Config
from crossfoot.written.config_values import ALL_LINEAR
from crossfoot.written.lora_section import LoraSection
from crossfoot.written.token_rows import token_rows

_LINEAR = (nn.Linear, Conv1D)


def prepare_training(
    config: Config,
    loaded: LoadedModel,
    report: Report,
    trained_dtype: str | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
) -> PreTrainedModel | PeftModel:
    """Freeze and unfreeze, and add the adapters; returns the model to train. All ranks call it and get the
    same weights.

    Fresh LoRA matrices are drawn on the CPU from `config.run.seed` alone, and those of an adapter that is
    continued are read from its folder, so every rank, ZeRO stage and world
    begins bitwise equal; the caller's random state is left as it was. Under ZeRO-3 what peft adds is
    partitioned here.

    trained_dtype: of the trained tensors; None: `config.model.dtype`. The DeepSpeed engine wants None: it
    holds trained bfloat16 tensors with a float32 master of its own (made from the bfloat16 values). The
    accelerate engine wants "float32": trained tensors are their own master, and the forward runs under
    autocast. With model.dtype float32 both are the same.

    start: with `lora.init`, what the matrices began with, in a run that goes on.

    Raises Refused: names in lora.target_modules or lora.modules_to_save that match nothing, a module in both,
    LoRA matrices on one side of a tied table, a rank that a weight has not.
    """
    base = loaded.model
    dtype = DTYPES[trained_dtype or config.model.dtype]
    if config.lora is None:
        return _train_all(base, dtype)
    targets = _targets(base, config.lora)
    if findings := [
        *_unmatched(base, config.lora, targets),
        *_in_both(base, config.lora, targets),
        *_half_tied(base, loaded, targets),
        *_packed(base, config),
    ]:
        raise Refused(findings)

    shared = loaded.tied and bool(_tables_in(base, config.lora.modules_to_save))
    peft_config = _peft_config(config.lora, targets, shared)
    peft_config.trainable_token_indices = _token_rows(config.lora, loaded)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = get_peft_model(base, peft_config, autocast_adapter_dtype=False)
        if config.lora.changes_base:
            report(take_from_base(model, config.lora, DTYPES[config.model.dtype], start))
    draw_less(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    adapter = read_adapter(config.model)
    if adapter is not None and config.model.adapter_use == "continue":
        put_into(model, adapter)
        report(f"continued: the adapter {adapter.path}")
    if shared and not is_tied(base):
        raise Refused(_cannot_tie(base, config.lora.modules_to_save))
    if loaded.tied:
        trained = "trained as one" if shared or peft_config.trainable_token_indices else "not trained"
        report(f"embed_tokens and lm_head are one tensor: {trained}")
    if config.model.gradient_checkpointing and not getattr(base, "_require_grads_hooks", None):
        base.enable_input_require_grads()
    if loaded.zero_stage == 3:
        partition(model, loaded.deepspeed_handle.config)
    model.train()
    return model


def trained_summary(model: nn.Module) -> tuple[int, int, tuple[str, ...]]:
    """(trained parameters, all parameters, lines to print); a shared tensor counts once, ZeRO-3 counts whole
    tensors.

    With modules_to_save, "all" has the frozen original and the trained copy.
    """
    groups: dict[str, tuple[int, int]] = {}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    trained = everything = 0
    for parameter in model.parameters():
        elements = numel_of(parameter)
        everything += elements
        if parameter.requires_grad:
            trained += elements
            label = _label(names[id(parameter)])
            tensors, before = groups.get(label, (0, 0))
            groups[label] = (tensors + 1, before + elements)
    share = 100 * trained / everything if everything else 0.0
    lines = [f"trained parameters: {trained:,} of {everything:,} ({share:.2f} %)"]
    lines += [
        f"  {label}: {numbers:,} in {counted(tensors, 'tensor')}"
        for label, (tensors, numbers) in groups.items()
    ]
    return trained, everything, tuple(lines)


def load_adapter(
    base: str | os.PathLike[str], folder: str | os.PathLike[str], dtype: str = "float32"
) -> PeftModel:
    """The trained model from a base (folder or hub id) and a folder of `save_adapter`, in evaluation mode,
    one process.

    Another adapter that it was trained on is merged into the base first. A base whose table has fewer rows
    than the saved embed_tokens is grown: PeftModel.from_pretrained alone stops on the size mismatch. The
    grown rows' values do not matter, the saved tables replace them.
    """
    from safetensors import safe_open

    model = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype], trust_remote_code=False)
    if before := merged_first(os.fspath(folder)):
        model = merge_adapter(model, open_adapter(before), None)
    saved = {f"base_model.model.{name}.weight" for name in table_names(model)}
    with safe_open(Path(folder) / "adapter_model.safetensors", framework="pt") as file:
        rows = [file.get_slice(key).get_shape()[0] for key in saved & set(file.keys())]
    if max(rows, default=0) > rows_of(model.get_input_embeddings()):
        model.resize_token_embeddings(max(rows), mean_resizing=False)
    return PeftModel.from_pretrained(model, folder).eval()


def _train_all(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Full fine-tuning: every parameter is trained."""
    for parameter in model.parameters():
        if parameter.dtype != dtype:
            if is_partitioned(parameter):
                raise ValueError(
                    f"ZeRO-3 holds {parameter.dtype}; the DeepSpeed config decides, not trained_dtype {dtype}"
                )
            parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(True)
    return model.train()


def _targets(model: PreTrainedModel, lora: LoraSection) -> list[str]:
    """Names of the modules that get an adapter; all-linear: the last words of all linear ones but the
    output head. Not peft's own, which differ from process to process in their order.
    """
    if lora.target_modules != ALL_LINEAR:
        return list(lora.target_modules)
    head = model.get_output_embeddings()
    linear = [name for name, one in model.named_modules() if isinstance(one, _LINEAR) and one is not head]
    return _trailing_names(linear)


def _peft_config(lora: LoraSection, targets: list[str], shared: bool) -> LoraConfig:
    """Our section in peft's words. alpha stays whole where it is written whole."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.scaling == "rslora",
        use_dora=lora.dora,
        target_modules=targets,
        modules_to_save=list(lora.modules_to_save) or None,
        ensure_weight_tying=shared,
    )


def _token_rows(lora: LoraSection, loaded: LoadedModel) -> dict[str, list[int]] | None:
    """The rows of each table that are trained; peft follows the input table to one that is tied to it."""
    if lora.trainable_token_indices is None:
        return None
    rows = token_rows(lora.trainable_token_indices, loaded.first_new, loaded.vocabulary)
    tables = table_names(loaded.model)
    return dict.fromkeys(tables[:1] if loaded.tied else tables, rows)


def _matches(module_name: str, written: str) -> bool:
    """peft's rule: the whole name, or its end after a dot."""
    return module_name == written or module_name.endswith("." + written)


def _named(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    return [name for name, module in model.named_modules() if name and isinstance(module, kinds)]


def _unmatched(model: PreTrainedModel, lora: LoraSection, targets: list[str]) -> list[Finding]:
    """CF546, CF547: a written name that no module of this model has; peft itself skips it when another one
    matches.
    """
    adaptable = _named(model, (*_LINEAR, nn.Embedding))
    anything = _named(model, (nn.Module,))
    findings = []
    for refusal, written, there in (
        (model_findings.no_target_module, targets, adaptable),
        (model_findings.no_module_to_save, lora.modules_to_save, anything),
    ):
        lacking = [name for name in written if not any(_matches(module, name) for module in there)]
        if lacking:
            findings.append(refusal(lacking, _trailing_names(adaptable)))
    return findings


def _in_both(model: PreTrainedModel, lora: LoraSection, targets: list[str]) -> list[Finding]:
    """CF548: a module cannot be trained in full and have an adapter too."""
    modules = _named(model, (nn.Module,))
    both = [
        name
        for name in modules
        if any(_matches(name, written) for written in targets)
        and any(_matches(name, written) for written in lora.modules_to_save)
    ]
    return [model_findings.trained_two_ways(_trailing_names(both))] if both else []


def table_names(model: PreTrainedModel) -> list[str]:
    """Names of the modules that are the input table and the output head."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for name, module in model.named_modules() if any(module is table for table in tables)]


def _tables_in(model: PreTrainedModel, written: Iterable[str]) -> list[str]:
    """Which of the input table and the output head these names match."""
    return [name for name in table_names(model) if any(_matches(name, one) for one in written)]


def _half_tied(model: PreTrainedModel, loaded: LoadedModel, targets: list[str]) -> list[Finding]:
    """CF549: an adapter on one use of a tied table would untie the two."""
    tables = _tables_in(model, targets) if loaded.tied else []
    if not tables:
        return []
    return [model_findings.adapter_unties(_trailing_names(tables))]


def _packed(model: PreTrainedModel, config: Config) -> list[Finding]:
    """CF599: a module that is to be trained in full holds packed weights."""
    written = config.lora.modules_to_save if config.lora else []
    layers = [name for name, _ in packed_layers(model)]
    holding = {
        one
        for name, _ in model.named_modules()
        for one in written
        if _matches(name, one) and any(layer == name or layer.startswith(f"{name}.") for layer in layers)
    }
    names = [name for name in written if name in holding]
    return [model_findings.packed_to_save(names, config.model.quantization)] if names else []


def _cannot_tie(model: PreTrainedModel, written: Iterable[str]) -> Finding:
    (table, *_) = _trailing_names(_tables_in(model, written))
    return model_findings.copy_unties(model.config.model_type, table)


def _trailing_names(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))


def _label(names: list[str]) -> str:
    """The line of the summary a trained parameter (with all its names) belongs to."""
    if any(".lora_" in name for name in names):
        return "LoRA"
    if rows := [name.split(".token_adapter.")[0] for name in names if ".token_adapter." in name]:
        return "rows of " + " and ".join(_trailing_names(rows)) + (", one tensor" if len(rows) > 1 else "")
    saved = [
        name.split(".modules_to_save.")[0].rsplit(".", 1)[-1] for name in names if ".modules_to_save." in name
    ]
    if saved:
        return " and ".join(dict.fromkeys(saved)) + (", one tensor" if len(saved) > 1 else ", in full")
    return "whole model"
