"""`crossfoot import FILE`: read, carry over, hold the result against the rules of a config, write, tell."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.formats import show
from crossfoot.findings.render import render
from crossfoot.importing.carried import Carried, Entry
from crossfoot.importing.carrying import carry
from crossfoot.importing.config_text import all_entries, config_text
from crossfoot.importing.datasets import part_split_off
from crossfoot.importing.departures import Case, is_dropping
from crossfoot.importing.findings import (
    gpus_not_said,
    no_batch,
    not_written,
    ranks_without_deepspeed,
    says_too_little,
    unusable_value,
    would_overwrite,
)
from crossfoot.importing.page import render_import, what_next
from crossfoot.importing.reading import read_recipe
from crossfoot.importing.recipe import Ranks, Recipe, World, read_value
from crossfoot.importing.trained import Batch, Epoch
from crossfoot.index.locate import estimate_samples
from crossfoot.output import say, tell
from crossfoot.shell_words import quoted_path
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.overriding import Override, apply
from crossfoot.written.source import Source
from crossfoot.written.validity import judge
from crossfoot.written.yaml_tree import Tree, read_tree

_BATCH = ("batch.micro_batch_size", "batch.grad_accum_steps")
_NEEDED = ("model.path", "data.train")
_LARGEST_DATA_BYTES = 64 << 20
"""Records of more data than that are not counted on the way: --samples says how many there are."""


@dataclass(frozen=True)
class Imported:
    """A recipe, and the run config that it became. text: in YAML; findings: warnings."""

    case: Case
    carried: Carried
    text: str
    findings: tuple[Finding, ...]


def import_recipe(path: str, out: str | None, words: Sequence[str], world: World, samples: int | None) -> int:
    """The verb. The config goes to stdout and the page to stderr; with `out`, the page to stdout."""
    if out is not None and os.path.lexists(out):
        raise Refused(would_overwrite(out, _free_name(out)))
    imported = imported_recipe(path, words, world, samples)
    page = render_import(imported.case, imported.carried)
    if out is None:
        say(imported.text, end="")
        tell(f"{page}\n\n{what_next(None, imported.carried)}; to a file: --out my.yaml")
        if imported.findings:
            tell(f"\n{render(imported.findings)}")
        return 0
    _write(out, imported.text)
    say(f"{page}\n\n{what_next(out, imported.carried)}\nnext: crossfoot check {quoted_path(out)}")
    if imported.findings:
        say()
        show(imported.findings)
    return 0


def imported_recipe(path: str, words: Sequence[str], world: World, samples: int | None) -> Imported:
    """Everything but writing. words: `path=value` of the command line. world: of its options, which count.
    samples: of an epoch; None: counted, where the files are here. Raises Refused.
    """
    recipe = read_recipe(path)
    recipe = replace(recipe, world=_world(recipe.world, world))
    carried = carry(recipe)
    _refuse_words(words)
    entries = all_entries(recipe, carried, tuple(words))
    _refuse_too_little(recipe, entries)
    text = config_text(recipe, entries, sum(left.trains for left in carried.left))
    _refuse_unusable(text, entries, recipe)
    case = _case(recipe, entries, samples)
    return Imported(case, carried, text, tuple(_warnings(case)))


def _warnings(case: Case) -> Iterator[Finding]:
    recipe = case.recipe
    if recipe.world.gpus is None:
        yield gpus_not_said(Place(recipe.path), case.batch.per_step, recipe.path)
    elif case.batch.world > 1 and "deepspeed" not in case.entries:
        yield ranks_without_deepspeed(Place(recipe.path), case.batch.world)


def _world(said: World, given: World) -> World:
    is_one = said.is_one_process and given.gpus is None
    return World(given.nodes or said.nodes, given.gpus or said.gpus, is_one)


def world_of(nodes: int | None, gpus: int | None) -> World:
    """What --nodes and --gpus say."""
    return World(
        None if nodes is None else Ranks(nodes, "--nodes", COMMAND_LINE),
        None if gpus is None else Ranks(gpus, "--gpus", COMMAND_LINE),
    )


def _refuse_words(words: Sequence[str]) -> None:
    """Raises Refused for words that a run config does not have."""
    tree = Tree({})
    found = [each for word in words for each in apply(tree, Override(word, Place(COMMAND_LINE)), {})]
    if found:
        raise Refused(found)


def _refuse_too_little(recipe: Recipe, entries: Mapping[str, Entry]) -> None:
    findings = []
    missing = [key for key in _NEEDED if key not in entries]
    if missing:
        findings.append(says_too_little(recipe.path, missing))
    for path in _BATCH:
        entry = entries[path]
        if not isinstance(read_value(entry.value), int):
            given = entry.given
            place = given.place if given else Place(COMMAND_LINE)
            findings.append(no_batch(place, given.key if given else path, entry.value))
    said = {path: entries[path].origin == COMMAND_LINE for path in _BATCH}
    for given in recipe.given.values():
        key = _UNKNOWN.get(given.key, "")
        if key and not given.is_known and not said[key]:
            findings.append(no_batch(given.place, given.key, ""))
    if findings:
        raise Refused(findings)


_UNKNOWN = {
    "per_device_train_batch_size": _BATCH[0],
    "micro_batch_size": _BATCH[0],
    "gradient_accumulation_steps": _BATCH[1],
}


def _refuse_unusable(text: str, entries: Mapping[str, Entry], recipe: Recipe) -> None:
    """Raises Refused where the config could not be read back."""
    source = Source(recipe.path, text)
    tree = read_tree(source)
    lines = {spot.value.line: keys for keys, spot in tree.spots.items() if len(keys) in (1, 2)}
    findings = []
    for finding in judge(tree, source).findings:
        line = finding.place.line if finding.place else 0
        path = ".".join(map(str, lines.get(line, ())))
        entry = entries.get(path)
        if entry is not None and entry.given is not None:
            findings.append(unusable_value(entry.given.place, entry.given.key, finding.title, path))
        else:
            findings.append(replace(finding, place=Place(COMMAND_LINE), fix=()))
    if findings:
        raise Refused(findings)


def _case(recipe: Recipe, entries: Mapping[str, Entry], samples: int | None) -> Case:
    """The recipe with its numbers."""
    micro, accumulation = (int(entries[path].value) for path in _BATCH)
    batch = Batch(micro, accumulation, recipe.world.size or 1)
    count = samples if samples is not None else _counted(recipe, entries)
    held_out = _held_out(recipe, count) if count is not None else 0
    epoch = None
    if count is not None and count > held_out:
        epoch = Epoch(batch, count - held_out, is_dropping(recipe), recipe.stack.floors_steps)
    steps = recipe.get("max_steps")
    epochs = None
    if not (steps is not None and (steps.number or 0) > 0):
        given = recipe.get("num_train_epochs", "num_epochs")
        said = entries.get("train.epochs")
        epochs = given.number if given is not None else float(said.value) if said else None
    return Case(recipe, batch, epoch, epochs, entries, held_out)


def _counted(recipe: Recipe, entries: Mapping[str, Entry]) -> int | None:
    """The records of the training files that are used, where all are here and quickly read; documents are no
    samples.
    """
    entry = read_value(entries["data.train"].value)
    strategy = recipe.get("mix_strategy")
    if recipe.is_pretraining or not isinstance(entry, list):
        return None
    if strategy is not None and strategy.text.startswith("interleave"):
        return None
    try:
        limits = {one["path"] if isinstance(one, dict) else one: _limit_of(one) for one in entry}
        if sum(map(os.path.getsize, limits)) > _LARGEST_DATA_BYTES:
            return None
        return sum(int(min(estimate_samples([file], "sft", 1), most)) for file, most in limits.items())
    except (OSError, TypeError, KeyError, Refused):
        return None


def _limit_of(entry: object) -> float:
    limit = entry.get("max_samples") if isinstance(entry, dict) else None
    return math.inf if limit is None else limit


def _held_out(recipe: Recipe, samples: int) -> int:
    """Samples that are split off for validation there."""
    part = part_split_off(recipe) or 0
    return part if isinstance(part, int) else math.ceil(part * samples)


def _free_name(path: str) -> str:
    stem, ending = os.path.splitext(path)
    number = 2
    while os.path.lexists(f"{stem}-{number}{ending}"):
        number += 1
    return f"{stem}-{number}{ending}"


def _write(path: str, text: str) -> None:
    """A new file. Raises Refused when it cannot be made."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Refused(not_written(path, error)) from error
