"""The folder of a PEFT adapter that a run starts from: its adapter_config.json with places, and the names and
shapes of its tensors. No weight is read, and nothing is downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from crossfoot.digests import sha256_of_document, sha256_of_file
from crossfoot.documents import Malformed, read_object
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import reason_of
from crossfoot.written.config import ModelSection
from crossfoot.written.git_lfs import is_pointer, lfs_pointer
from crossfoot.written.json_tree import BrokenJson, JsonTree, read_json_tree
from crossfoot.written.model_facts import INPUT_TABLE_NAMES, OUTPUT_TABLE_NAMES
from crossfoot.written.source import UnreadableText, read_source
from crossfoot.written.tensor_headers import DamagedFile, Tensor, read_tensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_NAME = "adapter"
"""The folder in a run's folder that holds its adapter."""
BASE_NAME = "base.json"
"""Beside an adapter of crossfoot's that stands on a base into which another adapter was merged: which."""
SAFE, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
_MATRIX = re.compile(r"(.+)\.lora_(?:embedding_)?A(?:\.weight)?")


@dataclass(frozen=True)
class AdapterFolder:
    """path: as it is written. folder: that, or the adapter of the run whose folder it is. values: of
    adapter_config.json. tensors: of its weight file, whose path is weights; None: a kind of file that is not
    looked into. merged_first: the adapter that its base needs, "" when it stands on the base as it is.
    """

    path: str
    folder: str
    tree: JsonTree = field(repr=False)
    weights: str
    tensors: Mapping[str, Tensor] | None = field(repr=False)
    merged_first: str = ""

    @property
    def values(self) -> Mapping[str, Any]:
        """What adapter_config.json says."""
        values: Mapping[str, Any] = self.tree.value
        return values

    @property
    def is_pickled(self) -> bool:
        """Whether its weights are a file of torch.save."""
        return self.weights.endswith(PICKLED)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names, in the base, of the modules with an adapter."""
        found = (_MATRIX.fullmatch(name) for name in self.tensors or ())
        return tuple(match[1].removeprefix(PREFIX) for match in found if match)

    @property
    def rows(self) -> int:
        """Rows of the tables of tokens that it holds; 0 without one."""
        tables = (*INPUT_TABLE_NAMES, *OUTPUT_TABLE_NAMES)
        return max(
            (
                tensor.shape[0]
                for name, tensor in (self.tensors or {}).items()
                if name.removesuffix(".weight").rpartition(".")[2] in tables and len(tensor.shape) == 2
            ),
            default=0,
        )

    @property
    def needed_rows(self) -> int:
        """Rows that the base's tables need for it; 0 when it changes none of them."""
        single = self.values.get("trainable_token_indices") or ()
        lists = single.values() if isinstance(single, Mapping) else (single,)
        return max(self.rows, *(max(rows, default=-1) + 1 for rows in lists), 0)

    @cached_property
    def identity(self) -> dict[str, str]:
        """sha256 of its config, however that is laid out, and of its weights. Raises Refused."""
        try:
            weights = sha256_of_file(self.weights)
        except OSError as error:
            raise Refused(adapter_unreadable(self.path, f"{self.weights}: {reason_of(error)}")) from error
        return {"config_sha256": sha256_of_document(self.values), "weights_sha256": weights}

    def place(self, key: str) -> Place:
        """Where adapter_config.json says a value; the file where it does not."""
        return self.tree.values.get((key,), Place(os.path.join(self.folder, ADAPTER_CONFIG)))


@rule_docs("CF070", name="adapter-unreadable")
def adapter_unreadable(path: str, why: str, place: Place | None = None) -> Finding:
    """CF070: what is named as an adapter is none that can be read.

    An adapter is a folder with adapter_config.json and adapter_model.safetensors (or adapter_model.bin), as
    peft and crossfoot write it; the folder of a crossfoot run stands for the adapter that this run has saved.
    It must be on this machine: a hub id is not fetched.
    """
    return Finding(
        "CF070",
        f"the adapter cannot be read: {path}",
        place=place,
        notes=(why,),
        helps=("name the folder that holds adapter_config.json, or that of the run which made it",),
        unreadable=True,
    )


def read_adapter(model: ModelSection) -> AdapterFolder | None:
    """The adapter that a run starts from; None when it starts from the base alone. Raises Refused, without
    places.
    """
    return None if model.adapter is None else open_adapter(model.adapter)


def open_adapter(path: str) -> AdapterFolder:
    """The adapter in a folder, or of the run whose folder it is. Raises Refused, without places."""
    folder = _folder(path)
    config = os.path.join(folder, ADAPTER_CONFIG)
    if is_pointer(config):
        raise Refused(lfs_pointer(None, config))
    try:
        tree = read_json_tree(read_source(config))
    except (UnreadableText, BrokenJson) as error:
        raise Refused(adapter_unreadable(path, f"{config}: {error.title}")) from error
    if not isinstance(tree.value, dict):
        raise Refused(adapter_unreadable(path, f"{config} is not an object"))
    weights = next(
        (file for name in (SAFE, PICKLED) if os.path.isfile(file := os.path.join(folder, name))), None
    )
    if weights is None:
        raise Refused(adapter_unreadable(path, f"there is neither {SAFE} nor {PICKLED} in {folder}"))
    if is_pointer(weights):
        raise Refused(lfs_pointer(None, weights))
    try:
        tensors = read_tensors(weights)
    except DamagedFile as error:
        raise Refused(adapter_unreadable(path, f"{weights} is damaged or cut off: {error}")) from error
    except OSError as error:
        raise Refused(adapter_unreadable(path, f"{weights}: {reason_of(error)}")) from error
    return AdapterFolder(path, folder, tree, weights, tensors, merged_first(folder))


def _folder(path: str) -> str:
    """Where the adapter's files are. Raises Refused."""
    if not os.path.isdir(path):
        there = "it is a file, not a folder" if os.path.exists(path) else "there is no such folder"
        is_kind = path.lower() in ("lora", "qlora", "dora")
        raise Refused(adapter_unreadable(path, "a section lora asks for a new one" if is_kind else there))
    for folder in (path, os.path.join(path, ADAPTER_NAME)):
        if os.path.isfile(os.path.join(folder, ADAPTER_CONFIG)):
            return folder
    is_run = os.path.isfile(os.path.join(path, "plan.lock.json"))
    why = "this run has saved no adapter (yet)" if is_run else f"there is no {ADAPTER_CONFIG} in it"
    raise Refused(adapter_unreadable(path, why))


def merged_first(folder: str) -> str:
    """The adapter that is merged into the base of an adapter of crossfoot's; "" where none is."""
    try:
        return str(read_object(os.path.join(folder, BASE_NAME)).get("merged_adapter", ""))
    except (OSError, Malformed):
        return ""
