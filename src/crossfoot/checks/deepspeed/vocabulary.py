"""What DeepSpeed 0.19 reads from its JSON file: the generated data file beside this module, as objects.

tools/deepspeed_vocabulary.py writes the data file out of the installed DeepSpeed; a test holds it to be
current. Reading it costs a millisecond.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

DATA_FILE = Path(__file__).with_name("vocabulary.json")

Kind = Literal["int", "float", "bool", "string", "list", "object", "any"]
KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """One key of a block.

    has_default, default: what holds without it. choices: the words or numbers it may be. nullable: null is
    allowed. block: the block inside an object, None when its keys are unknown. same_as: the other name of the
    same setting. deprecated: None, or what is written today; moves: whether DeepSpeed still obeys the old
    name. Bounds are None where there is none.
    """

    kind: Kind
    has_default: bool = False
    default: Any = None
    choices: tuple[Any, ...] = ()
    any_case: bool = False
    nullable: bool = False
    block: str | None = None
    same_as: str | None = None
    deprecated: str | None = None
    moves: bool = True
    at_least: float | None = None
    more_than: float | None = None
    at_most: float | None = None
    less_than: float | None = None


@dataclass(frozen=True)
class Block:
    """The keys of one object of the file.

    reader: how DeepSpeed reads it. model: by a pydantic model, which refuses unknown keys, reads numbers in
    quotes, and drops "auto". plain: key by key, so that unknown keys and wrong types pass without a word.
    open: handed on to somebody else.
    """

    path: str
    reader: Literal["model", "plain", "open"]
    keys: Mapping[str, Key]


@dataclass(frozen=True)
class Vocabulary:
    """Everything DeepSpeed reads.

    version: of that DeepSpeed. blocks: by dotted path, "" the file itself. refused: by dotted path, former
    keys at which DeepSpeed stops. no_longer_read: former keys it passes over, with what is written today.
    """

    version: str
    blocks: Mapping[str, Block]
    refused: Mapping[str, tuple[str, ...]]
    no_longer_read: Mapping[str, str]

    def homes(self, name: str) -> list[KeyPath]:
        """Paths of the keys called `name`, in every block, the shallowest first."""
        found = {
            (*filter(None, block.path.split(".")), name)
            for block in self.blocks.values()
            if name in block.keys
        }
        return sorted(found, key=lambda path: (len(path), path))


@dataclass(frozen=True)
class Entry:
    """One entry of a file. path: of keys; block: the block it stands in; key: None when DeepSpeed has no such
    key there.
    """

    path: KeyPath
    value: Any
    block: Block
    key: Key | None

    @property
    def dotted(self) -> str:
        """`zero_optimization.stage`."""
        return ".".join(self.path)


@cache
def vocabulary() -> Vocabulary:
    """The data file."""
    written = json.loads(DATA_FILE.read_text(encoding="utf-8"))
    blocks = {
        path: Block(path, block["reader"], {name: _key(entry) for name, entry in block["keys"].items()})
        for path, block in written["blocks"].items()
    }
    return Vocabulary(
        written["deepspeed"],
        MappingProxyType(blocks),
        MappingProxyType({path: tuple(names) for path, names in written["refused"].items()}),
        MappingProxyType(written["no_longer_read"]),
    )


def _key(entry: dict[str, Any]) -> Key:
    choices = tuple(entry.pop("choices", ()))
    return Key(has_default="default" in entry, choices=choices, **entry)


def entries(values: Mapping[str, Any]) -> Iterator[Entry]:
    """Every entry of a DeepSpeed file whose block is known, parents before children."""
    yield from _inside((), values, vocabulary().blocks[""])


def _inside(path: KeyPath, values: Mapping[str, Any], block: Block) -> Iterator[Entry]:
    for name, value in values.items():
        key = block.keys.get(name)
        entry = Entry((*path, name), value, block, key)
        yield entry
        inside = vocabulary().blocks.get(key.block) if key and key.block else None
        if inside is not None and isinstance(value, Mapping) and inside.reader != "open":
            yield from _inside(entry.path, value, inside)


def zero_stage(values: Mapping[str, Any]) -> int | None:
    """The ZeRO stage a file asks for, 0 when it says nothing; None when what it says is no stage (CF308)."""
    block = values.get("zero_optimization", {})
    stage = block.get("stage", 0) if isinstance(block, Mapping) else None
    return stage if isinstance(stage, int) and not isinstance(stage, bool) and 0 <= stage <= 3 else None
