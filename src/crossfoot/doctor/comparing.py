"""In what nodes differ from each other: both values, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from crossfoot.doctor import findings
from crossfoot.doctor.asking import Node
from crossfoot.doctor.naming import named
from crossfoot.findings.finding import Finding

DECIDING = ("torch", "deepspeed", "transformers", "peft")
"""As when ranks meet (rendezvous/rank_info.py): a difference is an error."""
CLOCK_SECONDS = 2.0


def differences(nodes: Sequence[Node]) -> Iterator[Finding]:
    """What must be alike and is not (errors), and what should be (warnings)."""
    if len(nodes) > 1:
        yield from _software(nodes)
        yield from _hardware(nodes)
    yield from _clocks(nodes)


def _software(nodes: Sequence[Node]) -> Iterator[Finding]:
    names = list(nodes[0].facts["versions"])
    found = {name: _values(nodes, name, "versions", name) for name in names}
    found["crossfoot's code"] = _values(nodes, "crossfoot's code", "crossfoot", "sha256")
    found["python"] = _values(nodes, "python", "python", "version")
    deciding = {
        name: note for name, note in found.items() if name in (*DECIDING, "crossfoot's code") and note
    }
    beside = {name: note for name, note in found.items() if name not in deciding and note}
    if deciding:
        yield findings.nodes_differ(named(list(deciding)), tuple(deciding.values()), "error")
    if beside:
        yield findings.nodes_differ(named(list(beside)), tuple(beside.values()), "warning")


def _hardware(nodes: Sequence[Node]) -> Iterator[Finding]:
    gpus = {
        node.name: ", ".join(dict.fromkeys(one["name"] for one in node.facts["torch"].get("devices", ())))
        for node in nodes
    }
    notes = {
        "GPUs": _told("GPU", gpus),
        "drivers": _values(nodes, "driver", "gpus", "driver"),
        "CUDA builds": _values(nodes, "CUDA of torch", "torch", "cuda"),
    }
    different = {name: note for name, note in notes.items() if note}
    if different:
        help_ = "use nodes that are alike: the slowest decides"
        yield findings.nodes_differ(named(list(different)), tuple(different.values()), "warning", help_)


def _values(nodes: Sequence[Node], name: str, *keys: str) -> str:
    values: dict[str, Any] = {}
    for node in nodes:
        value: Any = node.facts
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        values[node.name] = value
    return _told(name, values)


def _told(name: str, values: dict[str, Any]) -> str:
    """`torch: 2.13.0 on node1, 2.12.0 on node2`; "" when all have the same."""
    groups: dict[Any, list[str]] = {}
    for node, value in values.items():
        groups.setdefault(value, []).append(node)
    if len(groups) == 1:
        return ""
    return f"{name}: " + ", ".join(f"{value or 'none'} on {named(at)}" for value, at in groups.items())


def _clocks(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Against the clock of this machine, which asked them all."""
    off = [node for node in nodes if abs(node.ahead_seconds) > CLOCK_SECONDS]
    if off:
        notes = [
            f"{node.name} is {abs(node.ahead_seconds):,.0f} s "
            f"{'ahead of' if node.ahead_seconds > 0 else 'behind'} this machine"
            for node in off
        ]
        help_ = "set the clocks by the network: chrony or systemd-timesyncd on every node"
        yield findings.nodes_differ("clocks", notes, "warning", help_)
