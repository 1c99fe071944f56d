"""What would fail between machines, judged from their interfaces, names and ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crossfoot.doctor import findings
from crossfoot.doctor.asking import Node
from crossfoot.doctor.judging_gpus import gpu_count
from crossfoot.doctor.naming import together
from crossfoot.doctor.network import (
    GLOO_NAMES,
    NCCL_NAMES,
    gloo_takes,
    interfaces_of,
    is_loopback,
    leads_to_meeting_point,
    nccl_takes,
)
from crossfoot.findings.finding import Finding

_NAME_ONE = "name the one that leads to the other nodes: export {}=eth0 where the run is started"


def network_findings(nodes: Sequence[Node], several: bool, maybe_several: bool) -> Iterator[Finding]:
    """several: ranks on more than one machine are asked for; maybe_several: or nobody says how many."""
    for variable in (NCCL_NAMES, GLOO_NAMES):
        answers = ((node.name, _wrong_name(node.facts, variable, several)) for node in nodes)
        for where, words in together(answers):
            naming = (_NAME_ONE.format(variable), f"or unset {variable}")
            yield findings.network_trap(f"{variable} {words} on {where}", naming)
    if several or maybe_several:
        for where, meaning in together((node.name, _own_name(node.facts)) for node in nodes):
            yield findings.own_name_wrong(where, meaning, "error" if several else "warning")
    if several:
        for where, title in together((node.name, _meeting(node.facts)) for node in nodes):
            helps = ("write the name with its address into DNS, or into /etc/hosts of every node",)
            yield findings.network_trap(f"{title} on {where}", helps)
        for variable in (NCCL_NAMES, GLOO_NAMES):
            yield from _traps(nodes, variable)


def _wrong_name(facts: Mapping[str, Any], variable: str, several: bool) -> str | None:
    wanted, interfaces = facts["environ"].get(variable), interfaces_of(facts)
    if not wanted or not interfaces:
        return None
    taken = nccl_takes(interfaces, wanted) if variable == NCCL_NAMES else gloo_takes(facts)
    if taken is None:
        return f"is {wanted}, which no interface is called"
    return f"is {wanted}, the loopback," if several and taken.trap == "loopback" else None


def _own_name(facts: Mapping[str, Any]) -> str | None:
    """What is wrong with the meaning of the own host name; None when gloo does well, or does not ask."""
    network = facts["network"]
    addresses = network["own_addresses"]
    if facts["environ"].get(GLOO_NAMES) or not is_loopback(network["gloo_address"]):
        return None
    if not addresses:
        return f"is not known ({network['own_problem']})"
    if any(map(is_loopback, addresses)):
        return f"means {addresses[0]}, the loopback"
    return f"means {addresses[0]}, no address of that machine"


def _meeting(facts: Mapping[str, Any]) -> str | None:
    network = facts["network"]
    place = network.get("meeting_point")
    if place is None:
        return None
    if not network["meeting_addresses"]:
        return f"{place}, where ranks would meet, is not known ({network['meeting_problem']})"
    if network["way_from"] is None:
        return f"there is no way to {place}, where ranks would meet,"
    is_here = facts["host"].partition(".")[0] == place.partition(".")[0]
    if not is_here and is_loopback(network["meeting_addresses"][0]):
        return f"{place}, where ranks would meet, means {network['meeting_addresses'][0]}"
    return None


def _traps(nodes: Sequence[Node], variable: str) -> Iterator[Finding]:
    """Interfaces that are taken without being named, and are not the way to the meeting point."""
    who = "NCCL" if variable == NCCL_NAMES else "gloo"
    for node in nodes:
        facts = node.facts
        if facts["environ"].get(variable) or (who == "NCCL" and not gpu_count(node)):
            continue
        taken = nccl_takes(interfaces_of(facts), None) if who == "NCCL" else gloo_takes(facts)
        way = leads_to_meeting_point(facts)
        if taken is None or taken == way or taken.trap == "loopback":
            continue  # the loopback is said of the host name
        notes = () if way is None else (f"{facts['network']['meeting_point']} is reached through {way.name}",)
        help_ = _NAME_ONE.format(variable).replace("eth0", "eth0" if way is None or way.trap else way.name)
        if taken.trap:
            title = f"{who} would take {taken.name}, an interface {taken.trap}, on {node.name}"
            yield findings.network_trap(title, (help_,), notes)
        elif way is not None and way.trap != "loopback":
            title = (
                f"{who} would take {taken.name} on {node.name}, and another one leads to the meeting point"
            )
            yield findings.network_trap(title, (help_,), notes, "warning")
