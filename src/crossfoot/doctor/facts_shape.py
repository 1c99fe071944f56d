"""What stands in a machine's answer (`gather.py`), as far as anything reads it: a node may run
another version of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crossfoot.doctor.gather import FORMAT
from crossfoot.documents import Malformed, parse_object, value_of


@dataclass(frozen=True)
class _Asked:
    folder: str
    python: str


@dataclass(frozen=True)
class _Python:
    version: str
    path: str


@dataclass(frozen=True)
class _Crossfoot:
    path: str
    sha256: str


@dataclass(frozen=True)
class _System:
    cpus: int | None
    shm_bytes: int | None
    open_files: int | None
    locked_bytes: int | None
    has_infiniband: bool


@dataclass(frozen=True)
class _Path:
    use: str
    is_there: bool
    nearest: str
    free_bytes: int
    is_usable: bool


@dataclass(frozen=True)
class _Device:
    name: str
    memory_bytes: int | None
    used_bytes: int | None


@dataclass(frozen=True)
class _Gpus:
    driver: str | None
    devices: tuple[_Device, ...]
    problem: str = ""


@dataclass(frozen=True)
class _Tools:
    compiler: str | None
    ninja: str | None
    nvcc: str | None


@dataclass(frozen=True)
class _Interface:
    name: str
    addresses: tuple[str, ...]
    is_up: bool
    is_bridge: bool


@dataclass(frozen=True)
class _Network:
    interfaces: tuple[_Interface, ...] | None
    gloo_address: str
    own_addresses: tuple[str, ...]
    own_problem: str = ""
    meeting_point: str = ""
    meeting_addresses: tuple[str, ...] = ()
    meeting_problem: str = ""
    way_from: str | None = None


@dataclass(frozen=True)
class _TorchDevice:
    name: str
    memory_bytes: int
    capability: str


@dataclass(frozen=True)
class _Torch:
    problem: str = ""
    version: str = ""
    cuda: str | None = None
    rocm: str | None = None
    devices: tuple[_TorchDevice, ...] = ()
    kernels: tuple[str, ...] = ()
    cuda_problem: str = ""


@dataclass(frozen=True)
class _DeepSpeed:
    problem: str = ""
    version: str = ""
    accelerator: str = ""
    ops_installed: tuple[str, ...] = ()
    ops_compatible: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Facts:
    began: float
    ended: float
    host: str
    slurm_node: str | None
    folder: str
    asked: _Asked
    python: _Python
    crossfoot: _Crossfoot | None
    versions: Mapping[str, str | None]
    system: _System
    environ: Mapping[str, str]
    paths: Mapping[str, _Path]
    gpus: _Gpus
    tools: _Tools
    network: _Network
    torch: _Torch = field(default_factory=_Torch)
    deepspeed: _DeepSpeed = field(default_factory=_DeepSpeed)


def read_facts(text: str) -> dict[str, Any]:
    """The facts in a machine's answer. Raises Malformed, naming the key, where something is of another
    type.
    """
    facts = parse_object(text)
    if facts.get("format") != FORMAT:
        raise Malformed(f"its format is {facts.get('format')!r}, this reads {FORMAT}")
    value_of(_Facts, facts)
    return facts
