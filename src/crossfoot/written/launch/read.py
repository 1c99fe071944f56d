"""Reads a launch file of whatever kind: its content says which."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.written.launch.accelerate_file import looks_like_accelerate, read_accelerate_file
from crossfoot.written.launch.batch_script import has_directives, read_directives, shell_variables
from crossfoot.written.launch.command_line import Found, Submitted
from crossfoot.written.launch.environment import read_job
from crossfoot.written.launch.findings import broken_accelerate_file, unreadable_launch_file
from crossfoot.written.launch.held import held_commands, not_held
from crossfoot.written.launch.hostfile import looks_like_hostfile, read_hostfile
from crossfoot.written.launch.options import place_of
from crossfoot.written.launch.shell_scope import made_name
from crossfoot.written.launch.shell_tree import OffsetText
from crossfoot.written.launch.statement import (
    Argument,
    Command,
    Defect,
    LaunchFile,
    Layer,
    LayerKind,
    Named,
    StartedConfig,
    Statement,
)
from crossfoot.written.launch.stating import (
    STARTING_VERBS,
    batch_statements,
    certain_commands,
    command_statements,
    is_dry_run,
    training_commands,
    trains,
    writes_node_rank,
)
from crossfoot.written.source import Source, UnreadableText, read_source
from crossfoot.written.yaml_tree import BrokenYaml

__all__ = ["read_job", "read_launch_file"]

LARGEST_CHARACTERS = 1 << 17
"""A script of a person has a few kB, and a hostfile of 5,000 machines 100."""
Naming = Literal["hostfile", "accelerate file"]
_NAMING: tuple[tuple[LayerKind, str, Naming], ...] = (
    ("deepspeed", "--hostfile", "hostfile"),
    ("accelerate", "--config_file", "accelerate file"),
)
_DEEPEST = 3
_SLOTS = re.compile(r"slots=(\d{1,9})", re.ASCII)
DEEPSPEEDS_HOSTFILE = "/job/hostfile"
"""deepspeed's default: where it is not there, it starts on one machine."""
_CONFIG_ENDINGS = (".yaml", ".yml")


def read_launch_file(path: str) -> tuple[LaunchFile | None, tuple[Finding, ...]]:
    """A batch script (#SBATCH), an accelerate file, a hostfile, or else a shell script. None with a finding
    when it cannot be read; findings too for a file that it names and that is there but cannot be read.
    """
    try:
        return _read(_short(path))
    except UnreadableText as error:
        return None, (unreadable_launch_file(error),)
    except Refused as refused:
        return None, refused.findings


def _short(path: str) -> Source:
    source = read_source(path)
    if len(source.text) > LARGEST_CHARACTERS:
        title = f"{path} has {len(source.text):,} characters, and at most {LARGEST_CHARACTERS:,} are read"
        raise UnreadableText(title, Place(path), "give the script that starts the run")
    return source


def _read(source: Source) -> tuple[LaunchFile, tuple[Finding, ...]]:
    if has_directives(source):
        return _script(source, read_directives(source))
    if not source.text.startswith("#!"):
        if looks_like_accelerate(source):
            return _accelerate(source), ()
        if looks_like_hostfile(source):
            return read_hostfile(source), ()
    return _script(source)


def _accelerate(source: Source) -> LaunchFile:
    try:
        return read_accelerate_file(source)
    except BrokenYaml as error:
        raise Refused(broken_accelerate_file(error)) from error


def _script(
    source: Source, directives: tuple[Layer | None, tuple[Defect, ...]] = (None, ()), depth: int = 0
) -> tuple[LaunchFile, tuple[Finding, ...]]:
    """A batch script or, without directives, a shell script: commands, and what both say."""
    batch, defects = directives
    found = Found(source)
    commands = found.commands(None if batch is None else shell_variables(batch))
    file = LaunchFile(source.path, "sbatch" if batch else "shell", batch=batch, commands=commands)
    findings: list[Finding] = []
    named = [*_named(file, found, findings), *_submitted(found, findings, depth)]
    named += [Named("script", word.text, word.place, is_missing=True) for word in found.missing]
    file = replace(file, named=tuple(named))
    file = replace(file, traps=frozenset(found.traps))
    if batch is not None:  # sbatch refuses it first
        found.defects[:] = [each for each in found.defects if each.kind != "dos"]
    defects = (*defects, *dict.fromkeys(found.defects))
    defects = (*defects, *(Defect("not_held", at.place, why) for at, why in not_held(file)))
    config, overrides = _config_of(file)
    return (
        replace(
            file, defects=defects, statements=tuple(_statements(file)), config=config, overrides=overrides
        ),
        tuple(findings),
    )


def _statements(file: LaunchFile) -> Iterator[Statement]:
    said: list[Statement] = []
    held = held_commands(file)
    for command in held:
        said.extend(command_statements(command, file))
    dry = bool(held) and all(is_dry_run(command, command_statements(command, file)) for command in held)
    if file.batch is not None:
        is_one_node = any(writes_node_rank(command) for command in held)
        for statement in batch_statements(file.batch):
            if is_one_node and statement.about == "num_nodes":
                continue  # this node's job, one of several
            if is_one_node and statement.about == "world_size":
                statement = replace(statement, about="gpus_per_node")
            yield replace(statement, dry_run=dry)
    yield from dict.fromkeys(said)


def _named(file: LaunchFile, found: Found, findings: list[Finding]) -> Iterator[Named]:
    """Hostfiles and accelerate files that the commands name. One that the script writes itself is read where
    it stands in the script.
    """
    for command in training_commands(file):
        layer = command.launcher
        for kind, name, what in _NAMING:
            option = layer.get(name) if layer.kind == kind else None
            if option is None or not option.text:
                continue
            if made_name(option.text) in found.made:
                written = _written(found, made_name(option.text), what)
                if written is not None:
                    yield Named(what, option.text, option.place, written)
                continue
            if not option.value or command.folder is None:
                continue
            path = os.path.normpath(os.path.join(command.folder, os.path.expanduser(option.value)))
            missing = "\0" not in path and not os.path.lexists(path)
            yield Named(what, path, option.place, _follow(path, what, option.place, findings), missing)


def _written(found: Found, path: str, what: Naming) -> LaunchFile | None:
    """A file that the script writes itself: a here-document, or lines of a hostfile of which only the slots
    are known.
    """
    text = found.made[path]
    if text is None:
        return None
    if text.is_contiguous:
        return _parse_named(_part_of(found.source, text), what)
    numbers = list(_SLOTS.finditer(text.text)) if what == "hostfile" else []
    if len({number[1] for number in numbers}) != 1:
        return None
    begin, end = numbers[0].span(1)
    place = place_of(found.source, replace(text, text=text.text[begin:end], offsets=text.offsets[begin:end]))
    count, words = int(numbers[0][1]), numbers[0][0]
    said = Statement("gpus_per_node", count, place, words, "hostfile")
    return LaunchFile(f"{found.source.path}:{place.line}", "hostfile", (said,) if count else ())


def _submitted(found: Found, findings: list[Finding], depth: int) -> Iterator[Named]:
    """The batch scripts that a script hands to sbatch."""
    for each in found.submitted if depth < _DEEPEST else ():
        if each.is_document:
            if each.what.is_contiguous:
                part, begin = _part_of(found.source, each.what), each.what.offsets[0]
                yield _submitted_script(part, each.place, found.source.path, each, depth, findings, begin)
            else:
                why = "in a batch script that only the run knows"
                found.defects.append(Defect("not_held", each.place, why))
        elif each.what.is_known and each.folder is not None and made_name(each.what.text) not in found.made:
            path = os.path.normpath(os.path.join(each.folder, os.path.expanduser(each.what.text)))
            try:
                source = _short(path)
            except UnreadableText:
                yield Named("script", each.what.text, each.place, is_missing=True)
            else:
                yield _submitted_script(source, each.place, path, each, depth, findings)


def _submitted_script(
    source: Source,
    place: Place,
    path: str,
    submitted: Submitted,
    depth: int,
    findings: list[Finding],
    begin: int = 0,
) -> Named:
    batch = read_directives(source, begin, submitted.options, submitted.is_wrapped)
    file, more = _script(source, batch, depth + 1)
    findings.extend(more)
    return Named("script", path if begin == 0 else f"{path}:{place.line}", place, file)


def _part_of(source: Source, text: OffsetText) -> Source:
    """A piece of a file, as a file in which every character stands where it stands there."""
    before = re.sub(r"[^\n]", " ", source.text[: text.offsets[0]])
    return Source(source.path, before + text.text)


def _follow(path: str, what: Naming, named_at: Place, findings: list[Finding]) -> LaunchFile | None:
    """The file, None when it is not there or cannot be read."""
    if "\0" in path or not os.path.lexists(path):
        return None
    try:
        return _parse_named(_short(path), what)
    except UnreadableText as error:
        findings.append(unreadable_launch_file(error, named_at))
    except Refused as refused:
        findings.extend(refused.findings)
    return None


def _parse_named(source: Source, what: Naming) -> LaunchFile:
    return read_hostfile(source) if what == "hostfile" else _accelerate(source)


def _config_of(file: LaunchFile) -> tuple[StartedConfig | None, tuple[tuple[str, Place], ...]]:
    """The run config that the first certain command names, and the overrides behind it."""
    for command in certain_commands(file):
        if not trains(command):
            continue
        words = config_words(command)
        if words and (name := words[0].known) is not None and name.endswith(_CONFIG_ENDINGS):
            given = tuple((word.text, word.place) for word in words[1:] if word.known and "=" in word.text)
            return started_config(command, words[0]), given
    return None, ()


def started_config(command: Command, word: Argument) -> StartedConfig:
    """The run config that a word of a command names."""
    path = path_of(command, word.text)
    is_elsewhere = is_out_of_sight(path) or (command.folder is None and not os.path.isabs(path))
    return StartedConfig(path, word.place, is_elsewhere)


def is_out_of_sight(path: str) -> bool:
    """Whether a path may be there on the cluster, and is not on this machine: an absolute one."""
    return os.path.isabs(path) and not os.path.lexists(path)


def config_words(command: Command) -> tuple[Argument, ...]:
    """The words behind the script that are no options, the verb left out: the config and its overrides."""
    words = list(command.arguments)
    if words and words[0].text in STARTING_VERBS and command.script and "crossfoot" in command.script.text:
        words = words[1:]
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.text.startswith("-"):
            skip = word.text in ("--stop-after", "--continue", "--allow", "--local_rank", "--local-rank")
        else:
            kept.append(word)
    return tuple(kept)


def path_of(command: Command, path: str) -> str:
    """A path of the command, relative to where crossfoot runs, when the command's folder is known."""
    return os.path.normpath(os.path.join(command.folder or "", os.path.expanduser(path)))
