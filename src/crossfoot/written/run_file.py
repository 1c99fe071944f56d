"""The run config that a person wrote, and what the command line changed in it: values, and the place of every
one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from crossfoot.findings.finding import Edit, Finding, Place, Refused
from crossfoot.written.config import Config
from crossfoot.written.edits import replacing
from crossfoot.written.findings import (
    COMMAND_LINE,
    broken_yaml,
    duplicate_key,
    in_file_order,
    not_a_config,
    unreadable_config,
)
from crossfoot.written.key_findings import a_script
from crossfoot.written.known_keys import kind_of
from crossfoot.written.overriding import Override, apply
from crossfoot.written.paths import with_homes
from crossfoot.written.shown import dotted
from crossfoot.written.slip_findings import edits_of, refuse_slips
from crossfoot.written.slips import repaired, tab_slips
from crossfoot.written.source import Source, UnreadableText, read_source
from crossfoot.written.validity import judge, place_of
from crossfoot.written.yaml_tree import BrokenYaml, Keys, Spot, Tree, read_tree

_SCRIPTS = (".sh", ".bash", ".sbatch", ".slurm")


@dataclass(frozen=True)
class RunFile:
    """A run config, read.

    path: as given. config: the values, defaults filled in, a leading ~ of a path replaced; when the file has
    mistakes, the keys that they touch are missing, and reading one raises `Unsure`. as_written: the same with
    every ~, which means the same on another machine. overrides: the words of the command line, as given.
    overridden: what the file itself has, and where, for every key (dotted) that an override replaced.
    """

    path: str
    as_written: Config
    overrides: tuple[str, ...] = ()
    spots: Mapping[Keys, Spot] = field(default_factory=dict, repr=False)
    overridden: Mapping[str, tuple[Any, Place]] = field(default_factory=dict, repr=False)
    source: Source = field(default=Source("", ""), repr=False)

    @cached_property
    def config(self) -> Config:
        """The values, for whoever opens what they name."""
        return with_homes(self.as_written)

    def place(self, *keys: str | int) -> Place:
        """Where a value is written: `place("batch", "micro_batch_size")`, or
        `place("batch.micro_batch_size")`.

        A section's place is its key. A value that is a default has the place of its section, or of the file.
        """
        return place_of(_path(keys), self.spots, self.path)

    def place_of_key(self, *keys: str) -> Place:
        """Where the word before the colon is written."""
        spot = self.spots.get(keys)
        return self.place(*keys) if spot is None or spot.key is None else spot.key

    def is_written(self, *keys: str | int) -> bool:
        """Whether the file or the command line gives a value (null is none)."""
        path = _path(keys)
        value: Any = self.config
        for key in path:
            value = value[key] if isinstance(key, int) else getattr(value, key, None)
        return path in self.spots and value is not None

    def is_named(self, *keys: str | int) -> bool:
        """Whether the file or the command line has the key, null too."""
        return _path(keys) in self.spots

    def origin(self, *keys: str | int) -> str:
        """Who says a value: "configs/demo.yaml:12", "command line" or "default"."""
        spot = self.spots.get(_path(keys))
        if spot is None:
            return "default"
        return f"{spot.value.file}:{spot.value.line}" if spot.value.line else spot.value.file

    def replacing(self, *keys: str | int, text: str) -> tuple[Edit, ...]:
        """The edit that makes a value of the file, written on one line, `text` (YAML). None when it is a
        default, an override, or longer than a line.
        """
        spot = self.spots.get(_path(keys))
        if spot is None or spot.is_empty or spot.value.file != self.source.path:
            return ()
        return (replacing(self.source, spot.value, text),)

    @property
    def tokenizer_place(self) -> Place:
        """Where the tokenizer is named: by its own key, else by the model's."""
        return self.place("tokenizer" if self.config.tokenizer is not None else "model", "path")

    @property
    def run_dir(self) -> str:
        """Folder of the run: run.dir, or runs/NAME."""
        return os.path.normpath(self.config.run.dir or os.path.join("runs", self.config.run.name))

    @property
    def index_dir(self) -> str:
        """Folder of the token indexes: data.index_dir, or .index beside the run folder."""
        given = self.config.data.index_dir
        return os.path.normpath(given or os.path.join(os.path.dirname(self.run_dir), ".index"))


def load_run(path: str, overrides: Sequence[str | Override] = ()) -> RunFile:
    """Read a run config and apply `path=value` words to it. Raises Refused with everything that is wrong, in
    file order.
    """
    run, findings = read_run(path, overrides)
    if findings:
        raise Refused(findings)
    return run


def read_run(path: str, overrides: Sequence[str | Override] = ()) -> tuple[RunFile, tuple[Finding, ...]]:
    """Read a run config, and say what is wrong with it, in file order. Raises Refused when nothing of it can
    be used.
    """
    source, tree = _read(path)
    findings = [duplicate_key(dotted(keys), first, second) for keys, first, second in tree.duplicates]
    typed = Place(COMMAND_LINE)
    words = [Override(word, typed) if isinstance(word, str) else word for word in overrides]
    replaced: dict[Keys, tuple[Any, Place]] = {}
    for word in words:
        findings.extend(apply(tree, word, replaced))
    judged = judge(tree, source)
    found = in_file_order((*findings, *judged.findings), path)
    if judged.config is None:
        raise Refused(found)
    run = RunFile(
        path,
        judged.config,
        tuple(word.word for word in words),
        MappingProxyType(tree.spots),
        MappingProxyType({dotted(keys): old for keys, old in replaced.items()}),
        source,
    )
    return run, found


def _read(path: str) -> tuple[Source, Tree]:
    try:
        source = read_source(path)
    except UnreadableText as error:
        raise Refused(unreadable_config(error)) from error
    if source.text.startswith("#!") or path.endswith(_SCRIPTS):
        raise Refused(a_script(path))
    refuse_slips(source, kind_of)
    try:
        tree = read_tree(source)
    except BrokenYaml as error:
        raise Refused(broken_yaml(error, _without_tabs(source))) from error
    if not isinstance(tree.value, dict) or not tree.value:
        where = tree.spots[()].value if tree.spots else Place(path)
        raise Refused(not_a_config(path, where, tree.value or None))
    return source, tree


def _without_tabs(source: Source) -> tuple[Edit, ...]:
    """The edits that indent with blanks, when it makes no difference how wide a tab is meant to be."""
    found: dict[str, tuple[Edit, ...]] = {}
    for width in (8, 4, 2):
        slips = tab_slips(source.text, width)
        with suppress(BrokenYaml):
            value = read_tree(Source(source.path, repaired(source.text, slips))).value
            found[repr(value)] = edits_of(source, slips)
    return next(iter(found.values())) if len(found) == 1 else ()


def _path(keys: tuple[str | int, ...]) -> Keys:
    return tuple(keys[0].split(".")) if len(keys) == 1 and isinstance(keys[0], str) else keys
