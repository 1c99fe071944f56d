"""What the rules about launch files hold statements against: the plan's nodes, GPUs and ranks, and who owns
them.
"""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.batch import BatchImpossible, GpusPerNode, Topology, solve_batch
from crossfoot.checks.registry import Facts
from crossfoot.written.launch.sizes import Planned, gpus_written, nodes_written
from crossfoot.written.launch.statement import Command, LaunchFile, with_named
from crossfoot.written.launch.stating import certain_commands


def planned_nodes(facts: Facts) -> Planned[int] | None:
    """Nodes; None when neither the config nor a launch file says."""
    return nodes_written(facts.run, facts.launch)


def planned_gpus(facts: Facts) -> Planned[GpusPerNode] | None:
    """GPUs per node; None when neither the config nor a launch file says."""
    return gpus_written(facts.run, facts.launch, nodes_or_one(facts))


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
    topology = Topology(each, num_nodes or nodes_or_one(facts))
    try:
        return solve_batch(topology, **facts.run.config.batch_numbers).global_batch_size
    except BatchImpossible:
        return None
