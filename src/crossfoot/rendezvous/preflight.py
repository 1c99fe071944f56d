"""What all ranks say of themselves, compared: are they one run, on devices of their own? Plain facts
in, findings out; no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted, listed
from crossfoot.rendezvous.devices import CPU, CUDA
from crossfoot.rendezvous.findings import (
    code_differs,
    configs_differ,
    data_differs,
    deepspeed_files_differ,
    device_beyond,
    device_shared,
    devices_mixed,
    libraries_differ,
    models_differ,
    others_differ,
    worlds_differ,
)
from crossfoot.rendezvous.rank_info import Facts, RankInfo

_SHOWN = 5
_ABSENT = "absent"
PartFinding = Callable[[str, Sequence[str]], Finding]
PARTS: dict[str, PartFinding] = {
    "config": configs_differ,
    "deepspeed": deepspeed_files_differ,
    "data": data_differs,
    "model": models_differ,
    "code": code_differs,
    "libraries": libraries_differ,
    "beside": others_differ,
}


def disagreements(rank_infos: Sequence[RankInfo]) -> tuple[Finding, ...]:
    """Everything in which the ranks are not one run; errors before warnings. rank_infos: in rank order."""
    findings = [*_own(rank_infos), *_shapes(rank_infos), *_parts(rank_infos), *_devices(rank_infos)]
    return tuple(sorted(findings, key=lambda finding: finding.severity != "error"))


def ranks_per_node(rank_infos: Sequence[RankInfo]) -> tuple[int, ...]:
    """How many ranks each node really has, in the order of the nodes' numbers."""
    return tuple(len(ranks) for ranks in _nodes(rank_infos).values())


def where(ranks: Sequence[RankInfo], everyone: Sequence[RankInfo]) -> str:
    """Some ranks in few words: "node2" when they are all ranks of that host, else "rank 1 on node2"."""
    hosts = list(dict.fromkeys(rank_info.host for rank_info in ranks))
    whole = {rank_info.rank for rank_info in everyone if rank_info.host in hosts}
    if whole == {rank_info.rank for rank_info in ranks} and len(hosts) < len({one.host for one in everyone}):
        return " and ".join(hosts)
    numbers = ", ".join(str(rank_info.rank) for rank_info in ranks)
    return f"rank{'s' if len(ranks) > 1 else ''} {numbers} on {' and '.join(hosts)}"


def _own(rank_infos: Sequence[RankInfo]) -> Iterator[Finding]:
    """What single ranks were refused for, once each; where not, when it is not so on all hosts."""
    hosts = {rank_info.host for rank_info in rank_infos}
    for finding in dict.fromkeys(finding for rank_info in rank_infos for finding in rank_info.refused):
        ranks = [rank_info for rank_info in rank_infos if finding in rank_info.refused]
        is_local = ranks[0].rank != 0 and {rank_info.host for rank_info in ranks} != hosts
        yield (
            replace(finding, notes=(*finding.notes, f"so it is on {where(ranks, rank_infos)}"))
            if is_local
            else finding
        )


def _shapes(rank_infos: Sequence[RankInfo]) -> Iterator[Finding]:
    """Every rank must have been told the same world, and that world must be the one that came."""
    shapes: dict[tuple[str, int, int], list[RankInfo]] = defaultdict(list)
    for rank_info in rank_infos:
        shapes[rank_info.launcher, rank_info.world_size, rank_info.num_nodes].append(rank_info)
    if len(shapes) > 1:
        yield worlds_differ(
            [
                f"{where(ranks, rank_infos)}: {launcher} says "
                f"{counted(size, 'rank')} on {counted(nodes, 'node')}"
                for (launcher, size, nodes), ranks in shapes.items()
            ]
        )
        return
    nodes = _nodes(rank_infos)
    wrong = [
        f"rank {rank.rank} on {rank.host} was told {counted(rank.local_world_size, 'rank')} for its node, "
        f"and node {node} has {len(ranks)}"
        for node, ranks in nodes.items()
        for rank in ranks
        if rank.local_world_size != len(ranks)
    ]
    wrong += [
        f"node {node} is {listed(sorted({rank.host for rank in ranks}))}"
        for node, ranks in nodes.items()
        if len({rank.host for rank in ranks}) > 1
    ]
    if len(nodes) != rank_infos[0].num_nodes:
        wrong.append(
            f"{counted(rank_infos[0].num_nodes, 'node')} were told, and ranks came from {len(nodes)}"
        )
    if wrong:
        yield worlds_differ(wrong)


def _nodes(rank_infos: Sequence[RankInfo]) -> dict[int, list[RankInfo]]:
    """The ranks of each node, by the node's number."""
    nodes: dict[int, list[RankInfo]] = {
        number: [] for number in sorted({one.node_rank for one in rank_infos})
    }
    for rank_info in rank_infos:
        nodes[rank_info.node_rank].append(rank_info)
    return nodes


def _parts(rank_infos: Sequence[RankInfo]) -> Iterator[Finding]:
    """Rank 0's parts are the ones the others are held against; one finding for each part."""
    first = rank_infos[0]
    is_missing = any(one.code == "CF060" for rank_info in rank_infos for one in rank_info.refused)
    for part, finding in PARTS.items():
        if part == "model" and is_missing:  # which says it all
            continue
        others: dict[tuple[tuple[str, str], ...], list[RankInfo]] = defaultdict(list)
        mine = first.parts.get(part, {})
        for rank_info in rank_infos:
            theirs = rank_info.parts.get(part, {})
            if theirs != mine:
                others[tuple(sorted(theirs.items()))].append(rank_info)
        if not others:
            continue
        differing = [rank_info for ranks in others.values() for rank_info in ranks]
        alike = [rank_info for rank_info in rank_infos if rank_info not in differing]
        notes: list[str] = []
        for facts, ranks in others.items():
            notes += _differences(dict(facts), where(ranks, rank_infos), mine, where(alike, rank_infos))
            if part in first.origins and first.origins[part] != ranks[0].origins.get(part):
                notes += [
                    f"{where(alike, rank_infos)}: {first.origins[part]}",
                    f"{where(ranks, rank_infos)}: {ranks[0].origins.get(part, '')}",
                ]
        if part == "libraries":
            names = {name for facts in others for name in _names(dict(facts), mine)}
            yield finding(f"{listed(sorted(names))} on {where(differing, rank_infos)}", notes)
        else:
            yield finding(f"on {where(differing, rank_infos)}", notes)


def _differences(theirs: Facts, they: str, mine: Facts, we: str) -> Iterator[str]:
    names = _names(theirs, mine)
    for name in names[:_SHOWN]:
        yield f"{name}: {mine.get(name, _ABSENT)} on {we}, {theirs.get(name, _ABSENT)} on {they}"
    if len(names) > _SHOWN:
        yield f"and {len(names) - _SHOWN} more"


def _names(theirs: Facts, mine: Facts) -> list[str]:
    return [name for name in {**mine, **theirs} if theirs.get(name) != mine.get(name)]


def _devices(rank_infos: Sequence[RankInfo]) -> Iterator[Finding]:
    """A device for every rank, and one rank for every device."""
    without = [rank_info for rank_info in rank_infos if rank_info.device.kind == CPU]
    if without and len(without) < len(rank_infos):
        others = [rank_info for rank_info in rank_infos if rank_info not in without]
        yield devices_mixed(
            [
                f"{where(without, rank_infos)}: no GPU",
                f"{where(others, rank_infos)}: {others[0].device.name or others[0].device.kind}",
            ]
        )
    for rank_info in rank_infos:
        device = rank_info.device
        if device.kind == CUDA and device.index is None:
            yield device_beyond(
                rank_info.rank,
                rank_info.host,
                rank_info.local_rank,
                rank_info.local_world_size,
                device.visible,
            )
    holders: dict[tuple[str, str], list[RankInfo]] = defaultdict(list)
    for rank_info in rank_infos:
        if identity := rank_info.device.identity:
            holders["" if identity.startswith("uuid") else rank_info.host, identity].append(rank_info)
    for (_, identity), ranks in holders.items():
        if len(ranks) > 1:
            numbers, devices = [rank.rank for rank in ranks], [rank.device for rank in ranks]
            hosts = listed(sorted({rank.host for rank in ranks}))
            yield device_shared(numbers, hosts, identity, devices)
