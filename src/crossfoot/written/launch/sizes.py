"""Nodes and GPUs per node as people wrote them: `cluster` owns both, and what it leaves out the launch files
tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from crossfoot.arithmetic.batch import GpusPerNode
from crossfoot.findings.finding import Place
from crossfoot.written.launch.statement import LaunchFile, Statement, told
from crossfoot.written.run_file import RunFile

T = TypeVar("T")


@dataclass(frozen=True)
class Planned(Generic[T]):
    """A number that the run is planned on. place: of the config's value, or of the launch file's; None when
    nobody wrote it. owner: `cluster.num_nodes`, or the launch file's option. origin: who says it, for the
    plan's page.
    """

    value: T
    place: Place | None
    owner: str
    origin: str
    in_config: bool


def nodes_written(run: RunFile, launch: Sequence[LaunchFile]) -> Planned[int] | None:
    """Nodes; None when neither the config nor a launch file says. A list of GPUs says the nodes too."""
    nodes = run.config.cluster.num_nodes
    if nodes is not None:
        return _in_config(
            run, "num_nodes" if run.is_written("cluster", "num_nodes") else "gpus_per_node", nodes
        )
    said = told(launch, "num_nodes")
    return _in_launch("num_nodes", said, said.number) if said else None


def gpus_written(run: RunFile, launch: Sequence[LaunchFile], num_nodes: int) -> Planned[GpusPerNode] | None:
    """GPUs per node; None when neither the config nor a launch file says. A number of ranks in all is divided
    by the nodes, when it divides.
    """
    gpus = run.config.cluster.gpus_per_node
    if gpus is not None:
        return _in_config(run, "gpus_per_node", gpus)
    said = told(launch, "gpus_per_node", "gpus_by_node")
    total = told(launch, "world_size")
    if said is None and total is not None and num_nodes > 0:
        share, rest = divmod(total.number, num_nodes)
        said = replace(total, about="gpus_per_node", value=share) if share and not rest else None
    return _in_launch("gpus_per_node", said, said.gpus) if said else None


def _in_config(run: RunFile, key: str, value: T) -> Planned[T]:
    return Planned(value, run.place("cluster", key), f"cluster.{key}", run.origin("cluster", key), True)


def _in_launch(key: str, said: Statement, value: T) -> Planned[T]:
    owner = {"hostfile": "the hostfile", "job": "this job"}.get(said.witness, said.name)
    where = f"{said.place.file}:{said.place.line}" if said.place.line else said.words
    return Planned(value, said.place, owner, f"cluster.{key}   {where}", False)
