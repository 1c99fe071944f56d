"""The DeepSpeed JSON file that a person wrote: its values, and the place of every key and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crossfoot.finding import Finding, Place, Refused
from crossfoot.manual import page
from crossfoot.written.json_tree import BrokenJson, Keys, read_json_tree
from crossfoot.written.source import UnreadableText, read_source


@dataclass(frozen=True)
class DeepSpeedFile:
    """A DeepSpeed file: strict JSON, an object. What its values mean is for the checks.

    path: as given. duplicates: (path of keys, place of the first, place of the second); `values` has the last
    one.
    """

    path: str
    values: dict[str, Any]
    keys: Mapping[Keys, Place] = field(default_factory=dict, repr=False)
    spots: Mapping[Keys, Place] = field(default_factory=dict, repr=False)
    duplicates: tuple[tuple[Keys, Place, Place], ...] = ()

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
        places = self.keys if part == "key" else self.spots
        while keys and keys not in places:
            keys, places = keys[:-1], self.keys
        return places[keys] if keys else Place(self.path)


@page("CF301")
def unreadable_deepspeed_file(error: UnreadableText, named_at: Place | None) -> Finding:
    """CF301: the DeepSpeed file cannot be read as text.

    The file is absent, a folder, not an ordinary file, larger than 1 MiB, not UTF-8, or begins with a byte
    order mark (with which Python's json refuses it too). Paths in a config are relative to the folder in
    which crossfoot runs.
    """
    others = ((named_at, "named here"),) if named_at else ()
    return Finding("CF301", error.title, place=error.place, others=others, helps=error.helps, unreadable=True)


@page("CF302")
def broken_json(error: BrokenJson) -> Finding:
    """CF302: the DeepSpeed file is not strict JSON.

    DeepSpeed's own reader (hjson) accepts comments, trailing commas and missing quotes; transformers,
    accelerate and every other tool refuse the same file, so crossfoot does too. NaN and Infinity are no JSON
    either. (lie J5)
    """
    return Finding(
        "CF302", error.title, place=error.place, notes=error.notes, helps=error.helps, unreadable=True
    )


@page("CF310")
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
        raise Refused(broken_json(error)) from error
    if not isinstance(tree.value, dict):
        raise Refused(not_an_object(path, tree.values[()]))
    return DeepSpeedFile(path, tree.value, tree.keys, tree.values, tuple(tree.duplicates))
