"""How many parameters a run trains, from config.json and the section `lora`; without torch.

For the families of which every tensor is known (written/model_tensors.py). A test builds them with peft and
compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from crossfoot.arithmetic.zero_stages import Parameters
from crossfoot.written.lora_section import LoraSection
from crossfoot.written.model_facts import INPUT_TABLE_NAMES, OUTPUT_TABLE_NAMES
from crossfoot.written.model_modules import adapted_modules
from crossfoot.written.model_tensors import Shape, promised_tensors
from crossfoot.written.token_rows import token_rows


def count_parameters(
    values: Mapping[str, Any], lora: LoraSection | None, rows: int, quantization: str = "none"
) -> Parameters | None:
    """values: of config.json. rows: that the tokenizer needs; the table grows to them. quantization: as in
    the config. None for a family whose tensors are not all known.
    """
    promised = promised_tensors({**values, "vocab_size": max(rows, values.get("vocab_size", 0))})
    if promised is None:
        return None
    base = sum(map(math.prod, promised.values()))
    if lora is None:
        return Parameters(trained=base, used=base, held=base)
    saved = {name for name in promised if _is_named(name, lora.modules_to_save, promised)}
    copies = sum(math.prod(promised[name]) for name in saved)
    if lora.trainable_token_indices is not None:
        tables = [shape for name, shape in promised.items() if name.split(".")[-2] in _TABLES]
        first_new = values["vocab_size"]
        named = token_rows(lora.trainable_token_indices, first_new, max(rows, first_new))
        copies += len(named) * sum(width for _, width in tables)
    adapters = sum(
        lora.r * sum(shape) + (_magnitudes(name, shape) if lora.dora else 0)
        for name, shape in adapted_weights(values, lora, promised)
    )
    packed = [] if quantization == "none" else list(_packed(promised))
    return Parameters(
        trained=adapters + copies,
        used=base + adapters,
        held=base + adapters + copies,
        packed=sum(map(math.prod, packed)),
        packed_bytes=sum(_PACKED_BYTES[quantization](*shape) for shape in packed),
    )


def adapted_weights(
    values: Mapping[str, Any], lora: LoraSection, promised: Mapping[str, Shape]
) -> Iterator[tuple[str, Shape]]:
    """The weights that get an adapter, by name. promised: every tensor of the model."""
    targets = adapted_modules(lora.target_modules, values["model_type"]) or ()
    for name, shape in promised.items():
        if name.endswith(".weight") and len(shape) == 2 and _is_named(name, targets, promised):
            yield name, shape


_TABLES = frozenset((*INPUT_TABLE_NAMES, *OUTPUT_TABLE_NAMES))
_PACKED_BYTES: Mapping[str, Callable[[int, int], int]] = {
    "nf4": lambda rows, columns: -(-rows * columns // 2) + 4 * -(-rows * columns // 64),
    "int8": lambda rows, columns: rows * columns + 4 * rows,
}
"""Of a packed weight with its scales, which are float32: one for 64 weights, or one a row."""


def _packed(promised: Mapping[str, Shape]) -> Iterator[tuple[int, int]]:
    """Shapes of the weights that a quantised base packs: of all linear layers but the head."""
    for name, shape in promised.items():
        if len(shape) == 2 and name.split(".")[-2] not in _TABLES:
            yield shape[0], shape[1]


def _magnitudes(name: str, shape: Shape) -> int:
    """DoRA's lengths: one for each output; those of a table of tokens are its columns."""
    return shape[1] if name.rpartition(".")[0].rpartition(".")[2] in INPUT_TABLE_NAMES else shape[0]


def _is_named(tensor: str, written: Sequence[str], promised: Mapping[str, Shape]) -> bool:
    """Whether one of these names is that of the tensor's module, by peft's rule: the whole name, or its end
    after a dot. A head that is not promised is tied to the table.
    """
    module = tensor.rpartition(".")[0]
    names = [module]
    if module.rpartition(".")[2] in INPUT_TABLE_NAMES:
        names += [head for head in OUTPUT_TABLE_NAMES if f"{head}.weight" not in promised]
    return any(name == one or name.endswith(f".{one}") for name in names for one in written)
