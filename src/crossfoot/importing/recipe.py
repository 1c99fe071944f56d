"""What another trainer's file says: every value with its place, the trainer, and the ranks it starts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crossfoot.findings.finding import Place
from crossfoot.importing.stacks import Stack
from crossfoot.written.source import Source
from crossfoot.written.yaml_tree import BrokenYaml, in_yaml, read_tree

NOTHING = ("", "null", "none", "false", "no", "0", "0.0", "off")
"""Values that ask for nothing, in lower case."""


def origin(place: Place) -> str:
    """`run_sft.sh:12`; without a line the file, or who else says it."""
    return f"{place.file}:{place.line}" if place.line else place.file


@dataclass(frozen=True)
class Given:
    """One value. key: as its trainer calls it, in small letters with underscores. value: plain; a word of a
    command line is text, an option without a word is True. is_known: False where only the run knows it.
    """

    key: str
    value: Any
    place: Place
    is_known: bool = True

    @property
    def text(self) -> str:
        """The value as YAML has it on one line; "" for null."""
        return as_text(self.value)

    @property
    def asks_for_nothing(self) -> bool:
        """Whether its trainer does the same with it as without it."""
        return self.is_known and (self.text.lower() in NOTHING or self.value in ([], {}))

    @property
    def names(self) -> tuple[str, ...]:
        """A list of names, or names in one word: `q_proj,v_proj`."""
        if isinstance(self.value, list):
            return tuple(map(as_text, self.value))
        return tuple(filter(None, (word.strip() for word in self.text.strip("[]").split(","))))

    @property
    def number(self) -> float | None:
        """The value as a finite number; None when it is none."""
        try:
            number = float(self.text)
        except ValueError:
            return None
        return number if math.isfinite(number) and not isinstance(self.value, bool) else None

    @property
    def is_true(self) -> bool:
        """Whether its trainer takes it for a yes."""
        return self.text.lower() in ("true", "1", "yes", "on", "auto")


def as_text(value: Any) -> str:
    """A plain value in YAML, on one line; "" for None."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(in_yaml(as_text(each)) for each in value)}]"
    return json.dumps(value, ensure_ascii=False)


def as_written(value: str) -> str:
    """A value as it may stand behind a key: in quotes where YAML takes it for something else, or for less."""
    read = read_value(value)
    is_text = isinstance(read, str) and not value.startswith(("'", '"'))
    return in_yaml(value) if is_text or (isinstance(read, dict) and value[:1] != "{") else value


def read_value(text: str) -> Any:
    """What YAML takes a word for; the word itself where it is no YAML."""
    try:
        return read_tree(Source("", text)).value
    except BrokenYaml:
        return text


@dataclass(frozen=True)
class Ranks:
    """Nodes or GPUs, as a file or the command line counts them. words: what says so."""

    count: int
    words: str
    origin: str


@dataclass(frozen=True)
class World:
    """Who trains; None where the file does not say. is_one_process: several GPUs are one process's
    (torch's DataParallel).
    """

    nodes: Ranks | None = None
    gpus: Ranks | None = None
    is_one_process: bool = False

    @property
    def size(self) -> int | None:
        """All GPUs; None when it is not known how many a node has."""
        return None if self.gpus is None else self.gpus.count * (self.nodes.count if self.nodes else 1)


@dataclass(frozen=True)
class Recipe:
    """A file of another trainer, read. given: by key, in the order of the file. program: what it starts."""

    path: str
    stack: Stack
    given: Mapping[str, Given] = field(default_factory=dict)
    world: World = World()
    program: str = ""

    def get(self, *keys: str) -> Given | None:
        """The first of these that is given with a value that is known."""
        found = (self.given.get(key) for key in keys)
        return next((each for each in found if each is not None and each.is_known and each.text), None)

    @property
    def is_pretraining(self) -> bool:
        """Whether it trains on documents."""
        stage = self.get("stage", "training_stage")
        if stage is not None:
            return stage.text == "pt"
        return self.stack.name == "alpaca2" and ("_pt_" in self.program or "block_size" in self.given)
