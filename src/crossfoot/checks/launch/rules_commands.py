"""CF418 and CF419: commands that start training and were not held, and those that bash reads otherwise than
their author.
"""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted
from crossfoot.written.launch.statement import Argument, Command, with_named

_MOST_LISTED = 6
_DASHES = {
    "\u2010": "a hyphen",
    "\u2011": "a hyphen",
    "\u2012": "a figure dash",
    "\u2013": "an en dash",
    "\u2014": "an em dash",
    "\u2212": "a minus sign",
    "\ufe63": "a small hyphen",
    "\uff0d": "a full-width hyphen",
}


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
    between two continued lines. An editor makes en dashes of two hyphens, and an input method full-width
    ones; a launcher takes a word that begins with them for the script.
    """
    for file in with_named(facts.launch):
        for command in file.commands:
            yield from _broken(command)


def _broken(command: Command) -> Iterator[Finding]:
    launcher, script = command.launcher, command.script
    if launcher.kind == "python":
        return
    for word in (*((script,) if script else ()), *command.arguments):
        if word.text[:1] in _DASHES:
            yield _dash(word)
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


def _dash(word: Argument) -> Finding:
    right = word.text.lstrip("".join(_DASHES) + "-")
    return Finding(
        "CF419",
        f"{word.text} begins with {_DASHES[word.text[0]]}, and is no option",
        place=word.place,
        helps=(f"write --{right}",),
    )
