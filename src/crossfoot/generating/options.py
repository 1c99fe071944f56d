"""How is generated: what the command line says, else the model's generation_config.json, else a default; and
which of it is out of range or without effect. Torch-free.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from crossfoot.findings.finding import Finding, Place
from crossfoot.generating.findings import generation_value, generation_without_effect
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.json_tree import BrokenJson, read_json_tree
from crossfoot.written.model_ends import GENERATION
from crossfoot.written.source import UnreadableText, read_source

DEFAULTS: Mapping[str, Any] = {"max_new_tokens": 256, "do_sample": False, "num_beams": 1}
SAMPLED: Mapping[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
"""What transformers samples with where nobody says it."""
_ALSO = ("repetition_penalty", "min_p", "typical_p", "no_repeat_ngram_size", "length_penalty")
NAMES = (*DEFAULTS, *SAMPLED, *_ALSO)
"""What is taken of a generation_config.json."""
ONLY_SAMPLED = (*SAMPLED, "min_p", "typical_p", "seed")
"""What has no effect without do_sample."""
RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "max_new_tokens": (lambda value: value >= 1, "at least 1"),
    "num_beams": (lambda value: value >= 1, "at least 1"),
    "batch_size": (lambda value: value >= 1, "at least 1"),
    "seed": (lambda value: 0 <= value < 2**63, "0 or more"),
    "temperature": (lambda value: 0 <= value < math.inf, "above 0"),
    "top_k": (lambda value: value >= 0, "0 (off) or more"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "repetition_penalty": (lambda value: 0 < value < math.inf, "above 0"),
    "min_p": (lambda value: 0 <= value <= 1, "at least 0 and at most 1"),
    "typical_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "no_repeat_ngram_size": (lambda value: value >= 0, "0 (off) or more"),
    "length_penalty": (math.isfinite, "a finite number"),
}


@dataclass(frozen=True)
class FolderValues:
    """What a generation_config.json says of NAMES, and where each stands."""

    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """values: as transformers takes them, by NAMES. origins: who says each. seed: of the first batch."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    seed: int = 0

    @property
    def max_new_tokens(self) -> int:
        """The longest answer, in tokens."""
        return int(self.values["max_new_tokens"])

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return bool(self.values["do_sample"])

    def __str__(self) -> str:
        said = [f"{name} {_shown(value)} ({self.origins[name]})" for name, value in self.values.items()]
        return ", ".join(said + ([f"seed {self.seed} ({self.origins['seed']})"] if self.samples else []))


def read_folder_values(folder: str) -> FolderValues:
    """Nothing where there is no such file, or none that can be read: transformers then has defaults too."""
    file = os.path.join(folder, GENERATION)
    try:
        tree = read_json_tree(read_source(file))
    except (UnreadableText, BrokenJson):
        return FolderValues()
    if not isinstance(tree.value, dict):
        return FolderValues()
    values = {name: tree.value[name] for name in NAMES if tree.value.get(name) is not None}
    return FolderValues(values, {name: tree.values[(name,)] for name in values})


def settle(given: Mapping[str, Any], folder: FolderValues) -> tuple[Settings, tuple[Finding, ...]]:
    """given: options of the command line by the names of transformers, those that were given."""
    chosen = {name: given[name] for name in NAMES if name in given}
    do_sample = bool(given.get("do_sample", folder.values.get("do_sample", False)))
    said = {**folder.values, **chosen, "do_sample": do_sample}
    defaults = {**DEFAULTS, **(SAMPLED if do_sample else {})}
    values = {**defaults, **said}
    if not do_sample:
        values = {name: value for name, value in values.items() if name not in ONLY_SAMPLED}
    if values["num_beams"] == 1:
        values = {
            name: value for name, value in values.items() if name not in ("num_beams", "length_penalty")
        }
    origins = {
        name: option(name) if name in given else GENERATION if name in folder.values else "default"
        for name in (*values, "seed")
    }
    settings = Settings(values, origins, given.get("seed", 0))
    return settings, tuple(_findings(given, folder, do_sample))


def option(name: str) -> str:
    """`--top-p`."""
    return f"--{name.replace('_', '-')}"


def _findings(given: Mapping[str, Any], folder: FolderValues, samples: bool) -> Iterator[Finding]:
    command = Place(COMMAND_LINE)
    for source, places, spelt in ((given, {}, option), (folder.values, folder.places, str)):
        for name, value in source.items():
            if source is folder.values and name in given:
                continue
            place = places.get(name, command)
            if not is_within(name, value):
                yield generation_value(spelt(name), value, RANGES[name][1], place)
            elif name == "temperature" and value == 0 and samples:
                likeliest = "leave sampling off (--no-do-sample): the likeliest token is then taken each time"
                yield generation_value(spelt(name), value, "above 0 to sample with", place, likeliest)
    if samples:
        return
    if idle := [option(name) for name in ONLY_SAMPLED if name in given]:
        help_ = f"leave {'it' if len(idle) == 1 else 'them'} out, or write --do-sample"
        yield generation_without_effect(idle, "do_sample is false", command, help_)
    idle = [name for name in ONLY_SAMPLED if name in folder.values and name not in given]
    if idle and "do_sample" not in given:
        help_ = "write --do-sample if they are meant, or take them out of that file"
        yield generation_without_effect(idle, "do_sample is false", folder.places[idle[0]], help_)


def is_within(name: str, value: Any) -> bool:
    """Whether transformers takes this value of a parameter."""
    if name not in RANGES:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and RANGES[name][0](value)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
