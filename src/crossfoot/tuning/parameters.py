"""`parameters` and `start` of a tuning file: read, and held against what transformers takes. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crossfoot.findings.finding import Finding, Place
from crossfoot.generating.findings import generation_value, generation_without_effect
from crossfoot.generating.options import ONLY_SAMPLED, RANGES, is_within
from crossfoot.tuning.findings import (
    nothing_to_choose,
    senseless_range,
    start_out_of_place,
    tuning_key_missing,
    unknown_tuning_key,
)
from crossfoot.tuning.space import KINDS, Choice, Range, Space, combinations, has_effect, shown
from crossfoot.written.dtypes import DTYPES
from crossfoot.written.findings import wrong_value
from crossfoot.written.meant_value import nearest_word
from crossfoot.written.yaml_tree import Keys, Tree

RANGE_KEYS = ("low", "high", "step", "log")
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "float32, bfloat16 or float16",
}


class _Reader:
    """One pass over both sections; `findings` gets what is wrong."""

    def __init__(self, tree: Tree, path: str) -> None:
        self.tree, self.path = tree, path
        self.findings: list[Finding] = []

    def place(self, *keys: str | int) -> Place:
        spot = self.tree.spots.get(keys)
        return spot.value if spot else Place(self.path)

    def key(self, *keys: str | int) -> Place:
        """Where the word before the colon is written."""
        spot = self.tree.spots.get(keys)
        return (spot.key or spot.value) if spot else Place(self.path)

    def value(self, name: str, value: Any, keys: Keys) -> Any:
        """One value of a parameter; None for one that it cannot have."""
        kind, called = KINDS[name], ".".join(map(str, keys))
        is_kind = isinstance(value, int | float if kind is float else kind)
        if (
            not is_kind
            or (isinstance(value, bool) and kind is not bool)
            or (kind is str and value not in DTYPES)
        ):
            self.findings.append(wrong_value(called, value, _WORDS[kind], self.place(*keys)))
            return None
        is_zero = name == "temperature" and value == 0
        if is_zero or not is_within(name, value):
            help_ = "leave it out: do_sample: false takes the likeliest token each time" if is_zero else ""
            words = "above 0 to sample with" if is_zero else RANGES[name][1]
            self.findings.append(generation_value(called, value, words, self.place(*keys), help_))
            return None
        return float(value) if kind is float else value

    def parameter(self, name: str, value: Any) -> Choice | Range | None:
        keys: Keys = ("parameters", name)
        if isinstance(value, dict):
            return self.range(name, value)
        if not isinstance(value, list):
            one = self.value(name, value, keys)
            return None if one is None else Choice((one,))
        if not value:
            example = f"write the values to choose from: {name}: [A, B]"
            self.findings.append(
                senseless_range(name, "has no values to choose from", self.key(*keys), example)
            )
            return None
        options = [self.value(name, one, (*keys, index)) for index, one in enumerate(value)]
        for index, one in enumerate(options):
            if one is not None and one in options[:index]:
                place = self.place(*keys, index)
                self.findings.append(
                    senseless_range(name, f"has {shown(one)} twice", place, "remove one of them")
                )
                return None
        return None if None in options else Choice(tuple(options))

    def range(self, name: str, value: Mapping[str, Any]) -> Range | None:
        keys, before = ("parameters", name), len(self.findings)
        if KINDS[name] in (bool, str):
            example = "[false, true]" if KINDS[name] is bool else f"[{', '.join(DTYPES[:2])}]"
            help_ = f"write a list: {name}: {example}"
            self.findings.append(
                senseless_range(name, "has no range: it is no number", self.key(*keys), help_)
            )
            return None
        for key in value:
            if key not in RANGE_KEYS:
                near, where = nearest_word(key, RANGE_KEYS), self.key(*keys, key)
                self.findings.append(unknown_tuning_key(f"parameters.{name}.{key}", where, near, RANGE_KEYS))
        meant = [nearest_word(key, RANGE_KEYS) for key in value]
        for key in ("low", "high"):
            if key not in value and key not in meant:
                self.findings.append(tuning_key_missing(f"parameters.{name}.{key}", self.key(*keys)))
        low, high = (
            self.value(name, value[key], (*keys, key)) if key in value else None for key in ("low", "high")
        )
        step, is_log = value.get("step"), value.get("log", False)
        if not isinstance(is_log, bool):
            where = self.place(*keys, "log")
            self.findings.append(wrong_value(f"parameters.{name}.log", is_log, "true or false", where))
        if low is None or high is None or len(self.findings) > before:
            return None
        is_whole = KINDS[name] is int
        for why, key, help_ in _range_faults(low, high, step, is_log, is_whole):
            where = self.place(*keys, key) if key in value else self.key(*keys)
            self.findings.append(senseless_range(name, why, where, help_))
            return None
        return Range(low, high, step, is_log, is_whole)


def _range_faults(
    low: float, high: float, step: Any, is_log: bool, is_whole: bool
) -> Iterator[tuple[str, str, str]]:
    """(what is wrong, at which key, the change to make)."""
    if low > high:
        swapped = f"write {{low: {shown(high)}, high: {shown(low)}}}"
        yield f"goes from {shown(low)} down to {shown(high)}", "low", swapped
    elif low == high:
        yield f"goes from {shown(low)} to {shown(high)}: one value", "low", f"write {shown(low)} alone"
    if step is not None:
        is_number = isinstance(step, int if is_whole else int | float) and not isinstance(step, bool)
        if not is_number or step <= 0:
            kind = "a whole number" if is_whole else "a number"
            yield f"has the step {shown(step)}", "step", f"give it {kind} above 0, or leave it out"
        elif step > high - low:
            yield f"has a step of {shown(step)}, more than the whole range", "step", "make it smaller"
        elif is_log:
            yield "has both step and log", "log", "leave one of the two out"
    if is_log and low <= 0:
        yield f"begins at {shown(low)}, which has no logarithm", "low", "begin above 0, or leave log out"


def read_parameters(tree: Tree, path: str) -> tuple[Space, tuple[Finding, ...]]:
    """What may be tried, and what is wrong with it; parameters that are wrong are left out."""
    written = tree.value.get("parameters")
    reader, space = _Reader(tree, path), dict[str, Choice | Range]()
    if not isinstance(written, dict):
        return space, ()
    for name, value in written.items():
        if name not in KINDS:
            near, where = nearest_word(name, tuple(KINDS)), reader.key("parameters", name)
            reader.findings.append(unknown_tuning_key(f"parameters.{name}", where, near, tuple(KINDS)))
        elif (parameter := reader.parameter(name, value)) is not None:
            space[name] = parameter
    if reader.findings:
        return space, tuple(reader.findings)
    return space, tuple(_of_effect(space, reader))


def _of_effect(space: Space, reader: _Reader) -> Iterator[Finding]:
    """Parameters that no trial can use, and a search with nothing to choose."""
    widest = {name: _most(one) for name, one in space.items()}
    idle = [name for name in space if not has_effect(name, widest)]
    sampled = [name for name in idle if name != "length_penalty"]
    if sampled:
        why = "do_sample is false" + ("" if "do_sample" in space else " unless it is said")
        help_ = "write do_sample: [false, true], or leave them out"
        yield generation_without_effect(sampled, why, reader.key("parameters", sampled[0]), help_)
    if "length_penalty" in idle:
        where = reader.key("parameters", "length_penalty")
        yield generation_without_effect(
            ["length_penalty"], "num_beams is 1", where, "write num_beams: [1, 4]"
        )
    left = {name: one for name, one in space.items() if name not in idle}
    if space and (not left or len(combinations(left) or "xx") == 1):
        yield nothing_to_choose(reader.key("parameters"))


def _most(one: Choice | Range) -> Any:
    return max(one.options) if isinstance(one, Choice) else one.high


def read_start(tree: Tree, path: str, space: Space) -> tuple[tuple[dict[str, Any], ...], tuple[Finding, ...]]:
    """The start values that have an effect, and what is wrong with them."""
    written, reader = tree.value.get("start"), _Reader(tree, path)
    entries = list(enumerate(written)) if isinstance(written, list) else []
    found = [_start(index, entry, space, reader) for index, entry in entries if isinstance(entry, dict)]
    return tuple(found), tuple(reader.findings)


def _start(index: int, entry: Mapping[str, Any], space: Space, reader: _Reader) -> dict[str, Any]:
    named = reader.tree.value.get("parameters")
    for name, value in entry.items():
        if not isinstance(named, dict) or name not in named:
            near = nearest_word(name, tuple(space))
            help_ = f"the nearest is {near}" if near else "add it to parameters, or remove it"
            where, why = reader.key("start", index, name), "is no parameter of this search"
            reader.findings.append(start_out_of_place(name, why, where, help_))
        elif name in space and not space[name].holds(value):
            where, why = reader.place("start", index, name), f"is {shown(value)}, and may be {space[name]}"
            reader.findings.append(start_out_of_place(name, why, where, "begin within what may be tried"))
    fixed = {
        name: one.options[0] for name, one in space.items() if isinstance(one, Choice) and not one.options[1:]
    }
    whole = {**fixed, **entry}
    idle = [
        name for name in entry if name in space and whole.get("do_sample") is False and name in ONLY_SAMPLED
    ]
    if idle:
        where, help_ = reader.key("start", index, idle[0]), "leave them out of this start"
        reader.findings.append(generation_without_effect(idle, "do_sample is false", where, help_))
    return {name: _of_kind(name, value) for name, value in entry.items() if name not in idle}


def _of_kind(name: str, value: Any) -> Any:
    return float(value) if KINDS.get(name) is float and type(value) is int else value
