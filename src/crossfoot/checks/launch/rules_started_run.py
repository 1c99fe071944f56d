"""CF461 and CF477: which run a launch file starts, if any."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding, Place
from crossfoot.shell_words import quoted_path
from crossfoot.written.launch.read import config_words, started_config
from crossfoot.written.launch.statement import UNKNOWN, Command, LaunchFile, with_named
from crossfoot.written.launch.stating import certain_commands, others_commands, starts_launcher, trains


@rule("CF461", "error", "warning", "note")
def another_run(facts: Facts) -> Iterator[Finding]:
    """CF461: the launch command starts another run than the one that is checked.

    It names another config: what was found right would then not be what trains. A warning when it lacks
    `path=value` words that `check` was given; its own words need not be repeated: `check` reads them from the
    file, each file with its own. A note when its config is not on this machine and has the same name: the one
    that is here was checked in its place. `plan` takes one launch file with words of its own.
    """
    for file in with_named(facts.launch):
        if any(_names(command, facts.run.path) for command in certain_commands(file)[1:]):
            continue  # one of several runs that the script starts in turn
        started = file.config
        if started is not None and not started.is_same(facts.run.path):
            words = f"{quoted_path(started.path)} {quoted_path(file.path)}"
            yield Finding(
                "CF461",
                f"the command starts {started.path}, but {facts.run.path} is checked",
                place=started.place,
                helps=(f"check that one: crossfoot check {words}",),
            )
        elif started is not None:
            if os.path.isabs(started.path) and started.is_elsewhere:
                yield Finding(
                    "CF461",
                    f"{started.path} is not on this machine and was not read; {facts.run.path} was",
                    severity="note",
                    place=started.place,
                )
            yield from _other_overrides(facts, file)
    yield from _mixed(facts)


def _mixed(facts: Facts) -> Iterator[Finding]:
    """Files that start this run with other words than the first one: all would be laid over each other."""
    files = [each for each in facts.launch if each.config is not None and each.config.is_same(facts.run.path)]
    for other in files[1:]:
        if _words(other) != _words(files[0]):
            yield Finding(
                "CF461",
                f"{other.path} starts the run with other words than {files[0].path}",
                place=other.config.place if other.config else None,
                others=((files[0].config.place, "the other start"),) if files[0].config else (),
                helps=("give one launch file at a time; crossfoot check takes them together",),
            )


def _words(file: LaunchFile) -> list[str]:
    return [word for word, _ in file.overrides]


def _names(command: Command, config: str) -> bool:
    return any(started_config(command, word).is_same(config) for word in config_words(command)[:1])


def _other_overrides(facts: Facts, file: LaunchFile) -> Iterator[Finding]:
    """Words that were given to `check`; those of the command are part of what is checked."""
    if file.config is None or _may_hold_more(file):
        return
    there = {word for word, _ in file.overrides}
    for word in facts.run.overrides:
        if word in there:
            continue
        key = word.partition("=")[0]
        other = next(((mine, place) for mine, place in file.overrides if mine.partition("=")[0] == key), None)
        said = f"the command says {other[0]}" if other else "the command starts without it"
        yield Finding(
            "CF461",
            f"checked with {word}, but {said}",
            severity="warning",
            place=other[1] if other else file.config.place,
            helps=(
                f"write {shlex.quote(word)} behind {file.config.path} in the command",
                "or write it into the config",
            ),
        )


def _may_hold_more(file: LaunchFile) -> bool:
    """Whether the command hands on words that only the run can tell, such as "$@"."""
    return any(UNKNOWN in word.text for command in certain_commands(file) for word in command.arguments)


@rule("CF477", "warning", "note")
def starts_nothing(facts: Facts) -> Iterator[Finding]:
    """CF477: a launch file has no command that starts crossfoot, or starts ranks of another program too.

    Commands are found behind srun, bash -c, containers and the like, in variables and arrays of the same
    file, and in scripts that it starts. When the file was given by mistake, leave it out; when it starts a
    script that is not here, give that one; when it starts another trainer, put `train.py CONFIG` in its
    place. Beside a run of crossfoot another program's ranks are a note: nothing about them was checked.
    """
    for file in with_named(facts.launch):
        if file.kind not in ("shell", "sbatch"):
            continue
        others = others_commands(file)
        if any(trains(command) or starts_launcher(command) for command in file.commands):
            if others:
                yield _besides(others[0])
        elif not any(named.what == "script" and named.file for named in file.named) and not _is_open(file):
            missing = [named for named in file.named if named.what == "script"]
            scripts = others or [each for each in file.commands if _called(each).endswith(".py")]
            yield Finding(
                "CF477",
                f"nothing in {file.path} starts crossfoot train",
                severity="warning",
                place=scripts[0].launcher.place if scripts else Place(file.path),
                notes=(
                    *(f"it starts {_called(command)}" for command in scripts[:1]),
                    *(f"it starts {named.path}, which is not on this machine" for named in missing[:1]),
                    "looked for: train.py or crossfoot train, behind deepspeed, torchrun, accelerate or srun",
                ),
                helps=("give the script that has it",)
                if not scripts
                else (f"start crossfoot in its place: train.py {facts.run.path}",),
            )


def _is_open(file: LaunchFile) -> bool:
    """Whether CF418 says that a part of it was not held."""
    return any(defect.kind == "not_held" for defect in file.defects)


def _besides(command: Command) -> Finding:
    return Finding(
        "CF477",
        f"{_called(command)} is started too, and was not checked",
        severity="note",
        place=command.launcher.place,
    )


def _called(command: Command) -> str:
    name = command.script.text.replace(UNKNOWN, "...") if command.script else ""
    return name if command.launcher.kind == "python" else f"{name} (by {command.launcher.kind})"
