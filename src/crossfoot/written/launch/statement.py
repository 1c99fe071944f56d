"""What launch files say about the run: one statement, one fact, one place; and the commands that say it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from crossfoot.findings.finding import Place
from crossfoot.written.source import same_file

About = Literal[
    "num_nodes",
    "gpus_per_node",
    "gpus_by_node",
    "world_size",
    "micro_batch_size",
    "grad_accum_steps",
    "global_batch_size",
    "learning_rate",
    "dtype",
    "max_grad_norm",
    "zero_stage",
    "deepspeed_file",
]
Witness = Literal["allocation", "launcher", "hostfile", "settings", "job"]
"""Who speaks: an #SBATCH line, a launcher's option, a hostfile, an accelerate file, SLURM's variables."""
LayerKind = Literal["sbatch", "srun", "deepspeed", "torchrun", "accelerate", "python"]
UNKNOWN = "\x00"
"""Stands in a word for text that cannot be known before the run, such as `$(hostname)`."""
JOBS_OWN = "\x01"
"""Stands behind UNKNOWN where the job itself says it: SLURM's variables, the GPUs that the machine has."""


@dataclass(frozen=True)
class Statement:
    """One fact as a launch file states it, in our unit. words: as written there, `--nodes=2`. A value about
    gpus_by_node has a number for each node, for nodes that are not alike.

    used_at: the command that uses the number, when it is written elsewhere (N=8 ... --num_gpus $N).
    is_default: an exported variable may overrule it (`${N:-8}`). is_implied: nothing is written; it is what
    the launcher does then. dry_run: the command starts one process, which folds the plan: no contradiction.
    """

    about: About
    value: int | float | str | tuple[int, ...]
    place: Place
    words: str
    witness: Witness = "launcher"
    used_at: Place | None = None
    is_default: bool = False
    is_implied: bool = False
    dry_run: bool = False

    @property
    def number(self) -> int:
        """The value, where nodes, GPUs or ranks are counted. A list: ValueError."""
        if isinstance(self.value, tuple):
            raise ValueError(f"{self.value} is not one number")
        return int(self.value)

    @property
    def gpus(self) -> int | tuple[int, ...]:
        """The value, where it is about the GPUs of nodes."""
        return self.value if isinstance(self.value, tuple) else self.number

    @property
    def name(self) -> str:
        """The words without the value: `--nodes`, `num_machines`."""
        return re.split(r"[:= ]", self.words, maxsplit=1)[0]


@dataclass(frozen=True)
class Argument:
    """One word of a command. text: with UNKNOWN for what cannot be known. place: where it is written."""

    text: str
    place: Place
    is_default: bool = False

    @property
    def known(self) -> str | None:
        """The text, None when a part of it cannot be known."""
        return None if UNKNOWN in self.text else self.text


@dataclass(frozen=True)
class Option:
    """An option of a launcher. name: its full name in the launcher's table. value: None when it takes none,
    or cannot be known; text: the same with UNKNOWN for what cannot be. place: of the value, or of the option
    when it has none. at: of the option.
    """

    name: str
    value: str | None
    place: Place
    at: Place
    words: str
    is_default: bool = False
    text: str = ""

    @property
    def number(self) -> int | None:
        """The value as a whole number, None when it is none."""
        text = (self.value or "").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None

    def states(
        self,
        about: About,
        value: int | float | str | tuple[int, ...],
        witness: Witness = "launcher",
        words: str = "",
    ) -> Statement:
        """What this option says, as a statement."""
        used_at = self.at if self.at.line != self.place.line else None
        return Statement(about, value, self.place, words or self.words, witness, used_at, self.is_default)


@dataclass(frozen=True)
class Layer:
    """One launcher of a command, with its options. unknown: options that it does not have. is_complete: False
    when further options may hide in a word that cannot be known.
    """

    kind: LayerKind
    place: Place
    options: tuple[Option, ...] = ()
    unknown: tuple[Option, ...] = ()
    is_complete: bool = True

    def get(self, *names: str) -> Option | None:
        """The last of the options with one of these names: that one holds."""
        return next((option for option in reversed(self.options) if option.name in names), None)

    def lacks(self, *names: str) -> bool:
        """True when it is certain that none of these options is given."""
        return self.is_complete and self.get(*names) is None


@dataclass(frozen=True)
class Export:
    """A variable that a command finds in its environment; value None: not known."""

    name: str
    value: str | None
    place: Place


@dataclass(frozen=True)
class Alternative:
    """One of several ways of which exactly one runs. choice: a number for the place of the choice."""

    choice: int
    way: int
    ways: int


@dataclass(frozen=True)
class Command:
    """A command that starts training. layers: outermost launcher first, at least one. script: what is started
    in the end; None when it cannot be known.

    doubt: why it may not run, or not here; "" when it does. alternative: where that is only since one of
    several ways runs. folder: where it runs, relative to where crossfoot runs; None when that cannot be
    known. inherited: exports that srun found. is_background: the shell goes on meanwhile; takes_over: it
    takes the shell's place (exec).
    """

    layers: tuple[Layer, ...]
    script: Argument | None = None
    arguments: tuple[Argument, ...] = ()
    exports: tuple[Export, ...] = ()
    doubt: str = ""
    alternative: Alternative | None = None
    folder: str | None = ""
    inherited: tuple[Export, ...] = ()
    is_background: bool = False
    takes_over: bool = False

    def layer(self, *kinds: LayerKind) -> Layer | None:
        """The innermost layer of one of these kinds."""
        return next((layer for layer in reversed(self.layers) if layer.kind in kinds), None)

    @property
    def launcher(self) -> Layer:
        """The layer that makes the ranks: the innermost real launcher, else srun, else the shell's python."""
        return self.layer("deepspeed", "torchrun", "accelerate") or self.layer("srun") or self.layers[-1]

    def export(self, name: str) -> Export | None:
        """The exported variable of that name."""
        return next((export for export in self.exports if export.name == name), None)


@dataclass(frozen=True)
class Host:
    """A line of a hostfile. place: of the name; slots_place: of the number."""

    name: str
    slots: int
    place: Place
    slots_place: Place


@dataclass(frozen=True)
class Setting:
    """A value of an accelerate file, with the dotted path of its key."""

    path: str
    value: object
    place: Place

    @property
    def words(self) -> str:
        """`num_processes: 16`."""
        return f"{self.path}: {self.value}"


@dataclass(frozen=True)
class Defect:
    """Something in a launch file that its reader would not take as its author meant it. kind: of which sort,
    see the rules; words: for the reader; near: what was probably meant; name: what the mistake is called.
    """

    kind: str
    place: Place
    words: str = ""
    near: str = ""
    first: Place | None = None
    name: str = ""


@dataclass(frozen=True)
class Named:
    """A file that a command names and that was looked for. path: relative to where crossfoot runs."""

    what: Literal["hostfile", "accelerate file", "script"]
    path: str
    place: Place
    file: LaunchFile | None = None
    is_missing: bool = False


@dataclass(frozen=True)
class StartedConfig:
    """The run config that a command names. path: relative to where crossfoot runs. is_elsewhere: that cannot
    be looked at from here: an absolute path that is not on this machine, or the folder is not known.
    """

    path: str
    place: Place
    is_elsewhere: bool = False

    def is_same(self, config: str) -> bool:
        """Whether it is this run config, as far as it can be seen from here."""
        if self.is_elsewhere and os.path.basename(self.path) == os.path.basename(config):
            return True
        return same_file(self.path, config)


@dataclass(frozen=True)
class LaunchFile:
    """A launch file, read. config: the run config that its command names; overrides: `path=value` words on
    that command, each with its place.

    batch: its #SBATCH directives. commands: those that start training, in order. hosts, settings: of a
    hostfile, of an accelerate file. named: files that its commands name. traps: signals for which its shell
    has a trap, without SIG.
    """

    path: str
    kind: Literal["hostfile", "sbatch", "shell", "accelerate", "environment"]
    statements: tuple[Statement, ...] = ()
    config: StartedConfig | None = None
    overrides: tuple[tuple[str, Place], ...] = ()
    batch: Layer | None = None
    commands: tuple[Command, ...] = ()
    hosts: tuple[Host, ...] = ()
    settings: tuple[Setting, ...] = ()
    named: tuple[Named, ...] = ()
    defects: tuple[Defect, ...] = ()
    traps: frozenset[str] = frozenset()

    def setting(self, path: str) -> Setting | None:
        """The setting with that dotted path."""
        return next((setting for setting in self.settings if setting.path == path), None)


def with_named(files: Iterable[LaunchFile]) -> Iterator[LaunchFile]:
    """The files, and those that they name, each path once."""
    seen: set[tuple[str, str]] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop(0)
        if (file.path, file.kind) in seen:  # a script may write a hostfile
            continue
        seen.add((file.path, file.kind))
        yield file
        waiting.extend(named.file for named in file.named if named.file is not None)


def _speaking(files: Iterable[LaunchFile]) -> Iterator[LaunchFile]:
    """The files, and the batch scripts that they submit."""
    for file in files:
        yield file
        yield from _speaking(named.file for named in file.named if named.file and named.what == "script")


def statements(files: Iterable[LaunchFile], *about: About) -> tuple[Statement, ...]:
    """What the files say about these facts. A file that another one names speaks only through that one."""
    files = tuple(_speaking(files))
    through = {named.path for file in files for named in file.named if named.what != "script"}
    return tuple(
        statement
        for file in files
        if file.path not in through
        for statement in file.statements
        if statement.about in about
    )


def told(files: Iterable[LaunchFile], *about: About) -> Statement | None:
    """The statement that counts for a fact: what is written before what is only implied, else the first."""
    found = statements(files, *about)
    return next((each for each in found if not each.is_implied), found[0] if found else None)
