"""Reads a file of another trainer, whichever: its content says what it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from crossfoot.findings.finding import Refused
from crossfoot.importing.findings import not_recognised, unreadable
from crossfoot.importing.recipe import Given, Ranks, Recipe, World, origin, read_value
from crossfoot.importing.stacks import PROGRAMS, stack_of
from crossfoot.phrases import listed
from crossfoot.shell_words import quoted_path
from crossfoot.written.launch.accelerate_file import looks_like_accelerate
from crossfoot.written.launch.read import read_launch_file
from crossfoot.written.launch.statement import About, Argument, Command, LaunchFile, Statement, told
from crossfoot.written.launch.stating import command_statements
from crossfoot.written.source import Source, UnreadableText, read_source
from crossfoot.written.yaml_tree import BrokenYaml, Tree, read_tree

_ENDINGS = (".yaml", ".yml", ".json")
_OURS = frozenset(("run", "batch", "lr", "train"))
_OF_LAUNCHERS: Mapping[About, str] = {
    "dtype": "mixed_precision",
    "deepspeed_file": "deepspeed_config_file",
    "zero_stage": "zero_stage",
    "grad_accum_steps": "accelerate.gradient_accumulation_steps",
    "max_grad_norm": "accelerate.gradient_clipping",
}
"""What a launcher may say of the training itself, and what it is called here."""
_PLACEHOLDER = re.compile(r"<[A-Za-z_][\w ./-]*>", re.ASCII)
_DEEPSPEED = frozenset(("zero_optimization", "train_micro_batch_size_per_gpu"))


def read_recipe(path: str) -> Recipe:
    """The recipe in a file, and in the config that its script names. Raises Refused."""
    try:
        source = read_source(path)
    except UnreadableText as error:
        raise Refused(unreadable(error)) from error
    if not source.text.strip():
        raise Refused(not_recognised(path, "it is empty"))
    if not source.text.startswith("#!"):
        try:
            tree = read_tree(source)
        except BrokenYaml as error:
            if path.endswith(_ENDINGS):
                raise Refused(unreadable(error)) from error
        else:
            if isinstance(tree.value, dict):
                return _of_mapping(source, tree)
    if path.endswith((*_ENDINGS, ".py")):
        why = "it is a program" if path.endswith(".py") else "it has no keys"
        raise Refused(not_recognised(path, why))
    return _of_script(path)


def _of_mapping(source: Source, tree: Tree) -> Recipe:
    given = {each.key: each for each in _entries(source, tree)}
    stack = stack_of(frozenset(given))
    if len(_OURS & set(tree.value)) > 2:
        raise Refused(
            not_recognised(
                source.path, "it is a run config of crossfoot", f"crossfoot check {quoted_path(source.path)}"
            )
        )
    if looks_like_accelerate(source):
        help_ = "give the script that starts with it; it is read too"
        raise Refused(not_recognised(source.path, "it is an accelerate file", help_))
    if _DEEPSPEED & set(tree.value):
        help_ = f"name it in the run config: deepspeed: {source.path}"
        raise Refused(not_recognised(source.path, "it is a DeepSpeed file", help_))
    if stack is not None:
        return Recipe(source.path, stack, given)
    keys = listed([str(key) for key in list(tree.value)[:4]])
    raise Refused(not_recognised(source.path, f"its keys are {keys}"))


def _entries(source: Source, tree: Tree) -> Iterator[Given]:
    """The keys of the top level; without a mark there, those of its sections. Numbers stay as written."""
    values: dict[str, Any] = tree.value
    is_flat = stack_of(frozenset(map(_name, values))) is not None
    for key, value in values.items():
        inside = value if isinstance(value, dict) and not is_flat else {key: value}
        for name, each in inside.items():
            place = tree.spots[(key,) if inside is not value else (key, name)].value
            start = source.offset(place)
            is_number = isinstance(each, int | float) and not isinstance(each, bool)
            yield Given(_name(name), source.text[start : start + place.width] if is_number else each, place)


def _name(key: str) -> str:
    return key.lstrip("-").replace("-", "_").lower()


def _of_script(path: str) -> Recipe:
    file, findings = read_launch_file(path)
    if file is None:
        raise Refused(findings)
    started = []
    for command in file.commands:
        program = command.script.text if command.script else ""
        given = {**_of_launcher(file, command), **dict(_options(command.arguments))}
        config = _config(command)
        named = _named(config, command.folder) if config is not None and _takes_config(program) else None
        if named is not None:
            world = _world(file, command, named)
            return replace(named, given={**named.given, **given}, world=world, program=program)
        stack = stack_of(frozenset(given), program)
        if stack is not None and given:
            recipe = Recipe(path, stack, given, program=program)
            return replace(recipe, world=_world(file, command, recipe))
        started.append(program)
    if unfilled := _PLACEHOLDER.search(read_source(path).text):
        why = f"{unfilled[0]} stands in it, which bash reads as a file to read from"
        raise Refused(not_recognised(path, why, f"put what is meant in place of {unfilled[0]}"))
    if started:
        why = f"it starts {listed(list(filter(None, started))) or 'a program'} without an option of a trainer"
        raise Refused(not_recognised(path, why))
    raise Refused(not_recognised(path, "it starts no training"))


def _of_launcher(file: LaunchFile, command: Command) -> dict[str, Given]:
    """What the launcher, or the accelerate file that it names, says of the training itself."""
    files = (replace(file, statements=tuple(command_statements(command, file))), *_named_files(file))
    found = {}
    for about, key in _OF_LAUNCHERS.items():
        said = told(files, about)
        if said is not None and not said.is_implied:
            found[key] = Given(key, said.value, said.place)
    return found


def _named_files(file: LaunchFile) -> Iterator[LaunchFile]:
    """Accelerate files and hostfiles that a script names."""
    return (named.file for named in file.named if named.file is not None and named.what != "script")


def _takes_config(program: str) -> bool:
    return program.rpartition("/")[2] in PROGRAMS or program.endswith(".py")


def _config(command: Command) -> Argument | None:
    """The file that a command gives its trainer alone: `axolotl train FILE`, `train.py FILE`."""
    words = [word for word in command.arguments if word.text not in ("train", "sft")]
    return words[0] if words and words[0].known and words[0].text.endswith(_ENDINGS) else None


def _named(word: Argument, folder: str | None) -> Recipe | None:
    path = os.path.normpath(os.path.join(folder or "", word.text))
    try:
        return read_recipe(path)
    except Refused as refused:
        if os.path.lexists(path):
            raise
        title = f"{path}, which the script names, is not there"
        missing = UnreadableText(title, word.place, f"go to the folder from which it is there: {word.text}")
        raise Refused(unreadable(missing)) from refused


def _options(words: Iterable[Argument]) -> Iterator[tuple[str, Given]]:
    """`--key value`, `--key=value`, `--key` alone, `--key several values`, and `key=value`."""
    option: Argument | None = None
    values: list[Argument] = []
    for word in (*words, None):
        if word is not None and not word.text.startswith("--"):
            if option is not None:
                values.append(word)
            elif "=" in word.text:
                yield _given(word, [])
            continue
        if option is not None:
            yield _given(option, values)
        option, values = word, []


def _given(option: Argument, values: list[Argument]) -> tuple[str, Given]:
    name, equals, glued = option.text.partition("=")
    key = _name(name)
    words = [glued, *(value.text for value in values)] if equals else [value.text for value in values]
    known = all(each.known is not None for each in (option, *values))
    place = values[0].place if values else option.place
    if not words:
        return key, Given(key, True, place)
    value = read_value(words[0]) if len(words) == 1 else [read_value(word) for word in words]
    if isinstance(value, float | int) and not isinstance(value, bool):
        value = words[0]  # as it is written: 1e-4
    return key, Given(key, value, place, known)


def _world(file: LaunchFile, command: Command, recipe: Recipe) -> World:
    """Who trains, as the script says it."""
    said = tuple(command_statements(command, file))
    alone = replace(file, statements=said or file.statements, commands=(command,))
    nodes, gpus = told((alone,), "num_nodes"), told((alone,), "gpus_per_node")
    world = told((alone,), "world_size")
    for named in _named_files(file):
        nodes = _before(nodes, told((named,), "num_nodes"))
        gpus = _before(gpus, told((named,), "gpus_per_node"))
        world = _before(world, told((named,), "world_size"))
    number = _ranks(nodes)
    if gpus is not None and isinstance(gpus.value, int):
        return World(number, _ranks(gpus))
    if world is not None:
        share, rest = divmod(world.number, number.count if number else 1)
        words = (
            world.words
            if share == world.number
            else f"{world.words} on {number.count if number else 1} nodes"
        )
        return World(number, None if rest else Ranks(share, words, origin(world.place)))
    for name in ("NPROC_PER_NODE", "CUDA_VISIBLE_DEVICES"):
        export = command.export(name)
        if export is not None and export.value:
            is_list = name.startswith("CUDA")
            count = len(export.value.split(",")) if is_list else int(export.value)
            is_python = command.launcher.kind == "python" and recipe.stack.name in ("hf", "alpaca2")
            gpus_here = Ranks(count, f"{name}={export.value}", origin(export.place))
            return World(number, gpus_here, is_python and count > 1)
    return World(number)


def _before(one: Statement | None, other: Statement | None) -> Statement | None:
    """What is written before what is only implied."""
    return other if one is None or (one.is_implied and other is not None) else one


def _ranks(said: Statement | None) -> Ranks | None:
    return None if said is None else Ranks(said.number, said.words, origin(said.place))
