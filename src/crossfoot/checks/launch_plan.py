"""What the rules about launch files hold statements against: the plan's nodes, GPUs and ranks, and who owns
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crossfoot.arithmetic.batch import BatchImpossible, Topology, solve_batch
from crossfoot.checks.registry import Facts
from crossfoot.finding import Place
from crossfoot.written.launch.sizes import gpus_told, nodes_told
from crossfoot.written.launch.statement import Command, LaunchFile, with_named
from crossfoot.written.launch.stating import certain_commands


@dataclass(frozen=True)
class Planned:
    """A number that the run is planned on. place: of the config's value, or of the launch file's; None when
    nobody wrote it. owner: `cluster.num_nodes`, or the launch file's option.
    """

    value: int
    place: Place | None
    owner: str
    in_config: bool


def planned_nodes(facts: Facts) -> Planned | None:
    """Nodes; None when neither the config nor a launch file says."""
    return _planned(facts, "num_nodes")


def planned_gpus(facts: Facts) -> Planned | None:
    """GPUs per node; None when neither the config nor a launch file says."""
    return _planned(facts, "gpus_per_node")


def _planned(facts: Facts, key: str) -> Planned | None:
    cluster = facts.run.config.cluster
    value: int | None = getattr(cluster, key)
    if value is not None:
        return Planned(value, facts.run.place("cluster", key), f"cluster.{key}", True)
    nodes = nodes_told(facts.launch)
    if key == "num_nodes":
        said = nodes
    else:
        said = gpus_told(facts.launch, cluster.num_nodes or (int(nodes.value) if nodes else 1))
    if said is None:
        return None
    owner = {"hostfile": "the hostfile", "job": "this job"}.get(said.witness, said.name)
    return Planned(int(said.value), said.place, owner, False)


def planned_ranks(facts: Facts) -> int | None:
    """All ranks, when both factors are known."""
    nodes, gpus = planned_nodes(facts), planned_gpus(facts)
    return nodes.value * gpus.value if nodes and gpus else None


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
    """Samples per step if the cluster had other sizes; None when the batch numbers then contradict."""
    nodes, gpus = planned_nodes(facts), planned_gpus(facts)
    written = facts.run.config.batch
    try:
        topology = Topology(
            gpus_per_node or (gpus.value if gpus else 1), num_nodes or (nodes.value if nodes else 1)
        )
        return solve_batch(
            topology,
            micro_batch_size=written.micro_batch_size,
            grad_accum_steps=written.grad_accum_steps,
            global_batch_size=written.global_batch_size,
        ).global_batch_size
    except BatchImpossible:
        return None


def counted(number: int, thing: str) -> str:
    """`1 node`, `8 nodes`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
