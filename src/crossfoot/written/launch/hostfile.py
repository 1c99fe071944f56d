"""DeepSpeed's hostfile, and the hosts and slots that its launcher takes of it.

The grammar and the choice are those of deepspeed 0.19.8, launcher/runner.py: `_parse_hostfile`,
`parse_resource_filter`, `apply_num_nodes_and_gpus`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from crossfoot.arithmetic.batch import alike, in_a_sum
from crossfoot.phrases import counted
from crossfoot.written.launch.host_names import is_login
from crossfoot.written.launch.look_alikes import plain_lines
from crossfoot.written.launch.statement import Defect, Host, LaunchFile, Layer, Option, Statement
from crossfoot.written.source import Source

_ENTRY = re.compile(r"^(\S+)\s+slots=(\d{1,9})", re.ASCII)
_LINE = re.compile(r"[^\r\n]+")
_LOOKS_LIKE = re.compile(r"^[A-Za-z0-9][\w.-]*(:\d+|\s+(max_)?slots?\b.*)?$", re.ASCII)
_SLOTS = re.compile(r"^\S+\s+(max_)?slots?\b", re.ASCII)
_NAME = re.compile(r"^[A-Za-z][\w.-]*\d[\w.-]*(:\d+)?$|^\d+\.\d+\.\d+\.\d+$", re.ASCII)


def looks_like_hostfile(source: Source) -> bool:
    """Every line is a host with or without slots, and at least one is nothing else."""
    lines = [line for _, line in _entries(plain_lines(source)[0])]
    if not lines or not all(_LOOKS_LIKE.match(line) for line in lines):
        return any(_ENTRY.match(line) for line in lines) and not source.text.startswith("#!")
    return any(_SLOTS.match(line) for line in lines) or all(_NAME.match(line) for line in lines)


def _entries(source: Source) -> list[tuple[int, str]]:
    """(offset, text) of every line that is neither blank nor a comment."""
    found = []
    for match in _LINE.finditer(source.text):
        line = match[0].strip()
        if line and not line.startswith("#"):
            found.append((match.start() + len(match[0]) - len(match[0].lstrip()), line))
    return found


def read_hostfile(source: Source) -> LaunchFile:
    """The hosts, and the lines that DeepSpeed would refuse."""
    hosts: dict[str, Host] = {}
    source, odd = plain_lines(source)
    defects: list[Defect] = []
    for start, line in _entries(source):
        match = _ENTRY.match(line)
        if match is None:
            near = re.match(r"(\S+)\s*(?:max_)?(?:slots?|gpus?)?\s*[=:]?\s*(\d{1,9})?", line, re.IGNORECASE)
            name = near[1].split(":")[0] if near else ""
            repair = f"{name} slots={near[2] or 'N'}" if near and is_login(name) else ""
            defects.append(Defect("host_line", source.place(start, start + len(line)), line, near=repair))
            continue
        place = source.place(start, start + match.end(1))
        if not is_login(match[1]):
            defects.append(Defect("host_name", place, match[1]))
            continue
        if match[1] in hosts:
            defects.append(Defect("host_twice", place, match[1], first=hosts[match[1]].place))
            continue
        slots_place = source.place(start + match.start(2), start + match.end(2))
        hosts[match[1]] = Host(match[1], int(match[2]), place, slots_place)
    if not hosts and not defects:
        defects.append(Defect("no_hosts", source.place(0)))
    every = tuple(hosts.values())
    return LaunchFile(
        source.path,
        "hostfile",
        () if defects else hostfile_statements(every),
        hosts=every,
        defects=(*odd, *defects),
    )


def hostfile_statements(hosts: Sequence[Host]) -> tuple[Statement, ...]:
    """Nodes, and GPUs per node; for hosts that are not alike those of each."""
    if not hosts:
        return ()
    found = [Statement("num_nodes", len(hosts), hosts[-1].place, counted(len(hosts), "host"), "hostfile")]
    slots = alike([host.slots for host in hosts])
    if isinstance(slots, tuple) and all(slots):
        other = next(host for host in hosts if host.slots != hosts[0].slots)
        words = f"slots {in_a_sum(slots)}"
        found.append(Statement("gpus_by_node", slots, other.slots_place, words, "hostfile"))
    elif isinstance(slots, int) and slots:
        found.append(Statement("gpus_per_node", slots, hosts[0].slots_place, f"slots={slots}", "hostfile"))
    return tuple(found)


@dataclass(frozen=True)
class Resources:
    """The hosts that deepspeed starts on, with their slots; or why it does not. by: the option that decided
    on the slots. problem: a sentence; at: the option it is about.
    """

    slots: dict[str, int]
    by: Option | None = None
    problem: str = ""
    at: Option | None = None


def resources(layer: Layer, hosts: Sequence[Host]) -> Resources:
    """What `deepspeed` with these options takes of these hosts; without hosts, of the machine it runs on."""
    include, exclude = layer.get("--include"), layer.get("--exclude")
    numbers = [
        option for option in (layer.get("--num_gpus"), layer.get("--num_nodes")) if option and option.number
    ]
    chosen = include or exclude
    if include and exclude:
        return Resources({}, None, "--include and --exclude exclude each other", exclude)
    if chosen and numbers:
        problem = f"{chosen.name} and {numbers[0].name} exclude each other: DeepSpeed stops with a ValueError"
        return Resources({}, None, problem, numbers[0])
    pool = {host.name: list(range(min(host.slots, 10_000))) for host in hosts}
    if chosen and chosen.value is not None:
        try:
            pool = _filtered(pool, chosen.value, chosen is include, bool(hosts))
        except ValueError as error:
            return Resources({}, None, str(error), chosen)
    taken = {name: len(slots) for name, slots in pool.items()}
    nodes, gpus = layer.get("--num_nodes"), layer.get("--num_gpus")
    if nodes and nodes.number and hosts:
        taken = dict(list(taken.items())[: nodes.number])
    if gpus and gpus.number:
        taken = dict.fromkeys(taken or ("localhost",), gpus.number)
    return Resources(taken, gpus if gpus and gpus.number else chosen)


def _filtered(
    pool: dict[str, list[int]], text: str, is_include: bool, has_hosts: bool
) -> dict[str, list[int]]:
    """`worker-0@worker-1:0,2` applied; ValueError where DeepSpeed raises one. Without a hostfile the only
    host is localhost, and nobody here knows its slots.
    """
    wanted: dict[str, list[int]] = {}
    for node in text.split("@"):
        name, colon, slots = node.partition(":")
        numbers = slots.split(",") if colon else []
        if not all(number.isascii() and number.isdigit() and len(number) < 6 for number in numbers):
            raise ValueError(f"{node} is not NAME or NAME:SLOT,SLOT")
        wanted.setdefault(name, []).extend(int(number) for number in numbers)
    for name, slots_wanted in wanted.items():
        if not has_hosts and name == "localhost":
            pool.setdefault(name, sorted(set(slots_wanted)) if is_include else [])
        if name not in pool:
            raise ValueError(
                f"{name} is not a host of the hostfile" if has_hosts else f"{name} is not localhost"
            )
        absent = [slot for slot in slots_wanted if slot not in pool[name]]
        if absent and (has_hosts or is_include):
            raise ValueError(f"{name} has no slot {absent[0]}, only {len(pool[name])} slots from 0")
    kept = {}
    for name, slots_there in pool.items():
        mine = set(wanted.get(name, ()))
        if is_include:
            left = [slot for slot in slots_there if name in wanted and (not mine or slot in mine)]
        else:
            left = [slot for slot in slots_there if not (name in wanted and (not mine or slot in mine))]
        if left:
            kept[name] = left
    return kept
