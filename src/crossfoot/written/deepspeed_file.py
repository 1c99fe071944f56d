"""The DeepSpeed JSON file that a person wrote: its values, and the place of every key and value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from crossfoot.arithmetic.batch import ACCUM, CAPACITY, MICRO
from crossfoot.findings.finding import Edit, Finding, Place, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.written import edits
from crossfoot.written.json_tree import BrokenJson, JsonTree, Keys, read_json_tree
from crossfoot.written.slip_findings import look_alikes
from crossfoot.written.slips import json_slips
from crossfoot.written.source import Source, UnreadableText, read_source

_BATCH_KEYS = {
    "train_batch_size": CAPACITY,
    "train_micro_batch_size_per_gpu": MICRO,
    "gradient_accumulation_steps": ACCUM,
}
"""The keys of the batch -> what the arithmetic calls them."""


@dataclass(frozen=True)
class DeepSpeedFile:
    """A DeepSpeed file: JSON, an object. What its values mean is for the checks.

    path: as given. tree: its places, and what is odd in it.
    """

    path: str
    values: dict[str, Any]
    source: Source = field(default=Source("", ""), repr=False)
    tree: JsonTree = field(default_factory=JsonTree, repr=False)

    @property
    def duplicates(self) -> tuple[tuple[Keys, Place, Place], ...]:
        """(path of keys, place of the first, place of the second); `values` has the last one."""
        return tuple(self.tree.duplicates)

    @property
    def batch_numbers(self) -> dict[str, int]:
        """The numbers of the batch that are written out, by what the arithmetic calls them."""
        said = {name: self.values.get(key) for key, name in _BATCH_KEYS.items()}
        return {name: number for name, number in said.items() if type(number) is int}

    def get(self, *keys: str) -> Any:
        """The value at a path of keys; None when it is absent, or something on the way is no object."""
        value: Any = self.values
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        return value

    def place(self, *keys: str | int, part: Literal["value", "key"] = "value") -> Place:
        """The place of a value, or of its key. An absent entry has the place of the object that would hold
        it.
        """
        places = self.tree.keys if part == "key" else self.tree.values
        while keys and keys not in places:
            keys, places = keys[:-1], self.tree.keys
        return places[keys] if keys else Place(self.path)

    def replacing(self, *keys: str | int, text: str) -> tuple[Edit, ...]:
        """The edit that makes a value `text` (JSON); none for an entry that stands under another name."""
        return (
            () if keys not in self.tree.keys else (edits.replacing_value(self.source, self.tree, keys, text),)
        )

    def removing(self, *keys: str | int) -> tuple[Edit, ...]:
        """The edit that removes an entry of an object; none for one that stands under another name."""
        return () if keys not in self.tree.keys else (edits.removing_entry(self.source, self.tree, keys),)

    def renaming(self, *keys: str | int, name: str) -> tuple[Edit, ...]:
        """The edit that gives an entry the key `name`. It must be there."""
        return (edits.replacing(self.source, self.tree.keys[keys], json.dumps(name)),)


@rule_docs("CF301")
def unreadable_deepspeed_file(error: UnreadableText, named_at: Place | None) -> Finding:
    """CF301: the DeepSpeed file cannot be read as text.

    The file is absent, a folder, not an ordinary file, larger than 1 MiB, not UTF-8, or begins with a byte
    order mark (with which Python's json refuses it too). Paths in a config are relative to the folder in
    which crossfoot runs.
    """
    others = ((named_at, "named here"),) if named_at else ()
    return Finding("CF301", error.title, place=error.place, others=others, helps=error.helps, unreadable=True)


@rule_docs("CF302", name="broken-deepspeed-file")
def broken_json(error: BrokenJson) -> Finding:
    """CF302: the DeepSpeed file is not JSON.

    DeepSpeed's own reader (hjson) accepts missing quotes and commas too; transformers, accelerate and every
    other tool refuse the same file, so crossfoot does too. NaN and Infinity are no JSON either. Comments and
    commas before a closing bracket are read over (CF313). (lie J5)
    """
    return Finding(
        "CF302",
        error.title,
        place=error.place,
        notes=error.notes,
        helps=error.helps or ("repair the JSON where it is marked",),
        unreadable=True,
    )


@rule_docs("CF310", name="deepspeed-file-not-an-object")
def not_an_object(path: str, place: Place) -> Finding:
    """CF310: the DeepSpeed file is JSON, but not an object of settings.

    A small one that works is `{"zero_optimization": {"stage": 1}}`; everything that crossfoot owns is written
    into it at start-up.
    """
    return Finding(
        "CF310",
        f"{path} is no object of settings",
        place=place,
        helps=('write settings between braces: {"zero_optimization": {"stage": 2}}',),
        unreadable=True,
    )


def load_deepspeed_file(path: str, named_at: Place | None = None) -> DeepSpeedFile:
    """Read a DeepSpeed file. Raises Refused when it is no strict JSON object; `named_at`: who names it, if
    anyone.
    """
    try:
        source = read_source(path)
        tree = read_json_tree(source)
    except UnreadableText as error:
        raise Refused(unreadable_deepspeed_file(error, named_at)) from error
    except BrokenJson as error:
        slips = json_slips(source.text)
        raise Refused(look_alikes(source, slips, "JSON") if slips else broken_json(error)) from error
    if not isinstance(tree.value, dict):
        raise Refused(not_an_object(path, tree.values[()]))
    return DeepSpeedFile(path, tree.value, source, tree)
