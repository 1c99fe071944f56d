"""CF418 and CF419: commands that start training and were not held, and those that bash reads otherwise than
their author.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted
from crossfoot.written.launch.statement import Command, Defect, with_named

_MOST_LISTED = 6


@rule("CF418", "warning")
def command_not_held(facts: Facts) -> Iterator[Finding]:
    """CF418: a command starts training, and what it states was not held against the plan.

    A script is read as bash would run it, and nothing is executed: a command in an `if`, a `case`, or behind
    `||` may run or not; one that ssh or mpirun starts runs elsewhere, and in a variable that only the run
    knows its words cannot be seen. Where every branch of an `if` or `case` states the same it is held; so is
    a loop over written words, and a function where the script calls it. The others are listed, for a check
    by eye. mpirun starts no rank of crossfoot: deepspeed, torchrun, accelerate and srun do.
    """
    for file in with_named(facts.launch):
        found = [defect for defect in file.defects if defect.kind == "not_held"]
        if found:
            commands = counted(len(found), "command that starts training", "commands that start training")
            yield Finding(
                "CF418",
                f"{file.path} has {commands}, not held against the plan",
                severity="warning",
                place=found[0].place,
                label=found[0].words,
                others=tuple((defect.place, defect.words) for defect in found[1:_MOST_LISTED]),
                helps=("compare nodes, GPUs and ranks there with the plan: crossfoot plan shows it",),
            )


@rule("CF419")
def broken_command(facts: Facts) -> Iterator[Finding]:
    """CF419: bash reads a launch command otherwise than its author meant it.

    A line that goes on ends in a backslash, with nothing behind it: a blank there hands the launcher an
    argument that is one blank, and the next line is a command of its own. So is what follows a comment
    between two continued lines. Windows line ends put a carriage return behind every last word. An editor
    makes en dashes of two hyphens, an input method full-width signs, a web page curly quotes and blanks that
    are none: bash hands them on as they are, and a launcher takes such a word for the script. The rest of the
    file is checked as it was meant. The same characters in an #SBATCH line, in a hostfile or in accelerate's
    file are named here too.
    """
    for file in with_named(facts.launch):
        yield from _look_alikes([defect for defect in file.defects if defect.kind == "look_alike"])
        for defect in file.defects:
            if defect.kind == "dos" and file.kind != "sbatch":
                yield Finding(
                    "CF419",
                    f"{defect.place.file} has Windows line ends: bash takes each \\r for a part of its line",
                    place=defect.place,
                    helps=("save it with Unix line ends (dos2unix)",),
                )
        for command in file.commands:
            yield from _broken(command)


def _look_alikes(found: Sequence[Defect]) -> Iterator[Finding]:
    """Words whose characters only look plain: one finding for a file."""
    if not found:
        return
    first, more = found[0], found[1:]
    title = f"{first.words} has {first.name}, and is not {first.near}"
    yield Finding(
        "CF419",
        title,
        place=first.place,
        others=tuple((each.place, f"{each.name} here") for each in more[:_MOST_LISTED]),
        notes=(f"{counted(len(more), 'word')} more in this file",) if more else (),
        helps=tuple(dict.fromkeys(f"write {each.near}" for each in found[:_MOST_LISTED])),
    )


def _broken(command: Command) -> Iterator[Finding]:
    launcher, script = command.launcher, command.script
    if launcher.kind == "python":
        return
    if script is not None and script.known is not None and not script.text.strip():
        yield Finding(
            "CF419",
            f"{launcher.kind} is given a blank in place of the script",
            place=script.place,
            notes=("a blank stands behind the backslash, so bash ends the command with this line",),
            helps=("remove what stands behind the backslash",),
        )
    elif script is None and launcher.is_complete and not launcher.get("--help", "--version"):
        yield Finding(
            "CF419",
            f"{launcher.kind} is given no script: bash ends the command before one",
            place=launcher.place,
            notes=("a comment, or a line without a backslash, ends a command",),
            helps=("end every line but the last with a backslash, and put comments above the command",),
        )
