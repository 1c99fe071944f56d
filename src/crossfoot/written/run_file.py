"""The run config that a person wrote, and what the command line changed in it: values, and the place of every
one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from crossfoot.finding import Finding, Place, Refused
from crossfoot.written import mistakes
from crossfoot.written.config import Config
from crossfoot.written.known_keys import is_known, sections, suggest
from crossfoot.written.mistakes import COMMAND_LINE
from crossfoot.written.source import Source, UnreadableText, read_source
from crossfoot.written.wording import repairs, wanted
from crossfoot.written.yaml_tree import BrokenYaml, Keys, Spot, Tree, read_tree

_EMPTY_IS_DEFAULT = frozenset(sections()) - {"lora", "deepspeed"}
"""Sections of which `name:` with nothing below means all defaults. `lora:` could mean two things, so it is
asked.
"""


@dataclass(frozen=True)
class RunFile:
    """A run config, read and valid.

    path: as given. config: the values, defaults filled in. overrides: the words of the command line, as
    given.
    """

    path: str
    config: Config
    overrides: tuple[str, ...] = ()
    spots: Mapping[Keys, Spot] = field(default_factory=dict, repr=False)

    def place(self, *keys: str | int) -> Place:
        """Where a value is written: `place("batch", "micro_batch_size")`, or
        `place("batch.micro_batch_size")`.

        A section's place is its key. A value that is a default has the place of its section, or of the file.
        """
        return _place_of(_path(keys), self.spots, self.path)

    def is_written(self, *keys: str | int) -> bool:
        """Whether the file or the command line gives a value (null is none)."""
        path = _path(keys)
        value: Any = self.config
        for key in path:
            value = value[key] if isinstance(key, int) else getattr(value, key, None)
        return path in self.spots and value is not None

    def origin(self, *keys: str | int) -> str:
        """Who says a value: "configs/demo.yaml:12", "command line" or "default"."""
        spot = self.spots.get(_path(keys))
        if spot is None:
            return "default"
        return f"{spot.value.file}:{spot.value.line}" if spot.value.line else spot.value.file

    @property
    def run_dir(self) -> str:
        """Folder of the run: run.dir, or runs/NAME."""
        return os.path.normpath(self.config.run.dir or os.path.join("runs", self.config.run.name))

    @property
    def index_dir(self) -> str:
        """Folder of the token indexes: data.index_dir, or .index beside the run folder."""
        given = self.config.data.index_dir
        return os.path.normpath(given or os.path.join(os.path.dirname(self.run_dir), ".index"))


def load_run(path: str, overrides: Sequence[str] = ()) -> RunFile:
    """Read a run config and apply `path=value` words to it. Raises Refused with everything that is wrong, in
    file order.
    """
    try:
        source = read_source(path)
        tree = read_tree(source)
    except UnreadableText as error:
        raise Refused(mistakes.unreadable_config(error)) from error
    except BrokenYaml as error:
        raise Refused(mistakes.broken_yaml(error)) from error
    if not isinstance(tree.value, dict) or not tree.value:
        where = tree.spots[()].value if tree.spots else Place(path)
        raise Refused(mistakes.not_a_config(path, where, tree.value or None))
    findings = [
        mistakes.duplicate_key(_dotted(keys), first, second) for keys, first, second in tree.duplicates
    ]
    for word in overrides:
        findings.extend(_override(tree, word))
    findings.extend(_fill_empty_sections(tree))
    config: Config | None = None
    try:
        config = Config.model_validate(tree.value)
    except ValidationError as error:
        findings.extend(_in_plain_words(error, tree, path))
    findings.extend(_across_keys(tree, path))
    if config is None or findings:
        raise Refused(sorted(findings, key=_file_order))
    return RunFile(path, config, tuple(overrides), MappingProxyType(tree.spots))


def _file_order(finding: Finding) -> tuple[bool, int, int, str]:
    place = finding.place or Place("")
    return (place.file == COMMAND_LINE, place.line, place.column, finding.code)


def _path(keys: tuple[str | int, ...]) -> Keys:
    return tuple(keys[0].split(".")) if len(keys) == 1 and isinstance(keys[0], str) else keys


def _dotted(keys: Keys) -> str:
    """`data.train[0]` of ("data", "train", 0)."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def _place_of(path: Keys, spots: Mapping[Keys, Spot], file: str) -> Place:
    while path and path not in spots:
        path = path[:-1]
    spot = spots.get(path) if path else None
    if spot is None:
        return Place(file)
    return spot.key if len(path) == 1 and spot.key is not None and path[0] != "deepspeed" else spot.value


def _override(tree: Tree, word: str) -> Iterable[Finding]:
    """Apply one `path=value` to the tree, or say why not."""
    dotted, equals, text = word.partition("=")
    path = tuple(dotted.split("."))
    if not equals or not dotted.strip():
        yield mistakes.bad_override(word, "is no path=value", ("write it like batch.micro_batch_size=4",))
        return
    if not is_known(path):
        suggestion = suggest(path)
        known = () if suggestion else sections().get(path[0], ()) or tuple(sections())
        yield mistakes.unknown_key(dotted, Place(COMMAND_LINE), suggestion, known)
        return
    try:
        given = read_tree(Source(COMMAND_LINE, text))
    except BrokenYaml as error:
        yield mistakes.bad_override(word, f"has no YAML value: {error.title}", error.helps)
        return
    if () not in given.spots:
        yield mistakes.bad_override(word, "has nothing after =", (f"write {dotted}=null to leave it out",))
        return
    where = Place(COMMAND_LINE)
    for keys, _, _ in given.duplicates:
        yield mistakes.duplicate_key(_dotted((*path, *keys)), where, where)
    parent = tree.value
    for depth, key in enumerate(path[:-1], 1):
        if not isinstance(parent.get(key), dict):
            parent[key] = {}
            tree.spots[path[:depth]] = Spot(where, where)
        parent = parent[key]
    parent[path[-1]] = given.value
    for old in [keys for keys in tree.spots if keys[: len(path)] == path]:
        del tree.spots[old]
    for keys in given.spots:
        tree.spots[(*path, *keys)] = Spot(where, where)


def _fill_empty_sections(tree: Tree) -> Iterable[Finding]:
    """`cluster:` with nothing below reads as null; it means the defaults, except for lora, where null has a
    meaning.
    """
    for name, value in tree.value.items():
        if value is not None or name not in sections():
            continue
        spot = tree.spots[(name,)]
        if name in _EMPTY_IS_DEFAULT and (name != "tokenizer" or spot.is_empty):
            tree.value[name] = {}
        elif spot.is_empty:
            helps = {
                "lora": ("write lora: {} for the default adapter", "or lora: null for full fine-tuning"),
                "deepspeed": ("give a file", "or remove the line to run without DeepSpeed"),
            }[name]
            wants = "a section with keys" if name == "lora" else "the path of a JSON file"
            yield mistakes.wrong_value(name, None, wants, spot.value, helps)


def _in_plain_words(error: ValidationError, tree: Tree, path: str) -> Iterable[Finding]:
    """A finding for each of pydantic's errors."""
    details = error.errors(include_url=False)
    meant: set[str] = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            unknown = tuple(str(key) for key in detail["loc"])
            suggestion = suggest(unknown, _siblings(tree, unknown))
            meant.update((suggestion.path,) if suggestion else ())
            spot = tree.spots[unknown]
            known = () if suggestion else (sections()[unknown[0]] if len(unknown) > 1 else tuple(sections()))
            yield mistakes.unknown_key(_dotted(unknown), spot.key or spot.value, suggestion, known)
    for detail in details:
        keys = detail["loc"]
        if detail["type"] == "extra_forbidden":
            continue
        if detail["type"] == "missing" and not isinstance(keys[-1], int):
            if _dotted(keys) not in meant:
                yield mistakes.missing_key(_dotted(keys), _place_of(keys[:-1], tree.spots, path))
            continue
        yield _wrong_value(detail, tree, path)


def _siblings(tree: Tree, keys: tuple[str, ...]) -> set[str]:
    parent = tree.value
    for key in keys[:-1]:
        parent = parent[key]
    return set(parent)


def _wrong_value(detail: Mapping[str, Any], tree: Tree, path: str) -> Finding:
    keys: Keys = detail["loc"]
    if keys[-1:] and isinstance(keys[-1], int) and detail["type"] == "missing":  # betas: [0.9]
        keys = keys[:-1]
        detail = {**detail, "type": "too_short", "ctx": {"min_length": 2}}
    spot = tree.spots.get(keys)
    place = spot.value if spot else _place_of(keys, tree.spots, path)
    value = detail["input"]
    if isinstance(value, dict) and spot is not None and spot.key is not None:
        place = spot.key
    return mistakes.wrong_value(_dotted(keys), value, wanted(detail), place, repairs(detail))


def _across_keys(tree: Tree, path: str) -> Iterable[Finding]:
    """The rules that hold between keys: the run's length, the batch's numbers, the warm-up."""
    length = _given(tree, "train", ("epochs", "max_steps"))
    if length is not None and len(length) != 1:
        yield mistakes.length_not_given_once(length, _place_of(("train",), tree.spots, path))
    batch = _given(tree, "batch", ("micro_batch_size", "grad_accum_steps", "global_batch_size"))
    if batch is not None and len(batch) < 2:
        yield mistakes.too_few_batch_numbers(batch, _place_of(("batch",), tree.spots, path))
    warmup = _given(tree, "lr", ("warmup_steps", "warmup_fraction", "warmup_samples"))
    if warmup is not None and len(warmup) > 1:
        yield mistakes.warmup_given_twice(warmup)


def _given(tree: Tree, section: str, keys: tuple[str, ...]) -> tuple[tuple[Place, str, object], ...] | None:
    """(place, key, value) of each of `keys` that has a value; None when the section is absent or misspelt
    inside.
    """
    values = tree.value.get(section)
    if not isinstance(values, dict):
        return None
    unknown = [key for key in values if not is_known((section, key))]
    given = tuple(
        (tree.spots[(section, key)].value, key, values[key]) for key in keys if values.get(key) is not None
    )
    # A misspelt key may be the one that is missing: its own finding says so, and this one would mislead.
    return None if unknown and len(given) < 2 else given
