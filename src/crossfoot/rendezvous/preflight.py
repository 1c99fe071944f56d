"""The accounts of all ranks, held against each other: are they one run, on devices of their own? Plain facts
in, findings out; no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

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
from crossfoot.rendezvous.rank_info import Account, Facts

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


def disagreements(accounts: Sequence[Account]) -> tuple[Finding, ...]:
    """Everything in which the ranks are not one run; errors before warnings. accounts: in rank order."""
    findings = [*_own(accounts), *_shapes(accounts), *_parts(accounts), *_devices(accounts)]
    return tuple(sorted(findings, key=lambda finding: finding.severity != "error"))


def ranks_per_node(accounts: Sequence[Account]) -> tuple[int, ...]:
    """How many ranks each node really has, in the order of the nodes' numbers."""
    return tuple(len(ranks) for ranks in _nodes(accounts).values())


def where(ranks: Sequence[Account], everyone: Sequence[Account]) -> str:
    """Some ranks in few words: "node2" when they are all ranks of that host, else "rank 1 on node2"."""
    hosts = list(dict.fromkeys(account.host for account in ranks))
    whole = {account.rank for account in everyone if account.host in hosts}
    if whole == {account.rank for account in ranks} and len(hosts) < len({one.host for one in everyone}):
        return " and ".join(hosts)
    numbers = ", ".join(str(account.rank) for account in ranks)
    return f"rank{'s' if len(ranks) > 1 else ''} {numbers} on {' and '.join(hosts)}"


def _own(accounts: Sequence[Account]) -> Iterator[Finding]:
    """What single ranks were refused for, once each."""
    yield from dict.fromkeys(finding for account in accounts for finding in account.refused)


def _shapes(accounts: Sequence[Account]) -> Iterator[Finding]:
    """Every rank must have been told the same world, and that world must be the one that came."""
    shapes: dict[tuple[str, int, int], list[Account]] = defaultdict(list)
    for account in accounts:
        shapes[account.launcher, account.world_size, account.num_nodes].append(account)
    if len(shapes) > 1:
        yield worlds_differ(
            [
                f"{where(ranks, accounts)}: {launcher} says "
                f"{counted(size, 'rank')} on {counted(nodes, 'node')}"
                for (launcher, size, nodes), ranks in shapes.items()
            ]
        )
        return
    nodes = _nodes(accounts)
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
    if len(nodes) != accounts[0].num_nodes:
        wrong.append(f"{counted(accounts[0].num_nodes, 'node')} were told, and ranks came from {len(nodes)}")
    if wrong:
        yield worlds_differ(wrong)


def _nodes(accounts: Sequence[Account]) -> dict[int, list[Account]]:
    """The ranks of each node, by the node's number."""
    nodes: dict[int, list[Account]] = {number: [] for number in sorted({one.node_rank for one in accounts})}
    for account in accounts:
        nodes[account.node_rank].append(account)
    return nodes


def _parts(accounts: Sequence[Account]) -> Iterator[Finding]:
    """Rank 0's parts are the ones the others are held against; one finding for each part."""
    first = accounts[0]
    for part, finding in PARTS.items():
        others: dict[tuple[tuple[str, str], ...], list[Account]] = defaultdict(list)
        mine = first.parts.get(part, {})
        for account in accounts:
            theirs = account.parts.get(part, {})
            if theirs != mine:
                others[tuple(sorted(theirs.items()))].append(account)
        if not others:
            continue
        differing = [account for ranks in others.values() for account in ranks]
        alike = [account for account in accounts if account not in differing]
        notes: list[str] = []
        for facts, ranks in others.items():
            notes += _differences(dict(facts), where(ranks, accounts), mine, where(alike, accounts))
            if part in first.origins and first.origins[part] != ranks[0].origins.get(part):
                notes += [
                    f"{where(alike, accounts)}: {first.origins[part]}",
                    f"{where(ranks, accounts)}: {ranks[0].origins.get(part, '')}",
                ]
        if part == "libraries":
            names = {name for facts in others for name in _names(dict(facts), mine)}
            yield finding(f"{listed(sorted(names))} on {where(differing, accounts)}", notes)
        else:
            yield finding(f"on {where(differing, accounts)}", notes)


def _differences(theirs: Facts, they: str, mine: Facts, we: str) -> Iterator[str]:
    names = _names(theirs, mine)
    for name in names[:_SHOWN]:
        yield f"{name}: {mine.get(name, _ABSENT)} on {we}, {theirs.get(name, _ABSENT)} on {they}"
    if len(names) > _SHOWN:
        yield f"and {len(names) - _SHOWN} more"


def _names(theirs: Facts, mine: Facts) -> list[str]:
    return [name for name in {**mine, **theirs} if theirs.get(name) != mine.get(name)]


def _devices(accounts: Sequence[Account]) -> Iterator[Finding]:
    """A device for every rank, and one rank for every device."""
    without = [account for account in accounts if account.device.kind == CPU]
    if without and len(without) < len(accounts):
        others = [account for account in accounts if account not in without]
        yield devices_mixed(
            [
                f"{where(without, accounts)}: no GPU",
                f"{where(others, accounts)}: {others[0].device.name or others[0].device.kind}",
            ]
        )
    for account in accounts:
        device = account.device
        if device.kind == CUDA and device.index is None:
            yield device_beyond(
                account.rank, account.host, account.local_rank, account.local_world_size, device.visible
            )
    holders: dict[tuple[str, str], list[Account]] = defaultdict(list)
    for account in accounts:
        if identity := account.device.identity:
            holders["" if identity.startswith("uuid") else account.host, identity].append(account)
    for (_, identity), ranks in holders.items():
        if len(ranks) > 1:
            numbers, devices = [rank.rank for rank in ranks], [rank.device for rank in ranks]
            hosts = listed(sorted({rank.host for rank in ranks}))
            yield device_shared(numbers, hosts, identity, devices)
