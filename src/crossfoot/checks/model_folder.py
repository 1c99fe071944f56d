"""Whether the folder of `model.path` holds a model that train can load, from config.json and the headers of
the weight files: no weight is read, nothing is downloaded, no code of the folder is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted, listed, reason_of
from crossfoot.written.adapter_folder import ADAPTER_CONFIG
from crossfoot.written.git_lfs import is_pointer, lfs_pointer
from crossfoot.written.model_facts import CONFIG_JSON, model_folder, read_config_json
from crossfoot.written.model_findings import model_not_causal
from crossfoot.written.model_kinds import Kind, kind_of
from crossfoot.written.model_tensors import Mismatch, mismatch, unfit_sizes
from crossfoot.written.tensor_headers import DamagedFile, NotTensors, Tensor, read_tensors
from crossfoot.written.weight_findings import (
    code_not_run,
    empty_tensors,
    fetch_again,
    is_adapter,
    model_unreadable,
    not_only_tensors,
    pickled,
    quantised,
    reshaped,
    unused,
    weights_missing,
)

SAFE, TORCH = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
_OTHER_MAKES = (
    (".gguf", "a GGUF file, for llama.cpp"),
    (".pth", "a .pth file, in the format of the model's makers"),
    (".h5", "weights for TensorFlow"),
    (".msgpack", "weights for Flax"),
    (".safetensors", "safetensors files of other names"),
    (".bin", ".bin files of other names"),
)
_PACKED_NAMES = (
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".absmax",
    ".SCB",
    ".weight_scale",
    ".weight_scale_inv",
)
_PACKED_TYPES = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "U8", "I8", "F4")


def model_folder_findings(path: str) -> tuple[Finding, ...]:
    """What is wrong with the model at `path`, without places: a folder, or a hub's id whose files are in the
    local cache. Of one that is not here nothing is said: see written/hub.py.
    """
    folder = model_folder(path)
    return () if folder is None else tuple(_of_folder(path, folder))


def has_weights_here(path: str) -> bool:
    """Whether there are files of the model to look into."""
    return model_folder(path) is not None


def config_findings(path: str, values: Mapping[str, Any]) -> Iterator[Finding]:
    """What the values of a config.json say against training that model, without places."""
    kind = kind_of(values)
    family = values.get("model_type")
    if kind is Kind.NAMELESS:
        yield model_unreadable(path, f"{CONFIG_JSON} has no model_type")
    elif kind is Kind.OWN_CODE:
        why = f"its model_type {family} needs code of its own, which lies in the folder and is not run"
        yield model_unreadable(path, why, "choose a model that transformers itself has")
    elif kind is Kind.UNKNOWN:
        why = f"transformers {_transformers()} has no model_type {family}"
        yield model_unreadable(
            path, why, "correct model_type in config.json, or install a newer transformers"
        )
    elif kind is Kind.NOT_CAUSAL:
        yield model_not_causal(path, str(family))
    if unfit := ", ".join(unfit_sizes(values)):
        yield model_unreadable(path, f"{unfit} in its {CONFIG_JSON} is no whole number above 0")
    packed = values.get("quantization_config") or values.get("compression_config")
    if packed:
        method = packed.get("quant_method") if isinstance(packed, dict) else None
        yield quantised(path, f"quantization_config in its config.json{f' says {method}' if method else ''}")


def _of_folder(path: str, folder: Path) -> Iterator[Finding]:
    if (folder / ADAPTER_CONFIG).is_file():
        yield is_adapter(path, _base_of(folder / ADAPTER_CONFIG))
        return
    if is_pointer(folder / CONFIG_JSON):
        yield lfs_pointer(None, str(folder / CONFIG_JSON))
        return
    try:
        values = read_config_json(folder)
    except ValueError as error:
        yield model_unreadable(path, str(error), *_where_else(folder))
        return
    found = list(config_findings(path, values))
    yield from found
    is_model = not any(finding.code in ("CF542", "CF543", "CF566") for finding in found)
    named = values.get("auto_map")
    if is_model and isinstance(named, dict) and (own := named.get("AutoModelForCausalLM")):
        yield code_not_run(path, str(own), str(values["model_type"]))
    if is_model:
        yield from _weights(path, folder, values)


def _weights(path: str, folder: Path, values: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the weight files of a model whose config.json is right."""
    tensors, bad = tensors_in(path, folder)
    yield from bad
    if not bad and (pickles := [file for file in weight_files(folder) if file.suffix == ".bin"]):
        yield pickled(path, [file.name for file in pickles])
    if tensors is not None and not bad:
        yield from _judged(path, tensors, mismatch(values, tensors))


def tensors_in(path: str, folder: Path) -> tuple[dict[str, Tensor] | None, list[Finding]]:
    """The tensors of all weight files in the folder of the model at `path`, and which files are damaged or
    absent. None: one is of a kind that is not looked into.
    """
    try:
        files = weight_files(folder)
    except DamagedFile as error:
        return None, [model_unreadable(path, str(error), fetch_again(path))]
    tensors: dict[str, Tensor] = {}
    bad: list[Finding] = []
    is_known = True
    for file in files:
        try:
            there = read_tensors(str(file))
        except NotTensors as error:
            bad.append(not_only_tensors(path, file.name, error.named))
        except DamagedFile as error:
            is_text = is_pointer(file)
            why = f"{file.name} is damaged or cut off: {error}"
            bad.append(
                lfs_pointer(None, str(file)) if is_text else model_unreadable(path, why, fetch_again(path))
            )
        except OSError as error:
            bad.append(
                model_unreadable(path, f"{file.name} cannot be read: {reason_of(error)}", fetch_again(path))
            )
        else:
            is_known &= there is not None
            tensors |= there or {}
    return tensors if is_known else None, bad


def _judged(path: str, tensors: Mapping[str, Tensor], differs: Mismatch) -> Iterator[Finding]:
    empty = [name for name, tensor in tensors.items() if 0 in tensor.shape]
    if empty:
        yield empty_tensors(path, empty)
        return
    packed = [name for name, tensor in tensors.items() if _is_packed(name, tensor)]
    if packed:
        yield quantised(path, f"its files hold packed weights, for example {packed[0]}")
        return
    if differs.layers is not None:
        there, promised = differs.layers
        is_less = there < promised
        yield (weights_missing if is_less else unused)(path, (), layers=differs.layers)
        return
    if differs.missing:
        yield weights_missing(path, differs.missing)
    if differs.reshaped:
        yield reshaped(path, differs.reshaped)
    if differs.unused:
        yield unused(path, differs.unused)
    if differs.foreign:
        yield unused(path, differs.foreign, "warning")


def _is_packed(name: str, tensor: Tensor) -> bool:
    is_weight = name.endswith(".weight") and len(tensor.shape) > 1
    return name.endswith(_PACKED_NAMES) or (is_weight and tensor.dtype in _PACKED_TYPES)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load. DamagedFile: there are none, or some of them are not there."""
    for name in (SAFE, SAFE + _INDEX, TORCH, TORCH + _INDEX):
        file = folder / name
        if file.is_file():
            return _shards(file) if name.endswith(_INDEX) else [file]
    raise DamagedFile(_instead(folder))


def _shards(index: Path) -> list[Path]:
    if is_pointer(index):
        return [index]  # read as a weight file, it is found to be a pointer
    try:
        names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile(f"{index.name} is not the index of weight files") from error
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent or not names:
        more = f" and {counted(len(absent) - 3, 'more file')}" if len(absent) > 3 else ""
        raise DamagedFile(
            f"{index.name} names {counted(len(names), 'file')}, and {len(absent):,} of them are not there: "
            f"{', '.join(absent[:3])}{more}"
        )
    return [index.parent / name for name in names]


def _instead(folder: Path) -> str:
    """That there are no weights, and what lies there in their place."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    said = next((said for ending, said in _OTHER_MAKES if any(name.endswith(ending) for name in names)), None)
    wanted = f"there is no {listed([SAFE, SAFE + _INDEX, TORCH, TORCH + _INDEX], 'or')} in it"
    return wanted if said is None else f"{wanted}, but {said}"


def _where_else(folder: Path) -> tuple[str, ...]:
    """A folder inside this one that has a config.json: snapshots of the hub, a run's model."""
    try:
        inside = [child for pattern in ("*", "snapshots/*") for child in sorted(folder.glob(pattern))]
    except OSError:
        return ()
    return tuple(f"set model.path to {child}" for child in inside if (child / CONFIG_JSON).is_file())[:1]


def _base_of(file: Path) -> str:
    try:
        return str(json.loads(file.read_bytes())["base_model_name_or_path"] or "")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _transformers() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""
