"""Model folders for whoever looks at headers: weight files of the right size whose values are holes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from crossfoot.written.model_facts import TINY_SIZES
from crossfoot.written.model_tensors import promised_tensors

Shapes = Mapping[str, tuple[int, ...]]
SMALL_LLAMA: dict[str, object] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}


def write_model(folder: Path, **changes: object) -> Path:
    """A whole model folder without a tokenizer: config.json, and weights that belong to it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SMALL_LLAMA, **changes}))
    write_weights(folder)
    return folder


def write_weights(folder: Path) -> None:
    """model.safetensors for the config.json in `folder`: what it promises, or a table if that is unknown."""
    values = json.loads((folder / "config.json").read_text())
    shapes: dict[str, tuple[int, ...]] = promised_tensors(values) or {
        "model.embed_tokens.weight": (values.get("vocab_size", 1), 1),
        **{f"model.layers.{number}.x": (1,) for number in range(values.get("num_hidden_layers", 1))},
    }
    write_safetensors(folder / "model.safetensors", shapes)


def write_adapter_weights(folder: Path) -> None:
    """adapter_model.safetensors for the adapter_config.json in `folder`: an adapter of builtin:tiny."""
    values = json.loads((folder / "adapter_config.json").read_text())
    base = promised_tensors(TINY_SIZES) or {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in base.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in values.get("target_modules", ()):
            shapes[f"base_model.model.{module}.lora_A.weight"] = (values["r"], shape[1])
            shapes[f"base_model.model.{module}.lora_B.weight"] = (shape[0], values["r"])
        if module.rpartition(".")[2] in (values.get("modules_to_save") or ()):
            shapes[f"base_model.model.{name}"] = shape
    write_safetensors(folder / "adapter_model.safetensors", shapes)


def write_safetensors(file: Path, shapes: Shapes, dtype: str = "F16", each_bytes: int = 2) -> None:
    """A file with these tensors, whose values are zero and take no space."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + each_bytes * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with open(file, "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + end)
