"""Which network interface NCCL and gloo would take on a machine, and which ones lead nowhere.

Sources: NCCL, src/misc/socket.cc (ncclFindInterfaces); torch, ProcessGroupGloo (createDefaultDevice), 2.13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NCCL_NAMES, GLOO_NAMES = "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"
_OF_THIS_MACHINE = ("docker", "br-", "virbr", "veth", "cni", "flannel", "lxc", "podman", "cali")


@dataclass(frozen=True)
class Interface:
    """A network interface with an address. trap: why no other machine is reached through it, "" when one may
    be.
    """

    name: str
    addresses: tuple[str, ...]
    trap: str = ""


def interfaces_of(facts: Mapping[str, Any]) -> tuple[Interface, ...]:
    """The interfaces of a machine that are up and have an address of more than their own wire, in order."""
    return tuple(
        Interface(one["name"], tuple(one["addresses"]), _trap(one))
        for one in facts.get("network", {}).get("interfaces") or ()
        if one["is_up"] and not all(address.startswith("fe80:") for address in one["addresses"])
    )


def _trap(told: Mapping[str, Any]) -> str:
    name = str(told["name"])
    if all(is_loopback(address) for address in told["addresses"]):
        return "loopback"
    if name.startswith(_OF_THIS_MACHINE):
        return "of containers or virtual machines"
    return "that is a bridge" if told["is_bridge"] and not name.startswith("br") else ""


def is_loopback(address: str) -> bool:
    """Whether an address means the machine itself."""
    return address.startswith("127.") or address == "::1"


def owner(address: str | None, interfaces: Sequence[Interface]) -> Interface | None:
    """The interface with this address; a loopback address belongs to the loopback interface."""
    if address is None:
        return None
    for one in interfaces:
        if address in one.addresses or (is_loopback(address) and one.trap == "loopback"):
            return one
    return None


def nccl_takes(interfaces: Sequence[Interface], wanted: str | None) -> Interface | None:
    """The first interface that NCCL would take. wanted: the value of NCCL_SOCKET_IFNAME: beginnings of names,
    `^` for all but these, `=` for whole names.
    """
    if wanted:
        return next((one for one in interfaces if _matches(one.name, wanted)), None)
    for names in ("ib", "^docker,lo,virbr", "docker", "lo", "virbr"):
        if found := [one for one in interfaces if _matches(one.name, names)]:
            return found[0]
    return None


def _matches(name: str, wanted: str) -> bool:
    is_not = wanted.startswith("^")
    wanted = wanted[1:] if is_not else wanted
    is_whole = wanted.startswith("=")
    names = [one.partition(":")[0] for one in (wanted[1:] if is_whole else wanted).split(",") if one]
    found = name in names if is_whole else any(name.startswith(one) for one in names)
    return found != is_not


def gloo_takes(facts: Mapping[str, Any]) -> Interface | None:
    """The first interface that gloo would take: the one that is named, else that of the own host name."""
    interfaces = interfaces_of(facts)
    if wanted := facts.get("environ", {}).get(GLOO_NAMES):
        return next((one for one in interfaces if one.name == wanted.split(",")[0]), None)
    return owner(facts.get("network", {}).get("gloo_address"), interfaces)


def leads_to_meeting_point(facts: Mapping[str, Any]) -> Interface | None:
    """The interface through which the meeting point is reached; None without a way or a point."""
    return owner(facts.get("network", {}).get("way_from"), interfaces_of(facts))
