"""Adapters merged into the weights of a base, one tensor at a time.

The model is built without values, peft puts its adapters into it, and each layer gets values when its turn
comes: peft's own merge of that layer, in float64, is what counts. So every kind of adapter that peft merges
(rsLoRA, DoRA, patterns of ranks, rows of tokens) is merged here by the same words, and no more is in memory
than one layer and the files that are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, get_peft_model_state_dict
from peft.utils.other import TrainableTokensWrapper
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from crossfoot.findings.finding import Refused
from crossfoot.merging.base_files import BaseFiles
from crossfoot.model_source.findings import other_base
from crossfoot.models.grow import grow_vocabulary, mean_row
from crossfoot.models.parameters import is_tied, rows_of
from crossfoot.written.adapter_folder import PREFIX, AdapterFolder

Read = Callable[[str], torch.Tensor]
_TWICE = re.compile(r"\.(?:original_module|modules_to_save)\.[\w.]+$")
"""What peft saves once more of a table that was grown: as it was before training, and as it is."""
_ADAPTER = "default"


def without_values(config: PretrainedConfig, rows: int = 0) -> PreTrainedModel:
    """The model of a config.json, with shapes and no values; its tables grown to at least `rows` rows."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if rows > rows_of(model.get_input_embeddings()):
        grow_vocabulary(model, rows, None)
    return model


@dataclass(frozen=True)
class _Owner:
    """A module that an adapter has changed. path: in the base; leaf: a tensor in it."""

    path: str
    module: nn.Module
    leaf: str


class Stage:
    """One adapter over a base. rows: of the base's tables, when they are grown to the adapter's."""

    def __init__(self, adapter: AdapterFolder, config: PretrainedConfig, rows: int) -> None:
        """Raises Refused where the adapter is that of another model."""
        self.adapter = adapter
        base = without_values(config, rows)
        self._plain = {name for name, _ in base.named_parameters(remove_duplicate=False)}
        self.tables = _table_paths(base)
        settings = LoraConfig.from_pretrained(adapter.folder)
        settings.inference_mode = True
        try:
            self._model: PeftModel = get_peft_model(
                base, settings, autocast_adapter_dtype=False, low_cpu_mem_usage=True
            )
        except ValueError as error:  # none of its modules is in this model
            raise Refused(other_base(adapter.path, str(error))) from error
        self._inner: nn.Module = self._model.get_base_model()
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        by_key: dict[str, nn.Parameter] = get_peft_model_state_dict(
            self._model, state_dict=parameters, save_embedding_layers=False
        )
        keys = {id(parameter): key for key, parameter in by_key.items()}
        self._keys = {name: keys[id(one)] for name, one in parameters.items() if id(one) in keys}
        self._instead = dict(self._replaced(by_key))
        self._refuse_unfitting(by_key)
        self._values = _opened(adapter)

    def touches(self, name: str) -> bool:
        """Whether a tensor of the base is another one after the merge."""
        return name in self._instead or self._owner(name) is not None

    def merged(self, name: str, base: Read) -> torch.Tensor:
        """A tensor of the base after the merge: in float64 what was added to, as it is stored what replaces,
        else as `base` gives it. Raises ValueError for what is no number.
        """
        owner = self._owner(name)
        if owner is None:
            return self._of_base(name, base)
        rest = owner.leaf
        if isinstance(owner.module, ModulesToSaveWrapper):
            return self._stored(f"{PREFIX}{owner.path}.modules_to_save.{_ADAPTER}.{rest}")
        prefix, layer = owner.path, owner.module
        if isinstance(layer, TrainableTokensWrapper):
            prefix, layer = f"{prefix}.token_adapter", layer.token_adapter
        assert isinstance(layer, BaseTunerLayer)
        own = {id(one): leaf for leaf, one in layer.get_base_layer().named_parameters()}
        values = {}
        for leaf, one in layer.named_parameters(remove_duplicate=False):
            if id(one) in own:
                values[leaf] = self._of_base(f"{owner.path}.{own[id(one)]}", base).double()
            else:
                values[leaf] = self._stored(f"{PREFIX}{prefix}.{leaf}").double()
        layer.load_state_dict(values, strict=False, assign=True)
        del values
        layer.merge()
        merged: torch.Tensor = layer.get_base_layer().get_parameter(rest).detach()
        layer.to_empty(device="meta")
        layer.merged_adapters.clear()
        return merged

    def _of_base(self, name: str, base: Read) -> torch.Tensor:
        if name in self._instead:
            return self._values(self._instead[name])
        value = base(name)
        module, _, _ = name.rpartition(".")
        if module in self.tables and (lacking := self._rows(module) - value.shape[0]) > 0:
            value = torch.cat([value, mean_row(value).expand(lacking, *value.shape[1:])])
        return value

    def _rows(self, path: str) -> int:
        return rows_of(self._inner.get_submodule(path))

    def _stored(self, parameter: str) -> torch.Tensor:
        return self._values(self._keys[parameter])

    def _owner(self, name: str) -> _Owner | None:
        """The changed module that a tensor of the base lies in. Rows of a tied table are those of the other
        one.
        """
        module: nn.Module = self._inner
        path = ""
        for word in name.split(".")[:-1]:
            module = module.get_submodule(word)
            path = f"{path}.{word}" if path else word
            if isinstance(module, TrainableTokensWrapper) and module.token_adapter.tied_adapter is not None:
                embed = self.tables[0]
                return _Owner(embed, self._inner.get_submodule(embed), "weight")
            if isinstance(module, (ModulesToSaveWrapper, TrainableTokensWrapper, BaseTunerLayer)):
                return _Owner(path, module, name.removeprefix(f"{path}."))
        return None

    def _replaced(self, by_key: dict[str, nn.Parameter]) -> Iterator[tuple[str, str]]:
        """(tensor of the base, its key) of whole tables that peft has put beside the adapters."""
        for key in self.adapter.tensors or ():
            name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
            if key not in by_key and name in self._plain:
                yield name, key

    def _refuse_unfitting(self, by_key: dict[str, nn.Parameter]) -> None:
        path, stored = self.adapter.path, self.adapter.tensors or {}
        there = {key: one.shape for key, one in stored.items() if not _TWICE.search(key)}
        wanted = {key: tuple(one.shape) for key, one in by_key.items()}
        wanted |= {key: there[key] for key in self._instead.values()}
        for key in sorted(wanted.keys() | there.keys()):
            if key not in there:
                raise Refused(other_base(path, f"by its settings it has {key}, and its file has not"))
            if key not in wanted:
                raise Refused(other_base(path, f"this model has nothing that {key} belongs to"))
            if tuple(there[key]) != wanted[key]:
                sizes = f"{list(there[key])} in the adapter, {list(wanted[key])} by the model"
                raise Refused(other_base(path, f"{key} is {sizes}"))


class MergedTensors:
    """The tensors of a base with all its adapters in it. dtype: what the base was in when it was trained on;
    None: as it is stored. names: of the model for the names in the files.
    """

    def __init__(
        self, files: BaseFiles, config: PretrainedConfig, stages: Sequence[Stage], dtype: torch.dtype | None
    ) -> None:
        """Raises Refused where the files are not those of the model."""
        self.files = files
        self._stages = stages
        self._dtype = dtype
        rows = max((stage.adapter.needed_rows for stage in stages), default=0)
        self.model = without_values(config, rows)
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.shapes = {name: tuple(one.shape) for name, one in parameters.items()}
        prefix = f"{self.model.base_model_prefix}."
        self.names: dict[str, str] = {}
        for stored in files.tensors:
            full = stored if stored in self.shapes else prefix + stored
            if full in self.shapes:
                self.names[full] = stored
        self._refuse_unmerged()
        self.was_tied = is_tied(self.model)
        self.tables = _table_paths(self.model)
        self.stays_tied = self.was_tied and self._is_still_tied()

    def touches(self, name: str) -> bool:
        """Whether any adapter changes a tensor of the model."""
        return any(stage.touches(name) for stage in self._stages)

    def value(self, name: str, upto: int | None = None) -> torch.Tensor:
        """A tensor of the model, by its name there, after the first `upto` adapters (None: all)."""
        count = len(self._stages) if upto is None else upto
        if count == 0:
            value = self.files.read(self.names.get(name) or self.names[self._other_table(name)])
            return value if self._dtype is None else value.to(self._dtype)
        before = self._stages[count - 1].merged(name, lambda one: self.value(one, count - 1))
        # a base that was merged before training was kept in the precision of the run
        return before.to(self._dtype) if upto is not None and self._dtype is not None else before

    def _other_table(self, name: str) -> str:
        """A file of a tied model has one of two names, or both."""
        embed, head = (f"{path}.weight" for path in self.tables)
        return embed if name == head else head

    def _is_still_tied(self) -> bool:
        names = [f"{path}.weight" for path in self.tables]
        if not any(map(self.touches, names)):
            return True
        embed, head = map(self.value, names)
        return bool(torch.equal(embed, head))

    def _refuse_unmerged(self) -> None:
        lacking = [name for name in self.shapes if name not in self.names and self.touches(name)]
        if is_tied(self.model):
            tables = [f"{path}.weight" for path in _table_paths(self.model)]
            if any(name in self.names for name in tables):
                lacking = [name for name in lacking if name not in tables]
        if lacking:
            adapter = self._stages[-1].adapter
            raise Refused(other_base(adapter.path, f"the files of the base model have no {lacking[0]}"))


def _table_paths(model: PreTrainedModel) -> list[str]:
    """Paths of the input table and of the output head, in this order."""
    paths = {id(module): name for name, module in model.named_modules()}
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return [paths[id(table)] for table in tables if table is not None]


def _opened(adapter: AdapterFolder) -> Read:
    """Reads the values of an adapter by key."""
    values: Any
    if adapter.is_pickled:
        values = torch.load(adapter.weights, "cpu", weights_only=True)
    else:
        opened: Any = safe_open(adapter.weights, framework="pt", device="cpu")

    def read(key: str) -> torch.Tensor:
        value: torch.Tensor = values[key] if adapter.is_pickled else opened.get_tensor(key)
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{key} of {adapter.folder} holds NaN or infinite numbers")
        return value

    return read
