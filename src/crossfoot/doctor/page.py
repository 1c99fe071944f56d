"""The page: what the machines have, one screen, nodes that are alike together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from crossfoot.arithmetic.batch import Topology
from crossfoot.doctor.asking import Node
from crossfoot.doctor.naming import named, together
from crossfoot.doctor.needs import Needs
from crossfoot.doctor.network import gloo_takes, interfaces_of, leads_to_meeting_point, nccl_takes
from crossfoot.doctor.starters import Slurm, Starters
from crossfoot.output import visible_line
from crossfoot.phrases import counted, size

_LABEL = 13
_WIDTH = 80
Facts = Mapping[str, Any]


def render_page(nodes: Sequence[Node], needs: Needs, starters: Starters, how: str) -> str:
    """The page, without findings. how: the way the nodes were reached, "" for this machine."""
    seen = [node for node in nodes if node.facts]
    names = named([node.name for node in nodes])
    rows = [f"crossfoot doctor   {names}{f' {how}' if how else ''}", "", *_asked_for(needs, len(nodes))]
    for label, tell in _ROWS:
        answers = list(together((node.name, tuple(tell(node.facts))) for node in seen))
        for where, lines in answers:
            is_named = len(answers) == 1 or lines[0].startswith(f"{where} ")
            rows += _row(label, lines if is_named else (f"{where}: {lines[0]}", *lines[1:]))
            label = ""
    for label, told in _paths(seen, needs):
        rows += _row(label, told)
    return "\n".join(map(visible_line, [*rows, *_starting(starters)]))


def _row(label: str, lines: Sequence[str]) -> Iterator[str]:
    """A label, and its lines; one that is too long is broken where it has three blanks."""
    for line in lines:
        shown = ""
        for part in line.split("   "):
            if shown and _LABEL + 4 + len(shown) + 3 + len(part) > _WIDTH:
                yield f"  {label:<{_LABEL}}  {shown}".rstrip()
                label, shown = "", part
            else:
                shown = f"{shown}   {part}" if shown else part
        yield f"  {label:<{_LABEL}}  {shown}".rstrip()
        label = ""


def _asked_for(needs: Needs, looked_at: int) -> Iterator[str]:
    if not needs.config:
        return
    words = "has errors of its own, shown below"
    if needs.num_nodes is not None:
        words = f"{counted(needs.num_nodes, 'node')} x ?"
        if needs.gpus_per_node is not None:
            words = Topology(needs.gpus_per_node, needs.num_nodes).in_words()
        words = f"{words}   {needs.dtype}"
    yield from _row("asked for", [f"{words}   {needs.config}"])
    if looked_at < (needs.num_nodes or 1):
        way = "give --hostfile, or run doctor inside the job"
        yield from _row("", [f"looked at {looked_at} of {needs.num_nodes} nodes; for all: {way}"])


def _python(facts: Facts) -> Iterator[str]:
    yield f"{facts['python']['version']}   {facts['python']['path']}"


def _torch(facts: Facts) -> Iterator[str]:
    torch = facts["torch"]
    if "version" not in torch:
        yield f"{facts['versions']['torch'] or ''} unusable: {torch.get('problem', 'not asked')}".strip()
        return
    built = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['rocm']}" if torch["rocm"] else ""
    yield f"{torch['version']}   {f'built for {built}' if built else 'built without CUDA'}"


def _gpus(facts: Facts) -> Iterator[str]:
    system, seen = facts["gpus"], facts["torch"].get("devices")
    devices = system["devices"] or seen or []
    driver = f"   driver {system['driver']}" if system["driver"] else ""
    if not devices:
        on_cpus = "   ranks run on the CPUs" if facts["deepspeed"].get("accelerator") == "cpu" else ""
        yield f"none{driver}{on_cpus}"
        return
    kinds = list(dict.fromkeys((one["name"], one["memory_bytes"]) for one in devices))
    for name, memory in kinds:
        count = sum((one["name"], one["memory_bytes"]) == (name, memory) for one in devices)
        yield f"{count} x {name}   {size(memory) if memory else '?'} each{driver}"
    if seen is not None and len(seen) != len(devices):
        visible = facts["environ"].get("CUDA_VISIBLE_DEVICES")
        why = "" if visible is None else f"   CUDA_VISIBLE_DEVICES={visible}"
        yield f"torch sees {len(seen)} of them{why}"
    if used := [one["used_bytes"] for one in system["devices"] if (one.get("used_bytes") or 0) > 1 << 30]:
        yield f"memory in use on {len(used)} of them: up to {size(max(used))}"


def _deepspeed(facts: Facts) -> Iterator[str]:
    told = facts["deepspeed"]
    if "version" in told:
        yield f"{told['version']}   accelerator {told['accelerator']}"
    else:
        yield f"{facts['versions']['deepspeed'] or ''} {told.get('problem', 'not asked')}".strip()


def _operations(facts: Facts) -> Iterator[str]:
    told, tools = facts["deepspeed"], facts["tools"]
    if "version" in told:
        built = ", ".join(told["ops_installed"]) or "none"
        can_be = len(told["ops_compatible"])
        yield f"{built} installed, {can_be} could be built; crossfoot needs none of them"
    names = {"compiler": "", "ninja": "ninja ", "nvcc": "nvcc "}
    has = [f"{name}{tools[key]}" for key, name in names.items() if tools[key]]
    lacks = [f"no {name.strip() or 'C++ compiler'}" for key, name in names.items() if not tools[key]]
    yield f"to build with: {', '.join([*has, *lacks])}"


def _libraries(facts: Facts) -> Iterator[str]:
    names = ("transformers", "peft", "accelerate", "safetensors")
    yield "   ".join(f"{name} {facts['versions'][name] or 'missing'}" for name in names)


def _crossfoot(facts: Facts) -> Iterator[str]:
    told = facts["crossfoot"]
    yield f"code {told['sha256']}   {told['path']}" if told else "not found"


def _own_name(facts: Facts) -> Iterator[str]:
    network = facts["network"]
    meaning = ", ".join(network["own_addresses"]) or "nothing"
    yield f"{facts['host']} means {meaning}"


def _network(facts: Facts) -> Iterator[str]:
    """Each interface, with what it is for and what is against it."""
    interfaces = interfaces_of(facts)
    if not interfaces:
        yield "not known: psutil is not installed" if facts["network"]["interfaces"] is None else "none"
    environ = facts["environ"]
    nccl = nccl_takes(interfaces, environ.get("NCCL_SOCKET_IFNAME"))
    gloo, way = gloo_takes(facts), leads_to_meeting_point(facts)
    for one in interfaces:
        if one.trap == "loopback" and one not in (nccl, gloo, way):
            continue
        takers = [name for name, taken in (("NCCL", nccl), ("gloo", gloo)) if one == taken]
        address = next((place for place in one.addresses if ":" not in place), one.addresses[0])
        words = [f"{one.name} {address}", one.trap.removeprefix("that is ")]
        words.append(f"{' and '.join(takers)} would take it" if takers else "")
        words.append(f"leads to {facts['network']['meeting_point']}" if one == way else "")
        yield "   ".join(word for word in words if word)
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        if name in environ:
            yield f"{name}={environ[name]}"


def _limits(facts: Facts) -> Iterator[str]:
    system = facts["system"]
    shm = "not known" if system["shm_bytes"] is None else size(system["shm_bytes"])
    files = "no limit" if system["open_files"] is None else f"{system['open_files']:,}"
    locked = "no limit" if system["locked_bytes"] is None else size(system["locked_bytes"])
    yield f"{counted(system['cpus'], 'CPU')}   /dev/shm {shm}   open files {files}   locked memory {locked}"


_ROWS: tuple[tuple[str, Callable[[Facts], Iterator[str]]], ...] = (
    ("python", _python),
    ("torch", _torch),
    ("GPUs", _gpus),
    ("DeepSpeed", _deepspeed),
    ("its ops", _operations),
    ("libraries", _libraries),
    ("crossfoot", _crossfoot),
    ("host name", _own_name),
    ("network", _network),
    ("limits", _limits),
)


def _paths(nodes: Sequence[Node], needs: Needs) -> Iterator[tuple[str, list[str]]]:
    """Folders to write into with the free space, and how many of the others are there."""
    for wanted in needs.paths:
        if wanted.use == "write":
            free = together((node.name, _free(node.facts["paths"][wanted.path])) for node in nodes)
            lines = [text if len(nodes) == 1 else f"{text}   {where}" for where, text in free]
            yield wanted.name, [f"{wanted.path}   {line}" for line in lines]
    read = [wanted for wanted in needs.paths if wanted.use == "read"]
    if read and nodes:
        names = list(dict.fromkeys(wanted.name for wanted in read))
        lost = sum(not node.facts["paths"][wanted.path]["is_usable"] for node in nodes for wanted in read)
        yield "reads", [f"{', '.join(names)}: {f'{lost} missing' if lost else 'all there'}"]


def _free(told: Facts) -> str:
    return f"{size(told['free_bytes'])} free" if told["is_usable"] else "cannot be written"


def _starting(starters: Starters) -> Iterator[str]:
    yield from _row("SLURM", list(_slurm(starters.slurm)))
    tools = (("pdsh", starters.pdsh), ("ssh", starters.ssh))
    yield from _row("pdsh, ssh", ["   ".join(f"{name} {version or 'missing'}" for name, version in tools)])


def _slurm(slurm: Slurm | None) -> Iterator[str]:
    if slurm is None:
        yield "not here"
        return
    if not slurm.is_configured:
        yield "installed, but this machine belongs to no cluster"
        return
    job = f"inside job {slurm.job}" if slurm.job else "outside of a job"
    yield f"{slurm.version}   {job}" if slurm.version else job
    if slurm.problem:
        yield slurm.problem
    for name, state, nodes in slurm.partitions:
        yield f"partition {name}   {state}   {counted(nodes, 'node')}"
