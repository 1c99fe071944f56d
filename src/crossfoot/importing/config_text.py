"""A carried recipe as the text of a run config: every value with its origin, in the order of the keys."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from crossfoot.importing.carried import Carried, Entry
from crossfoot.importing.recipe import Recipe, World
from crossfoot.phrases import counted
from crossfoot.written.known_keys import is_known, sections
from crossfoot.written.yaml_tree import in_yaml

_COLUMN = 46


def all_entries(recipe: Recipe, carried: Carried, words: tuple[str, ...]) -> Mapping[str, Entry]:
    """The lines of the config, by key: what was carried over, nodes and GPUs, a name, and what the command
    line says, which counts.
    """
    entries = dict(carried.entries)
    entries.setdefault("run.name", Entry(in_yaml(_run_name(recipe)), "the name of its folder or file"))
    entries.update(_cluster(recipe.world))
    for word in words:
        path, _, value = word.partition("=")
        entries[path] = Entry(value, "command line")
    for one, other in (("train.max_steps", "train.epochs"), ("lr.warmup_steps", "lr.warmup_fraction")):
        if one in entries and other in entries:
            says = {path: entries[path].origin == "command line" for path in (one, other)}
            entries.pop(one if says[other] and not says[one] else other)
    return entries


def _cluster(world: World) -> Mapping[str, Entry]:
    found = {}
    for path, ranks in (("cluster.num_nodes", world.nodes), ("cluster.gpus_per_node", world.gpus)):
        said = f"{ranks.words}   {ranks.origin}" if ranks else "not said there: 1 is assumed"
        found[path] = Entry(str(ranks.count if ranks else 1), said)
    return found


def _run_name(recipe: Recipe) -> str:
    """The last part of the output folder, or the file's name."""
    folder = recipe.get("output_dir")
    for path in (folder.text if folder else "", os.path.splitext(recipe.path)[0]):
        name = os.path.basename(path.rstrip("/")).lstrip(".")
        if name and not re.search(r"[\\/\x00-\x1f]", name):
            return name
    return "imported"


def config_text(recipe: Recipe, entries: Mapping[str, Entry], left: int) -> str:
    """The run config, in YAML."""
    lines = [
        f"# made by: crossfoot import {recipe.path}",
        f"# {recipe.stack.title}; behind each value: who says it"
        + (f"; {counted(left, 'value')} not carried over" if left else ""),
    ]
    for section, keys in sections().items():
        if not keys:
            if section in entries:
                lines += ["", _line("", section, entries[section])]
            continue
        here = [key for key in keys if f"{section}.{key}" in entries]
        if here:
            lines += ["", f"{section}:", *(_line("  ", key, entries[f"{section}.{key}"]) for key in here)]
    unknown = [path for path in entries if not is_known(tuple(path.split(".")))]
    lines += [f"{path}: {entries[path].value}" for path in unknown]
    return "\n".join(lines) + "\n"


def _line(indent: str, key: str, entry: Entry) -> str:
    written = f"{indent}{key}: {entry.value}"
    return f"{written:<{_COLUMN}}  # {' '.join(entry.origin.split())}"
