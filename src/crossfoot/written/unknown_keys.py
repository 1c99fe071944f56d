"""The keys of a config that no run config has: each with what was meant, many of one kind as one finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from crossfoot.findings.finding import Edit, Finding
from crossfoot.phrases import listed
from crossfoot.shell_words import quoted_path
from crossfoot.written.data_sources import SourceSection
from crossfoot.written.edits import replacing
from crossfoot.written.findings import unknown_key
from crossfoot.written.key_findings import foreign_keys, moved_keys
from crossfoot.written.known_keys import Suggestion, is_known, sections, suggest, suggest_of_source
from crossfoot.written.shown import dotted
from crossfoot.written.source import Source
from crossfoot.written.yaml_tree import Keys, Tree

MOST_FOREIGN = 2
"""More words of other trainers in one place are one finding."""

Path = tuple[str, ...]


@dataclass
class UnknownKeys:
    """What was made of the unknown keys. meant: the keys (dotted) that they were probably meant to be."""

    tree: Tree
    source: Source
    findings: list[Finding] = field(default_factory=list)
    meant: set[str] = field(default_factory=set)

    def take(self, unknown: Iterable[Path]) -> None:
        """Say what each of them was meant to be."""
        told = [(path, self._suggestion(path)) for path in unknown]
        for path, suggestion in told:
            self._note_meant(path, suggestion)
        for group in _together(told):
            self.findings.append(self._one(*group[0]) if len(group) == 1 else self._many(group))

    def take_of_source(self, keys: Keys) -> None:
        """The same of a key in an entry of data.train: ("data", "train", 0, KEY)."""
        entry = self._value(keys[:-1])
        name, spot = str(keys[-1]), self.tree.spots[keys]
        suggestion = suggest_of_source(name, entry)
        fix: tuple[Edit, ...] = ()
        if suggestion and suggestion.is_sure and spot.key is not None and spot.key.file == self.source.path:
            fix = (replacing(self.source, spot.key, suggestion.path),)
        keys_there = tuple(SourceSection.model_fields)
        self.findings.append(unknown_key(dotted(keys), spot.key or spot.value, suggestion, keys_there, fix))

    def may_hold(self, path: str) -> bool:
        """Whether a missing key or section may be among the unknown ones under another name."""
        return any(meant == path or meant.startswith(f"{path}.") for meant in self.meant)

    def _suggestion(self, path: Path) -> Suggestion | None:
        parent = self._value(path[:-1])
        return suggest(path, set(parent), parent[path[-1]], self._written(path))

    def _value(self, path: Keys) -> Any:
        value: Any = self.tree.value
        for key in path:
            value = value[key]
        return value

    def _note_meant(self, path: Path, suggestion: Suggestion | None) -> None:
        if suggestion and suggestion.path:
            self.meant.add(suggestion.path)
        value = self._value(path)
        for key in value if isinstance(value, dict) else ():
            inner = suggest((str(key),), (), value[key]) if not is_known((str(key),)) else None
            if is_known((str(key),)) or (inner and inner.path and inner.meaning != "near"):
                self.meant.add(inner.path if inner else str(key))

    def _written(self, path: Path) -> str | None:
        """The value as it is written, when it stands on one line of this file."""
        spot, value = self.tree.spots[path], self._value(path)
        if value is None or isinstance(value, dict) or spot.value.file != self.source.path:
            return None
        start = self.source.offset(spot.value)
        text = self.source.text[start : start + spot.value.width]
        return text if not isinstance(value, list) or text.endswith("]") else None

    def _one(self, path: Path, suggestion: Suggestion | None) -> Finding:
        spot = self.tree.spots[path]
        siblings = sections()[path[0]] if is_known(path[:1]) and path[1:] else tuple(sections())
        fix, notes = self._renaming(path, suggestion), tuple(self._inside(path, suggestion))
        finding = unknown_key(dotted(path), spot.key or spot.value, suggestion, siblings, fix, notes)
        if suggestion is None or suggestion.meaning == "near" or suggestion.value is None:
            return finding
        twin = self.tree.spots.get(tuple(suggestion.path.split(".")))
        if twin is None:
            return finding
        helps = (f"remove {dotted(path)}, or put its value into {suggestion.path}",)
        return replace(finding, others=((twin.value, f"{suggestion.path} is written here"),), helps=helps)

    def _inside(self, path: Path, suggestion: Suggestion | None) -> Iterator[str]:
        """Where the keys of an unknown section belong, if not to the section that it was meant to be."""
        value = self._value(path)
        if not isinstance(value, dict) or is_known(path[:1]):
            return
        if own := [str(key) for key in value if is_known((str(key),))]:
            yield f"{listed(own)} in it {'belongs' if len(own) == 1 else 'belong'} to the top level"
        for key in value:
            inner = suggest((str(key),), (), value[key]) if str(key) not in own else None
            is_there = suggestion is not None and inner and inner.path.startswith(f"{suggestion.path}.")
            if inner and inner.meaning != "near" and inner.path and not is_there:
                yield f"{key} in it belongs to {inner.path}"

    def _many(self, group: list[tuple[Path, Suggestion]]) -> Finding:
        spots = [self.tree.spots[path] for path, _ in group]
        places = [spot.key or spot.value for spot in spots]
        names = [(path[-1], suggestion) for path, suggestion in group]
        written_in = dotted(group[0][0][:-1])
        if group[0][1].meaning == "moved":
            return moved_keys(written_in, places, names)
        found = foreign_keys(written_in, places, names)
        if {"run", "batch", "lr"} & set(self.tree.value) or written_in:
            return found
        makes = f"crossfoot import {quoted_path(self.source.path)} --out my.yaml"
        return replace(found, helps=(makes, *found.helps))

    def _renaming(self, path: Path, suggestion: Suggestion | None) -> tuple[Edit, ...]:
        """The key under its right name: when that belongs in the same place, is free, and is surely meant."""
        spot = self.tree.spots[path]
        if (
            suggestion is None
            or not suggestion.is_sure
            or spot.key is None
            or spot.key.file != self.source.path
        ):
            return ()
        wanted = tuple(suggestion.path.split("."))
        if wanted[:-1] != path[:-1] or wanted in self.tree.spots:
            return ()
        return (replacing(self.source, spot.key, wanted[-1]),)


def _together(told: list[tuple[Path, Suggestion | None]]) -> Iterator[list[Any]]:
    """Keys that one finding is about: of one place that belong to one section, and a crowd of other trainers'
    words.
    """
    groups: dict[tuple[str | tuple[str, ...], ...], list[tuple[Path, Suggestion | None]]] = {}
    for path, suggestion in told:
        group: tuple[str | tuple[str, ...], ...] = path
        if suggestion and suggestion.meaning == "moved" and "." in suggestion.path:
            group = ("moved", path[:-1], suggestion.path.partition(".")[0])
        elif suggestion and suggestion.meaning == "foreign":
            group = ("foreign", path[:-1])
        groups.setdefault(group, []).append((path, suggestion))
    for group, members in groups.items():
        is_crowd = len(members) > MOST_FOREIGN or group[:1] != ("foreign",)
        yield from [members] if is_crowd else [[member] for member in members]
