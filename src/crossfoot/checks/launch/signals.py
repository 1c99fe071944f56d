"""The warning that SLURM sends before the time limit, and who hears it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

from crossfoot.environment.ending_signals import ENDING
from crossfoot.findings.finding import Finding
from crossfoot.written.launch.held import held_commands
from crossfoot.written.launch.statement import Command, LaunchFile, Option
from crossfoot.written.launch.stating import trains

_SIGNAL = re.compile(r"((?P<to>[RB]+):)?(SIG)?(?P<name>\w[\w+-]*)(@\d+)?", re.ASCII | re.IGNORECASE)
_HEARD = frozenset(number.name.removeprefix("SIG") for number in ENDING)


def unheard_signal(file: LaunchFile) -> Iterator[Finding]:
    """CF472 where no rank, or the wrong process, hears `#SBATCH --signal`."""
    option = file.batch.get("--signal") if file.batch else None
    asked = _SIGNAL.fullmatch(option.value or "") if option else None
    command = next((each for each in held_commands(file) if trains(each)), None)
    if option is None or asked is None or command is None:
        return
    name = _name(asked["name"])
    to_shell = "B" in (asked["to"] or "").upper()
    has_trap = to_shell and name in file.traps
    if name not in _HEARD and not has_trap:
        yield _finding(
            option,
            f"{option.words} warns with a signal that crossfoot does not take for a wish to stop",
            ("write --signal=USR1@120",),
        )
    elif to_shell and not _hears(command, has_trap):
        yield _finding(
            option,
            f"{option.words} warns the batch shell alone, and no rank hears it",
            (
                *_HOW[command.layer("srun") is not None],
                "or exec the command, so that it takes the shell's place",
            ),
            "bash runs a trap only once the command in front is done: start that with & and wait for it"
            if has_trap
            else "",
            command,
        )
    elif not to_shell and command.layer("srun") is None:
        yield _finding(
            option,
            f"{option.words} warns what srun has started, and {command.launcher.kind} is started without it",
            _HOW[False],
            "",
            command,
        )


_UNWARNED = "at the time limit SLURM sends SIGTERM and soon kills: a checkpoint may not be done by then"
_HOW = {
    True: ("leave out B: srun's tasks then get it",),
    False: ("start the command with srun, and leave out B:",),
}


def _hears(command: Command, has_trap: bool) -> bool:
    """Whether a signal to the batch shell reaches a command."""
    return command.takes_over or (has_trap and command.is_background)


def _name(written: str) -> str:
    """Of a signal, without SIG; numbers are looked up."""
    if not written.isdigit():
        return written.upper()
    numbers = {number.value: number.name for number in signal.Signals}
    return numbers.get(int(written[:4]), written).removeprefix("SIG")


def _finding(
    option: Option, title: str, helps: tuple[str, ...], note: str = "", command: Command | None = None
) -> Finding:
    return Finding(
        "CF472",
        title,
        severity="warning",
        place=option.at,
        others=((command.layers[0].place, "started here"),) if command else (),
        notes=(_UNWARNED, *((note,) if note else ())),
        helps=helps,
    )
