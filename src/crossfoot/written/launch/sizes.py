"""Nodes and GPUs per node as the launch files tell them: what a config without `cluster` is planned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossfoot.written.launch.statement import LaunchFile, Statement, told


def nodes_told(files: Sequence[LaunchFile]) -> Statement | None:
    """The number of nodes, and who says it."""
    return told(files, "num_nodes")


def gpus_told(files: Sequence[LaunchFile], num_nodes: int | None) -> Statement | None:
    """GPUs per node, and who says it; a number of ranks in all is divided by the nodes, when it divides."""
    stated = told(files, "gpus_per_node", "gpus_by_node")
    total = told(files, "world_size")
    if stated is not None or total is None or not num_nodes:
        return stated
    share, rest = divmod(total.number, num_nodes)
    return replace(total, about="gpus_per_node", value=share) if share and not rest else None
