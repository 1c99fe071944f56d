"""Writes src/crossfoot/checks/deepspeed/vocabulary.json: every key that the installed DeepSpeed reads.

    python tools/deepspeed_vocabulary.py

DeepSpeed is asked two ways. Its pydantic models name their fields. What it reads from plain dicts is
recorded while a `DeepSpeedConfig` is made from a dict that notes every question. Only what no code can tell
stands in the tables below, and a key that DeepSpeed reads without a default must have an entry there, or this
tool stops: a new version cannot slip by.
"""

from __future__ import annotations

import enum
import importlib
import json
import math
import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

FILE = Path(__file__).parent.parent / "src" / "crossfoot" / "checks" / "deepspeed" / "vocabulary.json"

PLAIN_BLOCKS = """
activation_checkpointing aio autotuning autotuning.model_info checkpoint checkpoint.parallel_write
checkpoint.writer data_efficiency data_efficiency.data_routing data_efficiency.data_sampling data_types
expert_parallel flops_profiler optimizer scheduler timers torch_autocast
"""
"""Objects that DeepSpeed reads key by key, without a model."""

OPEN_BLOCKS = """
autotuning.arg_mappings data_efficiency.data_routing.random_ltd
data_efficiency.data_sampling.curriculum_learning data_efficiency.data_sampling.dynamic_batching
optimizer.params scheduler.params
"""
"""Objects whose keys are handed on to somebody else."""

MODELS = {
    "bf16": "runtime.precision_config.DeepSpeedBF16Config",
    "comet": "monitor.config.CometConfig",
    "comms_logger": "comm.config.CommsLoggerConfig",
    "compile": "compile.config.CompileConfig",
    "csv_monitor": "monitor.config.CSVConfig",
    "fp16": "runtime.precision_config.DeepSpeedFP16Config",
    "hybrid_engine": "runtime.config.HybridEngineConfig",
    "tensor_parallel": "runtime.tensor_parallel.config.TPTrainingConfig",
    "tensorboard": "monitor.config.TensorBoardConfig",
    "timers.throughput": "utils.config.DeepSpeedThroughputTimerConfig",
    "wandb": "monitor.config.WandbConfig",
    "weight_quantization": "inference.config.WeightQuantConfig",
    "zero_optimization": "runtime.zero.config.DeepSpeedZeroConfig",
}
"""Objects that DeepSpeed reads by a pydantic model."""

FILLED_WITH: dict[str, dict[str, Any]] = {
    "optimizer": {"type": "AdamW"},
    "scheduler": {"type": "WarmupLR"},
    "expert_parallel": {"enabled": False},
}
"""Without these DeepSpeed does not ask for the rest of the block."""

BY_HAND = """
train_batch_size                             int at_least=1
train_micro_batch_size_per_gpu               int at_least=1
gradient_accumulation_steps                  int at_least=1
gradient_clipping                            float at_least=0
steps_per_print                              int nullable
communication_data_type                      string nullable any_case bf16|fp16|fp32
seq_parallel_communication_data_type         string nullable any_case bf16|fp16|fp32
gradient_allreduce_op                        string any_case mean|sum
gradient_predivide_factor                    float more_than=0
vocabulary_size                              int nullable
log_level                                    string nullable
datastates_ckpt                              any
activation_checkpointing.number_checkpoints  int nullable
autotuning.max_train_batch_size              int nullable
autotuning.metric_path                       string nullable
autotuning.model_info_path                   string nullable
autotuning.model_info.num_params             int nullable
autotuning.model_info.hidden_size            int nullable
autotuning.model_info.num_layers             int nullable
checkpoint.tag_validation                    string any_case FAIL|IGNORE|WARN
checkpoint.writer.data_parallel              string nullable any_case MACHINE|REPLICA|SOCKET
checkpoint.writer.type                       string any_case FAST|MOCK|PYTHON
data_types.keep_in_fp32_modules              list
data_types.grad_accum_dtype                  string nullable DtypeEnum
data_types.param_dtype                       string nullable DtypeEnum
data_types.buffer_dtype                      string nullable DtypeEnum
flops_profiler.output_file                   string nullable
optimizer.legacy_fusion                      bool
optimizer.type                               string
scheduler.type                               string
torch_autocast.dtype                         string DtypeEnum
torch_autocast.lower_precision_safe_modules  list
"""
"""What the default alone does not tell of keys that are read from plain dicts (runtime/config.py and the
constants beside it): kind, bounds, words.
"""

READ_ELSEWHERE: dict[str, dict[str, Any]] = {
    # deepspeed/__init__.py and runtime/config.py, only when torch.distributed runs.
    "data_parallel_size": {"kind": "int", "at_least": 1},
    "sequence_parallel_size": {"kind": "int", "at_least": 1},
    # runtime/zero/config.py, only when zero_optimization is true or false.
    "allgather_size": {"kind": "int", "default": 500000000},
}

NO_LONGER_READ: dict[str, str] = {
    # runtime/constants.py of the 0.3 and 0.4 versions; 0.19 passes over it without a word.
    "fp32_allreduce": '"communication_data_type": "fp32"',
}
"""Former keys that are now ignored, each with what is written today."""


class Asked(dict[str, Any]):
    """A dict that notes what it is asked for; `asked`: key to default, ... when there was none."""

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        super().__init__(values or {})
        self.asked: dict[str, Any] = {}

    def _note(self, name: object, default: Any = ...) -> None:
        if isinstance(name, str) and self.asked.get(name, ...) is ...:
            self.asked[name] = default

    def get(self, name: str, default: Any = None) -> Any:
        self._note(name, default)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self._note(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._note(name)
        return super().__contains__(name)

    def keys(self) -> Any:
        """`name in d.keys()` is a question too."""
        return _Keys(self)

    def __copy__(self) -> Asked:
        return self


class _Keys(list[str]):
    def __init__(self, owner: Asked) -> None:
        super().__init__(iter(owner))
        self.owner = owner

    def __contains__(self, name: object) -> bool:
        return name in self.owner


def vocabulary() -> dict[str, Any]:
    """The whole data file, as a dict."""
    import deepspeed
    from deepspeed.runtime import config

    blocks: dict[str, Any] = {}
    _models(blocks)
    _plain_blocks(blocks)
    return {
        "deepspeed": deepspeed.__version__,
        "blocks": dict(sorted(blocks.items())),
        "refused": {
            "": sorted(config._REMOVED_TOP_LEVEL_CONFIG_KEYS),
            "zero_optimization": sorted(config._REMOVED_ZERO_CONFIG_KEYS),
        },
        "no_longer_read": NO_LONGER_READ,
    }


def _models(blocks: dict[str, Any]) -> None:
    for path, dotted in MODELS.items():
        module, _, name = dotted.rpartition(".")
        _model(path, getattr(importlib.import_module(f"deepspeed.{module}"), name), blocks)


def _model(path: str, model: Any, blocks: dict[str, Any]) -> None:
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        entry = _annotated(f"{path}.{name}", field.annotation, blocks)
        for limit in field.metadata:
            for theirs, ours in (
                ("gt", "more_than"),
                ("ge", "at_least"),
                ("lt", "less_than"),
                ("le", "at_most"),
            ):
                if hasattr(limit, theirs):
                    entry[ours] = getattr(limit, theirs)
        default = field.get_default(call_default_factory=True)
        if _is_plain(default):
            entry["default"] = _plain(default)
        extra = field.json_schema_extra or {}
        if extra.get("deprecated"):
            entry["deprecated"] = extra.get("new_param", "")
            entry["moves"] = bool(extra.get("set_new_param", True))
        main = field.alias or name
        keys[main] = entry
        if main != name:
            keys[name] = {**entry, "same_as": main}
    # DeepSpeed names a field's successor by the field; people write its alias.
    for entry in keys.values():
        if "deprecated" in entry and entry["deprecated"] in keys:
            entry["deprecated"] = keys[entry["deprecated"]].get("same_as", entry["deprecated"])
    blocks[path] = {"reader": "model", "keys": dict(sorted(keys.items()))}


def _annotated(path: str, annotation: Any, blocks: dict[str, Any]) -> dict[str, Any]:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [choice for choice in inside if choice is not type(None)]
        entry = _annotated(path, kinds[0], blocks) if len(kinds) == 1 else {"kind": "any"}
        return {**entry, "nullable": True} if type(None) in inside else entry
    if origin is typing.Literal:
        return {"kind": "string", "choices": sorted(inside)}
    kind = origin or annotation
    if not isinstance(kind, type):
        return {"kind": "any"}
    if issubclass(kind, enum.Enum):
        choices = sorted({member.value for member in kind})
        return {"kind": "int" if isinstance(choices[0], int) else "string", "choices": choices}
    if hasattr(kind, "model_fields"):
        _model(path, kind, blocks)
        return {"kind": "object", "block": path}
    simple = {bool: "bool", int: "int", float: "float", str: "string", Path: "string", list: "list"}
    if kind is dict:
        return {"kind": "object"}
    return {"kind": "list" if kind is tuple else simple.get(kind, "any")}


def _plain_blocks(blocks: dict[str, Any]) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig, get_pipeline_config
    from deepspeed.runtime.zero.config import get_zero_config

    noted = {path: Asked(FILLED_WITH.get(path)) for path in ("", *PLAIN_BLOCKS.split())}
    for path, asked in noted.items():
        if path:
            parent, _, name = path.rpartition(".")
            dict.__setitem__(noted[parent], name, asked)
    dict.__setitem__(noted[""], "train_batch_size", 1)
    DeepSpeedConfig(noted[""])
    old_form = Asked({"zero_optimization": True})
    get_zero_config(old_form)
    if "allgather_size" not in old_form.asked:
        raise SystemExit("DeepSpeed no longer reads allgather_size")
    for path, asked in noted.items():
        blocks[path] = {"reader": "plain", "keys": dict(sorted(_asked_keys(path, asked, blocks)))}
    for path in OPEN_BLOCKS.split():
        blocks[path] = {"reader": "open", "keys": {}}
    pipeline = {name: _of_default(value) for name, value in get_pipeline_config({}).items()}
    pipeline["stages"] = {"kind": "any", "default": "auto"}
    blocks["pipeline"] = {"reader": "plain", "keys": dict(sorted(pipeline.items()))}


def _asked_keys(path: str, asked: Asked, blocks: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    from deepspeed.runtime import config

    refused, by_hand = config._REMOVED_TOP_LEVEL_CONFIG_KEYS, _by_hand()
    known_blocks = {*blocks, *PLAIN_BLOCKS.split(), *OPEN_BLOCKS.split(), "pipeline"}
    if not path:
        yield "bfloat16", {"kind": "object", "block": "bf16"}
        yield from READ_ELSEWHERE.items()
    for name, default in asked.asked.items():
        dotted = f"{path}.{name}" if path else name
        if (not path and name in (*refused, "bfloat16", *READ_ELSEWHERE)) or not name.isidentifier():
            continue
        if dotted in known_blocks:
            yield name, {"kind": "object", "block": dotted}
            continue
        # Names of modules, counts, or the preset's own (module_inject/auto_ep_presets/base.py).
        is_of_preset = path == "expert_parallel" and (default in (None, ...) or isinstance(default, str))
        of_preset = {"kind": "any", "nullable": True} if is_of_preset else None
        entry = by_hand.get(dotted, of_preset)
        if entry is None:
            if default is ... or default is None:
                raise SystemExit(f"DeepSpeed reads {dotted} without a default: add it to BY_HAND")
            entry = _of_default(default)
        elif default is not ... and _is_plain(default):
            entry["default"] = _plain(default)
        yield name, entry


def _by_hand() -> dict[str, dict[str, Any]]:
    from deepspeed.runtime.config import DtypeEnum

    dtypes = sorted(word for word in DtypeEnum._value2member_map_ if isinstance(word, str))
    found = {}
    for line in BY_HAND.strip().splitlines():
        dotted, kind, *facts = line.split()
        entry: dict[str, Any] = {"kind": kind}
        for fact in facts:
            name, _, bound = fact.partition("=")
            if bound:
                entry[name] = int(bound)
            elif fact in ("nullable", "any_case"):
                entry[fact] = True
            else:
                entry["choices"] = dtypes if fact == "DtypeEnum" else fact.split("|")
        found[dotted] = entry
    return found


def _of_default(default: Any) -> dict[str, Any]:
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string"), (list, "list")):
        if isinstance(default, kind):
            return {"kind": name, "default": default}
    return {"kind": "object" if isinstance(default, dict) else "any"}


def _is_plain(value: Any) -> bool:
    is_number = isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    return value is None or is_number or (isinstance(value, list) and all(map(_is_plain, value)))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def rendered() -> str:
    """The text of the data file: sorted, one key a line."""
    found = vocabulary()
    texts = []
    for path, block in found["blocks"].items():
        keys = ",\n".join(f"   {json.dumps(n)}: {json.dumps(e)}" for n, e in block["keys"].items())
        inside = f"{{\n{keys}\n  }}" if keys else "{}"
        texts.append(f'  {json.dumps(path)}: {{"reader": {json.dumps(block["reader"])}, "keys": {inside}}}')
    blocks = ",\n".join(texts)
    sections = []
    for name in ("refused", "no_longer_read"):
        inside = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in found[name].items())
        sections.append(f" {json.dumps(name)}: {{\n{inside}\n }}")
    head = f'{{\n "deepspeed": {json.dumps(found["deepspeed"])},\n "blocks": {{\n{blocks}\n }},\n'
    return head + ",\n".join(sections) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(rendered(), encoding="utf-8")
