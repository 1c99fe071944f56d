"""What is to be started: a run config, where its ranks shall be, and everything that the targets render."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from crossfoot.arithmetic.batch import Topology
from crossfoot.launch.shell_text import comment
from crossfoot.phrases import counted
from crossfoot.runs.resume_command import MADE_BY
from crossfoot.shell_words import joined

Target = Literal["local", "deepspeed", "slurm", "accelerate", "torchrun"]
Tasks = Literal["rank", "node"]

PORT = 29_500
"""Where rank 0 is met, unless it is said otherwise or taken: the default of every launcher."""


@dataclass(frozen=True)
class LaunchOptions:
    """What the command line asks for. None: not said.

    continued: run folder to go on with; "auto": the config's, if it holds a run. take_over: also when its
    last attempt lives. steps: of a dry run. hostfile, no_ssh, node_rank, address: where the nodes are.
    partition, account, time, cpus_per_task, signal_seconds, tasks, detach: SLURM's.
    """

    target: Target
    continued: str | None = None
    allow: tuple[str, ...] = ()
    take_over: bool = False
    dry_run: bool = False
    steps: int | None = None
    hostfile: str | None = None
    no_ssh: bool = False
    node_rank: int | None = None
    address: str | None = None
    port: int | None = None
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    cpus_per_task: int | None = None
    signal_seconds: int | None = None
    tasks: Tasks | None = None
    detach: bool = False

    @property
    def resume_words(self) -> tuple[str, ...]:
        """How `crossfoot train` is told to go on."""
        words = [] if self.continued is None else ["--continue", self.continued]
        words += ["--take-over"] if self.take_over else []
        for key in self.allow:
            words += ["--allow", key]
        return tuple(words)


@dataclass(frozen=True)
class Job:
    """A start, all but rendered.

    name: of the run. config: path as the commands shall name it. words: behind it. script: a train.py to
    start; None: the module crossfoot. stem: path of the files that are rendered, without their endings.
    made_by: the words after `crossfoot` that render this. tools: folder of deepspeed, torchrun, accelerate
    and python; None when PATH leads there. exports: variables to set. uses_gpus: False on CPUs. visible:
    CUDA_VISIBLE_DEVICES. hosts: of the hostfile, in order.
    """

    name: str
    config: str
    words: tuple[str, ...]
    run_dir: str
    cluster: Topology
    stem: str
    options: LaunchOptions
    made_by: tuple[str, ...] = ()
    script: str | None = None
    tools: str | None = None
    exports: Mapping[str, str] = field(default_factory=dict)
    uses_gpus: bool = True
    visible: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()
    port: int = PORT

    @property
    def num_nodes(self) -> int:
        """Machines."""
        return self.cluster.num_nodes

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.cluster.world_size

    @property
    def is_numbered(self) -> bool:
        """Whether every machine must be told which one it is."""
        options = self.options
        is_numbered = options.no_ssh or options.target == "accelerate"
        is_numbered |= options.target == "torchrun" and not self.cluster.is_even
        return is_numbered and not options.dry_run

    @property
    def address(self) -> str | None:
        """Host of node 0; None when nobody says."""
        return self.options.address or next(iter(self.hosts), None)

    @property
    def reaches_over_ssh(self) -> bool:
        """Whether one launcher here starts the ranks of other machines."""
        return self.options.target == "deepspeed" and not self.options.no_ssh

    def tool(self, name: str) -> str:
        """How a launcher is called from here."""
        return name if self.tools is None else os.path.join(self.tools, name)

    def trained(self, module_option: str = "-m") -> tuple[str, ...]:
        """What the launcher starts on every rank, its words too."""
        program = (module_option, "crossfoot", "train") if self.script is None else (self.script,)
        return (*program, self.config, *self.words)

    @property
    def topology(self) -> str:
        """`2 nodes x 8 GPUs = 16 ranks`."""
        words = self.cluster.in_words("GPU" if self.uses_gpus else "CPU rank")
        return f"{words} = {counted(self.world_size, 'rank')}"

    def heading(self, how: str) -> list[str]:
        """The comment that every rendered file begins with."""
        lines = [comment(f"{self.name}: {self.topology}, {how}")]
        if self.made_by:
            lines.append(comment(f"{MADE_BY}{joined(self.made_by)}"))
        return lines


@dataclass(frozen=True)
class Rendered:
    """What a target renders. files: (path, text), that which is started first. command: what starts it.
    needs: programs that must be here.
    """

    files: tuple[tuple[str, str], ...]
    command: tuple[str, ...]
    needs: tuple[str, ...]


def script_file(lines: list[str]) -> str:
    """The text of a script."""
    return "\n".join(["#!/bin/bash", *lines]) + "\n"


def tools_folder() -> str | None:
    """Where this interpreter's scripts are; None when PATH finds the same ones."""
    own = Path(sys.executable).parent
    found = shutil.which("python")
    if found is not None and Path(found).parent == own:
        return None
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)
