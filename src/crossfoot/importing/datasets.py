"""The files that a recipe trains on: each trainer has its own way to name them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from crossfoot.importing.recipe import Given, Recipe, as_text
from crossfoot.written.yaml_tree import in_yaml

_TRAIN = (
    *("datasets", "dataset", "train_file", "train_files", "train_data_file", "data_path", "train_data"),
    *("dataset_name", "data_files", "dataset_dir"),
)
"""The first of these that is given counts."""
VALIDATION_KEYS = ("test_datasets", "validation_file", "eval_dataset", "val_dataset", "eval_file")
_MIXING = ("max_samples", "mix_strategy", "interleave_probs")
DATA_KEYS = frozenset((*_TRAIN, *VALIDATION_KEYS, *_MIXING, "dataset_config_name"))
"""Keys that are read here."""
SPLIT_KEYS = ("val_size", "val_set_size", "validation_split_percentage")
"""Keys that split a part of the training data off for validation."""
_INFO = "dataset_info.json"
LARGEST_BYTES = 1 << 20

LeftOut = tuple[Given, str, str, bool]
"""What is not carried over, why, what to do, and whether something else is trained without it."""


@dataclass(frozen=True)
class DataFiles:
    """Files to train and to validate on, as a run config names them, and the keys that say so. limit: samples
    that are taken of each file that is trained on.
    """

    train: tuple[str, ...] = ()
    train_given: Given | None = None
    validation: tuple[str, ...] = ()
    validation_given: Given | None = None
    left: tuple[LeftOut, ...] = ()
    limit: int | None = None

    @property
    def train_text(self) -> str:
        """data.train, in YAML."""
        if self.limit is None:
            return as_text(list(self.train))
        entries = (f"{{path: {in_yaml(file)}, max_samples: {self.limit}}}" for file in self.train)
        return f"[{', '.join(entries)}]"


def data_files(recipe: Recipe) -> DataFiles:
    """The files of a recipe, and what of them is not carried over."""
    train, validation = recipe.get(*_TRAIN), recipe.get(*VALIDATION_KEYS)
    if validation is not None and validation.asks_for_nothing:
        validation = None
    left: list[LeftOut] = [
        (given, f"{train.key} says the files", "", False)
        for given in recipe.given.values()
        if given.key in _TRAIN and given is not train and train is not None and given.is_known
    ]
    limit = recipe.get("max_samples")
    taken = _limit(recipe, limit, validation, left)
    left += _mixing(recipe)
    return DataFiles(
        tuple(_files(recipe, train, left)),
        train if train is None or taken is None else replace(train, key=f"{train.key}, max_samples"),
        tuple(_files(recipe, validation, left)),
        validation,
        tuple(left),
        taken,
    )


def _limit(recipe: Recipe, limit: Given | None, validation: Given | None, left: list[LeftOut]) -> int | None:
    """Samples that are taken of each file, the first ones: LLaMA-Factory counts as data.train does."""
    if limit is None or limit.asks_for_nothing:
        return None
    number = limit.number
    if recipe.stack.name != "llamafactory" or number is None or number < 1:
        help_ = "limit entries of data.train: [{path: FILE, max_samples: 1000}]"
        left.append((limit, "its samples are counted otherwise there", help_, True))
        return None
    if validation is not None:
        left.append((limit, "it limits validation files too, which are used whole here", "", False))
    return int(number)


def _mixing(recipe: Recipe) -> Iterator[LeftOut]:
    """How the data sets are drawn there, where that is not one behind the other and shuffled."""
    strategy, shares = recipe.get("mix_strategy"), recipe.get("interleave_probs")
    if strategy is None or strategy.asks_for_nothing or strategy.text == "concat":
        if shares is not None and not shares.asks_for_nothing:
            yield shares, "it says nothing without mix_strategy", "", False
        return
    why = "data sets are drawn in turns there, by chance, until the "
    why += "first is" if strategy.text.startswith("interleave_under") else "last is"
    help_ = "say how often each is trained: data.train: [{path: FILE, weight: 2}, ...]"
    yield strategy, f"{why} used up", help_, True
    if shares is not None and not shares.asks_for_nothing:
        yield shares, "a share of draws is no count of samples; a weight is", help_, True


def part_split_off(recipe: Recipe) -> int | float | None:
    """The number or the share of the samples that is split off for validation there; None where none is.
    run_clm.py of transformers means a percentage, run_clm_pt_with_peft.py by the same name a share, and
    run_clm_sft_with_peft.py never reads it.
    """
    split = recipe.get(*SPLIT_KEYS)
    number = split.number if split is not None else None
    if split is None or not number or (recipe.stack.name == "alpaca2" and not recipe.is_pretraining):
        return None
    if recipe.stack.name == "hf" and "percentage" in split.key:
        return number / 100
    return number if number < 1 else int(number)


def _files(recipe: Recipe, given: Given | None, left: list[LeftOut]) -> Iterator[str]:
    if given is None:
        return
    if recipe.stack.name == "axolotl":
        yield from _of_axolotl(given, left)
    elif recipe.stack.name == "llamafactory" and given.key != "dataset_dir":
        yield from _of_llama_factory(recipe, given, left)
    elif given.key == "dataset_dir":
        yield from _inside(given.text, ".txt" if recipe.is_pretraining else ".json")
    else:
        yield from given.names


def _inside(folder: str, ending: str) -> list[str]:
    """The files of a folder; the folder where it is not here."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(ending))
    except OSError:
        names = []
    return [os.path.join(folder, name) for name in names] or [folder]


def _of_axolotl(given: Given, left: list[LeftOut]) -> Iterator[str]:
    entries = given.value if isinstance(given.value, list) else [given.value]
    for entry in entries:
        if not isinstance(entry, dict):
            yield as_text(entry)
            continue
        files = entry.get("data_files")
        yield from map(as_text, files if isinstance(files, list) else [files or entry.get("path", "")])
        for key, value in entry.items():
            if key in ("path", "data_files", "ds_type", "split") or value is None:
                continue
            why = "records are read by their fields, and written with data.template"
            help_ = "hold the fields of your records against data.template"
            left.append((Given(f"{given.key}.{key}", value, given.place), why, help_, True))


def _of_llama_factory(recipe: Recipe, given: Given, left: list[LeftOut]) -> Iterator[str]:
    folder = recipe.get("dataset_dir")
    where = folder.text if folder else "data"
    info = _info(os.path.join(where, _INFO))
    for name in given.names:
        entry = info.get(name)
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            yield os.path.join(where, entry["file_name"])
            continue
        remote = next((entry[key] for key in ("hf_hub_url", "ms_hub_url") if entry and key in entry), None)
        path = os.path.join(where, f"{name}.json")
        why = f"{os.path.join(where, _INFO)} is not here, which says its file: {path} is a guess"
        if info:
            why = f"{_INFO} says {f'a data set of a hub, {remote}' if remote else 'nothing of it'}"
        left.append((Given(given.key, name, given.place), why, f"fetch it, and name its file: {path}", True))
        yield path


def _info(path: str) -> dict[str, Any]:
    try:
        if os.path.getsize(path) > LARGEST_BYTES:
            return {}
        with open(path, encoding="utf-8") as file:
            read = json.load(file)
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
