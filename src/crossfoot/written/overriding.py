"""`path=value` words, from the command line or from a launch script, laid over the tree of a run config."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from crossfoot.findings.finding import Finding, Place
from crossfoot.shell_words import quoted, unused_path
from crossfoot.written import findings
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.known_keys import Suggestion, is_known, is_optional, kind_of, sections, suggest
from crossfoot.written.look_alikes import ASCII_OF, to_ascii
from crossfoot.written.paths import at_home
from crossfoot.written.shown import dotted
from crossfoot.written.slips import repaired, value_slips
from crossfoot.written.source import Source
from crossfoot.written.yaml_tree import BrokenYaml, Keys, Spot, Tree, in_yaml, read_tree


@dataclass(frozen=True)
class Override:
    """One word, and where it is written."""

    word: str
    place: Place


_SPLIT = re.compile(r"\s*(?P<path>[A-Za-z_][\w.]*)\s*[=:]", re.ASCII)
"""How an override begins, in ASCII."""


def joined(words: Iterable[str]) -> list[str]:
    """The words, with those as one that blanks around the = have made of one: `lr.reference = 1e-4`."""
    kept: list[str] = []
    for word in words:
        before = kept[-1] if kept else ""
        begins = is_known(tuple(before.split("."))) and to_ascii(word[:1]) in ("=", ":")
        lacks = to_ascii(before[-1:]) in ("=", ":") and is_known(tuple(before[:-1].strip().split(".")))
        if begins or (lacks and "=" not in word):
            kept[-1] = f"{before} {word}"
        else:
            kept.append(word)
    return kept


def told_apart(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The words after a config: overrides (also those that lack their =), and launch files."""
    overrides: list[str] = []
    files: list[str] = []
    for word in words:
        is_path = word.startswith((".", "/", "~")) or os.path.exists(word)
        names_key = "=" in to_ascii(word) or word.split(".")[0] in sections()
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
    if (meant := _meant(word)) is not None:
        yield findings.bad_override(word, where, _slip_in(word, meant), (f"write {shlex.quote(meant)}",))
        return
    path_text, equals, text = word.partition("=")
    path = tuple(path_text.split("."))
    if not equals or not path_text.strip():
        helps = ("write it like batch.micro_batch_size=4",)
        yield findings.bad_override(word, where, "is no path=value", helps)
        return
    if not is_known(path):
        suggestion = _as_word(suggest(path, text=text))
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
        helps = (can_be_null if is_optional(path_text) else "leave the word out, or give a value",)
        yield findings.bad_override(word, where, "has nothing after =", helps)
        return
    for keys, _, _ in given.duplicates:
        yield findings.duplicate_key(dotted((*path, *keys)), where, where)
    _lay_over(tree, path, given, where, replaced)


def _meant(word: str) -> str | None:
    """The override without look-alikes of ASCII and blanks; None when it has none of them."""
    split = _SPLIT.match(to_ascii(word))
    if split is None:
        return None
    path, text = split["path"], word[split.end() :].strip()
    text = repaired(text, value_slips(text, kind_of(path.rpartition(".")[2]) or "text"))
    keys = tuple(path.split("."))
    suggestion = None if is_known(keys) else suggest(keys, text=text)
    if not text or f"{path}={text}" == word or (suggestion is None and not is_known(keys)):
        return None
    return (suggestion and suggestion.word) or f"{path}={text}"


def _slip_in(word: str, meant: str) -> str:
    """What is wrong with it."""
    wide = [letter for letter in dict.fromkeys(word) if letter in ASCII_OF and letter not in meant]
    if wide:
        return f"has {' '.join(wide)} where ASCII is needed"
    return "has a blank beside its =" if "=" in word else "has : where = is needed"


def _as_word(meant: Suggestion | None) -> Suggestion | None:
    """With the word to write instead, where that is known."""
    if meant is None or meant.word is None or not (meant.is_sure or meant.meaning != "near"):
        return meant
    return replace(meant, help=f"write {shlex.quote(meant.word)}")


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
