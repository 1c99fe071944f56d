"""`path=value` words, from the command line or from a launch script, laid over the tree of a run config."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from crossfoot.findings.finding import Finding, Place
from crossfoot.shell_words import quoted, unused_path
from crossfoot.written import findings
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.known_keys import is_known, may_be_null, sections, suggest
from crossfoot.written.paths import at_home
from crossfoot.written.shown import dotted
from crossfoot.written.source import Source
from crossfoot.written.yaml_tree import BrokenYaml, Keys, Spot, Tree, in_yaml, read_tree


@dataclass(frozen=True)
class Override:
    """One word, and where it is written."""

    word: str
    place: Place


def told_apart(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The words after a config: overrides (also those that lack their =), and launch files."""
    overrides: list[str] = []
    files: list[str] = []
    for word in words:
        is_path = word.startswith((".", "/", "~")) or os.path.exists(word)
        names_key = "=" in word or word.split(".")[0] in sections()
        is_override = names_key and not is_path
        (overrides if is_override else files).append(word if is_override else at_home(word))
    return overrides, files


def setting(key: str, text: str) -> str:
    """The override that gives a key this text."""
    return f"{key}={in_yaml(text)}"


def another_run_dir(run_dir: str) -> str:
    """The override, as a word for the shell, that trains beside a run folder that is taken."""
    return quoted(setting("run.dir", unused_path(run_dir)))


def apply(tree: Tree, override: Override, replaced: dict[Keys, tuple[Any, Place]]) -> Iterator[Finding]:
    """Change the tree as `override` says, or say why not. `replaced`: gets what the file itself had there."""
    word, where = override.word, override.place
    path_text, equals, text = word.partition("=")
    path = tuple(path_text.split("."))
    if not equals or not path_text.strip():
        helps = ("write it like batch.micro_batch_size=4",)
        yield findings.bad_override(word, where, "is no path=value", helps)
        return
    if not is_known(path):
        suggestion = suggest(path)
        known = () if suggestion else sections().get(path[0], ()) or tuple(sections())
        yield findings.unknown_key(path_text, where, suggestion, known)
        return
    try:
        given = read_tree(Source(COMMAND_LINE, text))
    except BrokenYaml as error:
        yield findings.bad_override(word, where, f"has no YAML value: {error.title}", error.helps)
        return
    if () not in given.spots:
        can_be_null = f"write {path_text}=null, or leave the word out"
        helps = (can_be_null if may_be_null(path) else "leave the word out, or give a value",)
        yield findings.bad_override(word, where, "has nothing after =", helps)
        return
    for keys, _, _ in given.duplicates:
        yield findings.duplicate_key(dotted((*path, *keys)), where, where)
    _lay_over(tree, path, given, where, replaced)


def _lay_over(
    tree: Tree, path: Keys, given: Tree, where: Place, replaced: dict[Keys, tuple[Any, Place]]
) -> None:
    parent = tree.value
    for depth, key in enumerate(path[:-1], 1):
        if not isinstance(parent.get(key), dict):
            parent[key] = {}
            tree.spots[path[:depth]] = Spot(where, where)
        parent = parent[key]
    if path in tree.spots and path[-1] in parent:
        replaced.setdefault(path, (parent[path[-1]], tree.spots[path].value))
    parent[path[-1]] = given.value
    for old in [keys for keys in tree.spots if keys[: len(path)] == path]:
        del tree.spots[old]
    for keys in given.spots:
        tree.spots[(*path, *keys)] = Spot(where, where)
