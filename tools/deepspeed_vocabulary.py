"""Writes src/crossfoot/checks/deepspeed_vocabulary.json: every key that the installed DeepSpeed reads.

    python tools/deepspeed_vocabulary.py            writes the file
    python tools/deepspeed_vocabulary.py --print    shows it

DeepSpeed is asked three ways. Its pydantic models name their fields. What it reads from plain dicts is
recorded while a `DeepSpeedConfig` is made from a dict that notes every question. Optimizers and schedulers
have signatures. Only what no code can tell stands in the tables below, and a key that DeepSpeed reads without
a default must have an entry there, or this tool stops: a new version cannot slip by.
"""

from __future__ import annotations

import copy
import enum
import inspect
import json
import math
import os
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

FILE = Path(__file__).parent.parent / "src" / "crossfoot" / "checks" / "deepspeed_vocabulary.json"

PLAIN_BLOCKS = (
    "activation_checkpointing",
    "aio",
    "autotuning",
    "autotuning.model_info",
    "checkpoint",
    "checkpoint.parallel_write",
    "checkpoint.writer",
    "data_efficiency",
    "data_efficiency.data_routing",
    "data_efficiency.data_sampling",
    "data_types",
    "expert_parallel",
    "flops_profiler",
    "optimizer",
    "scheduler",
    "timers",
    "torch_autocast",
)
"""Objects that DeepSpeed reads key by key, without a model."""

OPEN_BLOCKS = (
    "autotuning.arg_mappings",
    "data_efficiency.data_routing.random_ltd",
    "data_efficiency.data_sampling.curriculum_learning",
    "data_efficiency.data_sampling.dynamic_batching",
    "optimizer.params",
    "scheduler.params",
)
"""Objects whose keys are handed on to somebody else."""

FILLED_WITH: dict[str, dict[str, Any]] = {
    "optimizer": {"type": "AdamW"},
    "scheduler": {"type": "WarmupLR"},
    "expert_parallel": {"enabled": False},
}
"""Without these DeepSpeed does not ask for the rest of the block."""

PRECISIONS = ["bf16", "fp16", "fp32"]

BY_HAND: dict[str, dict[str, Any]] = {
    # Read without a default that tells the kind; from runtime/config.py and runtime/constants.py unless said.
    "train_batch_size": {"kind": "int", "at_least": 1},
    "train_micro_batch_size_per_gpu": {"kind": "int", "at_least": 1},
    "gradient_accumulation_steps": {"kind": "int", "at_least": 1},
    "gradient_clipping": {"kind": "float", "at_least": 0},
    "steps_per_print": {"kind": "int", "nullable": True},
    "communication_data_type": {"kind": "string", "choices": PRECISIONS, "any_case": True, "nullable": True},
    "seq_parallel_communication_data_type": {
        "kind": "string",
        "choices": PRECISIONS,
        "any_case": True,
        "nullable": True,
    },
    "gradient_allreduce_op": {"kind": "string", "choices": ["mean", "sum"], "any_case": True},
    "gradient_predivide_factor": {"kind": "float", "more_than": 0},
    "vocabulary_size": {"kind": "int", "nullable": True},
    "log_level": {"kind": "string", "nullable": True},
    "datastates_ckpt": {"kind": "any"},
    "activation_checkpointing.number_checkpoints": {"kind": "int", "nullable": True},
    "autotuning.arg_mappings": {"kind": "object", "nullable": True},
    "autotuning.max_train_batch_size": {"kind": "int", "nullable": True},
    "autotuning.metric_path": {"kind": "string", "nullable": True},
    "autotuning.model_info_path": {"kind": "string", "nullable": True},
    "autotuning.model_info.num_params": {"kind": "int", "nullable": True},
    "autotuning.model_info.hidden_size": {"kind": "int", "nullable": True},
    "autotuning.model_info.num_layers": {"kind": "int", "nullable": True},
    "checkpoint.checkpoint_serialization": {"kind": "bool"},
    "checkpoint.tag_validation": {
        "kind": "string",
        "choices": ["FAIL", "IGNORE", "WARN"],
        "any_case": True,
    },
    "checkpoint.writer.data_parallel": {
        "kind": "string",
        "choices": ["MACHINE", "REPLICA", "SOCKET"],
        "any_case": True,
        "nullable": True,
    },
    "checkpoint.writer.type": {"kind": "string", "choices": ["FAST", "MOCK", "PYTHON"], "any_case": True},
    "data_types.keep_in_fp32_modules": {"kind": "any"},
    "flops_profiler.output_file": {"kind": "string", "nullable": True},
    "flops_profiler.recompute_fwd_factor": {"kind": "float"},
    "optimizer.legacy_fusion": {"kind": "bool", "default": False},
    "optimizer.type": {"kind": "string"},
    "scheduler.type": {"kind": "string"},
    "torch_autocast.dtype": {"kind": "string", "choices": "DtypeEnum"},
    "torch_autocast.lower_precision_safe_modules": {"kind": "list"},
    "data_types.grad_accum_dtype": {"kind": "string", "choices": "DtypeEnum", "nullable": True},
    "data_types.param_dtype": {"kind": "string", "choices": "DtypeEnum", "nullable": True},
    "data_types.buffer_dtype": {"kind": "string", "choices": "DtypeEnum", "nullable": True},
    # module_inject/auto_ep_presets/base.py: names of modules, counts, or the preset's own.
    **{
        f"expert_parallel.{name}": {"kind": "any", "nullable": True}
        for name in ["preset_model", "moe_layer_pattern", "expert_pattern", "router_pattern", "route_norm", "num_expert_groups", "num_limited_groups", "load_balance_coeff", "expert_w1", "expert_w2", "expert_w3", "num_experts_attr", "top_k_attr", "has_shared_experts", "shared_experts_pattern", "shared_experts_gate_pattern", "expert_activation", "score_apply", "combine_impl", "row_weighting_impl", "score_func", "top_k", "routed_scaling_factor", "gate_up_impl", "comm_backend"]
    },
}

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
        return self if not super().__len__() else _Keys(self)

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
        "optimizers": _optimizers(),
        "schedulers": _schedulers(),
    }


# ---- pydantic models


def _models(blocks: dict[str, Any]) -> None:
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.inference.config import WeightQuantConfig
    from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime.config import HybridEngineConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    roots = {
        "bf16": DeepSpeedBF16Config,
        "comet": CometConfig,
        "comms_logger": CommsLoggerConfig,
        "compile": CompileConfig,
        "csv_monitor": CSVConfig,
        "fp16": DeepSpeedFP16Config,
        "hybrid_engine": HybridEngineConfig,
        "tensor_parallel": TPTrainingConfig,
        "tensorboard": TensorBoardConfig,
        "timers.throughput": DeepSpeedThroughputTimerConfig,
        "wandb": WandbConfig,
        "weight_quantization": WeightQuantConfig,
        "zero_optimization": DeepSpeedZeroConfig,
    }
    for path, model in roots.items():
        _model(path, model, blocks)


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


# ---- dicts


def _plain_blocks(blocks: dict[str, Any]) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig, get_pipeline_config
    from deepspeed.runtime.zero.config import get_zero_config

    noted = {path: Asked(FILLED_WITH.get(path)) for path in ("", *PLAIN_BLOCKS)}
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
    for path in OPEN_BLOCKS:
        blocks[path] = {"reader": "open", "keys": {}}
    pipeline = {name: _of_default(value) for name, value in get_pipeline_config({}).items()}
    pipeline["stages"] = {"kind": "any", "default": "auto"}
    blocks["pipeline"] = {"reader": "plain", "keys": dict(sorted(pipeline.items()))}


def _asked_keys(path: str, asked: Asked, blocks: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    from deepspeed.runtime import config

    refused = config._REMOVED_TOP_LEVEL_CONFIG_KEYS
    known_blocks = {*blocks, *PLAIN_BLOCKS, *OPEN_BLOCKS, "pipeline"}
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
        entry = copy.deepcopy(BY_HAND.get(dotted))
        if entry is None:
            if default is ... or default is None:
                raise SystemExit(f"DeepSpeed reads {dotted} without a default: add it to BY_HAND")
            entry = _of_default(default)
        elif default is not ... and _is_plain(default):
            entry["default"] = _plain(default)
        if entry.get("choices") == "DtypeEnum":
            words = config.DtypeEnum._value2member_map_
            entry["choices"] = sorted(word for word in words if isinstance(word, str))
        yield name, entry


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


# ---- signatures


def _optimizers() -> dict[str, Any]:
    """Names that `optimizer.type` may have (DeepSpeed's own in lower case), each with its parameters and
    defaults, as DeepSpeedEngine._configure_basic_optimizer makes them on a GPU.
    """
    import torch
    from deepspeed.ops.adam import FusedAdam
    from deepspeed.ops.lamb import FusedLamb
    from deepspeed.ops.lion import FusedLion
    from deepspeed.runtime.engine import DeepSpeedEngine

    # These two are taken out by the engine.
    adam = {**_signature(FusedAdam), "torch_adam": False, "fp32_optimizer_states": None}
    muon = (*DeepSpeedEngine._MUON_HALF_KEYS, *DeepSpeedEngine._ADAM_HALF_KEYS, "muon_lr", "adam_lr")
    found = {
        "adam": adam,
        "adamw": adam,
        "adagrad": _signature(torch.optim.Adagrad),
        "lamb": _signature(FusedLamb),
        "lion": _signature(FusedLion),
        "muon": dict.fromkeys(muon),
    }
    for name, kind in vars(torch.optim).items():
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer":
            found[name] = _signature(kind)
    return {name: dict(sorted(params.items())) for name, params in sorted(found.items())}


def _schedulers() -> dict[str, Any]:
    from deepspeed.runtime import lr_schedules

    names = lr_schedules.VALID_LR_SCHEDULES
    return {name: dict(sorted(_signature(getattr(lr_schedules, name)).items())) for name in sorted(names)}


def _signature(made: Any) -> dict[str, Any]:
    found = {}
    for name, parameter in inspect.signature(made).parameters.items():
        if name in ("params", "optimizer", "model_params") or parameter.kind.name.startswith("VAR_"):
            continue
        default = parameter.default
        value = list(default) if isinstance(default, tuple) else default
        found[name] = value if _is_plain(value) else None
    return found


# ---- the file


def rendered() -> str:
    """The text of the data file: sorted, one key a line."""
    found = vocabulary()
    lines = ["{", f' "deepspeed": {json.dumps(found["deepspeed"])},', ' "blocks": {']
    texts = []
    for path, block in found["blocks"].items():
        keys = ",\n".join(f"   {json.dumps(n)}: {json.dumps(e)}" for n, e in block["keys"].items())
        inside = f"{{\n{keys}\n  }}" if keys else "{}"
        texts.append(f'  {json.dumps(path)}: {{"reader": {json.dumps(block["reader"])}, "keys": {inside}}}')
    lines += [",\n".join(texts), " },"]
    sections = []
    for name in ("refused", "no_longer_read", "optimizers", "schedulers"):
        inside = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in found[name].items())
        sections.append(f" {json.dumps(name)}: {{\n{inside}\n }}")
    lines += [",\n".join(sections), "}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--print" in sys.argv[1:]:
        print(rendered(), end="")
    else:
        FILE.write_text(rendered(), encoding="utf-8")
        print(f"written: {FILE.name}", file=sys.stderr)
