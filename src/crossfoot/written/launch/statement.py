"""What launch files say about the run: one statement, one fact, one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossfoot.finding import Place

About = Literal[
    "num_nodes",
    "gpus_per_node",
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


@dataclass(frozen=True)
class Statement:
    """One fact as a launch file states it, in our unit. words: as written there, `--nodes=2`."""

    about: About
    value: int | float | str
    place: Place
    words: str


@dataclass(frozen=True)
class LaunchFile:
    """A launch file, read. config: the run config that its command names; overrides: `path=value` words on
    that command, each with its place.
    """

    path: str
    kind: Literal["hostfile", "sbatch", "shell", "accelerate", "environment"]
    statements: tuple[Statement, ...] = ()
    config: tuple[str, Place] | None = None
    overrides: tuple[tuple[str, Place], ...] = ()
