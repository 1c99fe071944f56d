"""Which device a rank computes on, and how it is known from every other one. What is asked of torch is thin;
what is decided can be tested with plain facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CPU = "cpu"
CUDA = "cuda"


@dataclass(frozen=True)
class Device:
    """A rank's device.

    kind: cpu, cuda, or what DS_ACCELERATOR names. visible: devices of that kind that this process can see; 0
    for the CPU. index: the one this rank takes, None when there is none for it (and for the CPU). identity:
    what no other device has, empty when it cannot be told. name: for people.
    """

    kind: str
    visible: int = 0
    index: int | None = None
    identity: str = ""
    name: str = ""


def choose_index(visible: int, local_rank: int) -> int | None:
    """The device index of a rank: 0 when it sees one device (the launcher has dealt them out), else its local
    rank; None when there is none for it.
    """
    if visible == 1:
        return 0
    return local_rank if local_rank < visible else None


def look_at_device(local_rank: int, environ: Mapping[str, str]) -> Device:
    """The device of this rank, as torch shows it; no memory is taken on it.

    DS_ACCELERATOR decides, else CUDA if there is any, else the CPU: the order of DeepSpeed's own choice
    between the two.
    """
    import torch

    wanted = environ.get("DS_ACCELERATOR", "").lower()
    kind = wanted or (CUDA if torch.cuda.is_available() else CPU)
    if kind != CUDA:
        return Device(kind)
    visible = torch.cuda.device_count()
    index = choose_index(visible, local_rank)
    if index is None:
        return Device(kind, visible)
    properties = torch.cuda.get_device_properties(index)
    return Device(kind, visible, index, identity_of(properties), str(properties.name))


def identity_of(properties: object) -> str:
    """The uuid of a CUDA device, else its place on the PCI bus.

    The uuid comes first: two slices of one card (MIG) share the place, and are devices of their own.
    """
    uuid = getattr(properties, "uuid", None)
    if uuid is not None and str(uuid).strip("0-"):
        return f"uuid {uuid}"
    numbers: list[Any] = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if None in numbers:
        return ""
    return "PCI {:04x}:{:02x}:{:02x}.0".format(*numbers)
