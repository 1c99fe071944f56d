"""GPUs that are there and unusable, and fewer than are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crossfoot.doctor import findings
from crossfoot.doctor.asking import Node
from crossfoot.doctor.naming import together
from crossfoot.doctor.needs import Needs
from crossfoot.findings.finding import Finding, Severity

Unusable = tuple[str, str, tuple[str, ...]]
"""What the GPUs are, why torch cannot use them, and the repair."""


def gpu_findings(nodes: Sequence[Node], needs: Needs) -> Iterator[Finding]:
    """A node whose GPUs cannot be used is not counted again."""
    unusable = {node.name: unusable_gpus(node) for node in nodes}
    for where, (there, why, helps) in together(unusable.items()):
        yield findings.gpus_unusable(where, there, why, helps)
    has_gpus = any(map(gpu_count, nodes)) or any(unusable.values())
    able = [node for node in nodes if unusable[node.name] is None]
    asked = {node.name: node.slots or share for node, share in _shares(nodes, needs)}
    answers = ((node.name, _too_few(node, asked[node.name], needs, on_cpus=not has_gpus)) for node in able)
    for where, (asked_for, there_are, origin, note, severity) in together(answers):
        is_alike = len(set(asked.values())) == 1
        yield findings.gpus_short(where, asked_for, there_are, origin, note, severity, is_alike)


def _shares(nodes: Sequence[Node], needs: Needs) -> Iterator[tuple[Node, int | None]]:
    """The GPUs that are asked of each node. Where they differ, and nobody says which node is which, the
    largest share is that of the node that has most; with nodes missing, each must do for the smallest.
    """
    gpus = needs.gpus_per_node
    if gpus is None or isinstance(gpus, int):
        yield from ((node, gpus) for node in nodes)
    elif len(nodes) != len(gpus):
        yield from ((node, min(gpus)) for node in nodes)
    else:
        by_size = sorted(nodes, key=lambda node: gpu_count(node) or 0, reverse=True)
        yield from zip(by_size, sorted(gpus, reverse=True), strict=True)


def _too_few(
    node: Node, asked: int | None, needs: Needs, *, on_cpus: bool
) -> tuple[int, int, str, str, Severity] | None:
    """GPUs asked for and there, who asks, a note and how bad it is; None when there are enough."""
    there_are = gpu_count(node)
    if asked is None or there_are is None or there_are >= asked:
        return None
    environ = node.facts["environ"]
    is_fine = on_cpus and not (needs.dtype == "float16" and needs.uses_deepspeed)
    if is_fine and environ.get("DS_ACCELERATOR") == "cpu":
        return None
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    note = "" if visible is None else f"CUDA_VISIBLE_DEVICES is {visible!r}"
    origin = "the hostfile's slots" if node.slots else needs.origin
    return asked, there_are, origin, note, "warning" if is_fine else "error"


def gpu_count(node: Node) -> int | None:
    """GPUs that torch sees; None when torch cannot be asked."""
    devices = node.facts["torch"].get("devices")
    return None if devices is None else len(devices)


def unusable_gpus(node: Node) -> Unusable | None:
    """GPUs of a node that torch cannot use; None when there are none, or when it can."""
    torch, system = node.facts["torch"], node.facts["gpus"]
    names = [device["name"] for device in system["devices"]]
    there = f"{len(names)} x {names[0]}" if names else "the GPUs"
    if system.get("problem"):
        help_ = "load the driver anew; after an update of it the machine must be started again"
        return there, f"the driver does not answer: {system['problem']}", (help_,)
    if names and "version" in torch and not torch["cuda"] and not torch["rocm"]:
        return there, f"torch {torch['version']} is built without CUDA", ("install a torch built with CUDA",)
    if names and torch.get("cuda_problem"):
        helps = ("install a newer driver, or a torch for the CUDA of this driver: nvidia-smi shows it",)
        why = f"{torch['cuda_problem']} (torch is for CUDA {torch['cuda']}, the driver is {system['driver']})"
        return there, why, helps
    for device in torch.get("devices", ()):
        if torch["cuda"] and not has_kernels(device["capability"], torch["kernels"]):
            why = f"torch {torch['version']} has no kernels for compute capability {device['capability']}"
            return device["name"], why, ("install a torch that is built for this GPU",)
    return None


def has_kernels(capability: str, kernels: Sequence[str]) -> bool:
    """Whether one of `sm_80`, `compute_90` runs on compute capability `8.6`: machine code of the same major
    version and no later minor one; or code for an earlier GPU that the driver translates. True when nothing
    is known.
    """
    wanted = tuple(map(int, capability.split(".")))
    for kernel in kernels:
        kind, _, number = kernel.partition("_")
        if not number.isdigit():
            return True  # such as sm_90a: made for one GPU, and not alone
        built = divmod(int(number), 10)
        if built <= wanted and (kind == "compute" or built[0] == wanted[0]):
            return True
    return not kernels
