"""What the rules about launch files hold statements against: the plan's nodes, GPUs and ranks, and who owns
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from crossfoot.arithmetic.batch import BatchImpossible, GpusPerNode, Topology, solve_batch
from crossfoot.checks.registry import Facts
from crossfoot.finding import Place
from crossfoot.written.launch.sizes import gpus_told, nodes_told
from crossfoot.written.launch.statement import Command, LaunchFile, Statement, with_named
from crossfoot.written.launch.stating import certain_commands

T = TypeVar("T")


@dataclass(frozen=True)
class Planned(Generic[T]):
    """A number that the run is planned on. place: of the config's value, or of the launch file's; None when
    nobody wrote it. owner: `cluster.num_nodes`, or the launch file's option.
    """

    value: T
    place: Place | None
    owner: str
    in_config: bool


def planned_nodes(facts: Facts) -> Planned[int] | None:
    """Nodes; None when neither the config nor a launch file says."""
    nodes = facts.run.config.cluster.num_nodes
    if nodes is not None:
        key = "num_nodes" if facts.run.is_written("cluster", "num_nodes") else "gpus_per_node"
        return Planned(nodes, facts.run.place("cluster", key), f"cluster.{key}", True)
    said = nodes_told(facts.launch)
    return Planned(said.number, said.place, _owner(said), False) if said else None


def planned_gpus(facts: Facts) -> Planned[GpusPerNode] | None:
    """GPUs per node; None when neither the config nor a launch file says."""
    cluster = facts.run.config.cluster
    if cluster.gpus_per_node is not None:
        place = facts.run.place("cluster", "gpus_per_node")
        return Planned(cluster.gpus_per_node, place, "cluster.gpus_per_node", True)
    nodes = planned_nodes(facts)
    said = gpus_told(facts.launch, nodes.value if nodes else 1)
    return Planned(said.gpus, said.place, _owner(said), False) if said else None


def _owner(said: Statement) -> str:
    return {"hostfile": "the hostfile", "job": "this job"}.get(said.witness, said.name)


def planned_topology(facts: Facts) -> Topology | None:
    """Nodes and GPUs, when both are known, and are of the same nodes."""
    nodes, gpus = planned_nodes(facts), planned_gpus(facts)
    if nodes is None or gpus is None:
        return None
    if isinstance(gpus.value, tuple) and len(gpus.value) != nodes.value:
        return None
    return Topology(gpus.value, nodes.value)


def planned_ranks(facts: Facts) -> int | None:
    """All ranks, when both factors are known."""
    topology = planned_topology(facts)
    return topology.world_size if topology else None


def nodes_or_one(facts: Facts) -> int:
    """The plan's nodes, one when nobody says."""
    nodes = planned_nodes(facts)
    return nodes.value if nodes else 1


def commands(facts: Facts) -> Iterator[tuple[LaunchFile, Command]]:
    """Every command that is certain to start training, with its file."""
    for file in with_named(facts.launch):
        for command in certain_commands(file):
            yield file, command


def samples_with(facts: Facts, num_nodes: int | None = None, gpus_per_node: int | None = None) -> int | None:
    """Samples per step if the cluster had other sizes; None when the batch numbers then contradict, or when
    nobody knows what the nodes would have.
    """
    gpus = planned_gpus(facts)
    each = gpus_per_node or (gpus.value if gpus else 1)
    if isinstance(each, tuple):
        return None
    written = facts.run.config.batch
    try:
        return solve_batch(
            Topology(each, num_nodes or nodes_or_one(facts)),
            micro_batch_size=written.micro_batch_size,
            grad_accum_steps=written.grad_accum_steps,
            global_batch_size=written.global_batch_size,
        ).global_batch_size
    except BatchImpossible:
        return None
