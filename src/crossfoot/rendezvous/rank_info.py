"""What one rank says of itself in the preflight check: where it is, and everything that decides what it
trains. Plain facts, as JSON: ranks of different versions of crossfoot must still understand each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import crossfoot
from crossfoot.data.train_sources import train_files
from crossfoot.digests import sha256_of_file
from crossfoot.documents import plain
from crossfoot.environment.world import World
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.locate import tokenizer_mark
from crossfoot.index.sources import SourceState, source_states
from crossfoot.planning.prepare import CheckedRun
from crossfoot.rendezvous.devices import CPU, Device
from crossfoot.written.hub import commits_of
from crossfoot.written.model_facts import CONFIG_JSON, model_folder, weight_marks
from crossfoot.written.run_file import RunFile

DECIDING = ("torch", "deepspeed", "transformers", "peft")
"""Libraries whose version decides what is computed, or what ranks say to each other."""
BESIDE = ("accelerate", "numpy", "tokenizers")
"""Libraries that should be the same; the plan's sha256 shows when they matter."""
Facts = Mapping[str, str]
NO_DEVICE = Device(CPU)


@dataclass(frozen=True)
class RankInfo:
    """What one rank says of itself. Differs per rank; `parts` should not.

    parts: for each thing that decides the run (config, deepspeed, data, model, code, libraries, beside) its
    facts, name to value, as text. origins: where a part lies on this machine, for people. refused: what this
    rank alone was refused for.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    num_nodes: int
    launcher: str
    host: str
    pid: int
    device: Device = NO_DEVICE
    parts: Mapping[str, Facts] = field(default_factory=dict)
    origins: Facts = field(default_factory=dict)
    refused: tuple[Finding, ...] = ()

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps(
            plain(replace(self, refused=tuple(without_fixes(self.refused)))), ensure_ascii=False
        )


def without_fixes(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Findings as they travel: their edits are for the file of this machine."""
    return (replace(finding, fix=()) for finding in findings)


def rank_info_of(
    checked: CheckedRun, world: World, device: Device, refused: Sequence[Finding] = ()
) -> RankInfo:
    """What this rank says of itself. Reads the data files once for their sha256 (known ones are not read
    again).
    """
    run = checked.run
    data = run.config.data
    files = [file for file in (*train_files(data), *data.validation_files) if os.path.isfile(file)]
    states = source_states(files, run.index_dir)
    deepspeed = checked.facts.deepspeed
    return RankInfo(
        rank=world.rank,
        world_size=world.world_size,
        local_rank=world.local_rank,
        local_world_size=world.local_world_size,
        node_rank=world.node_rank,
        num_nodes=world.num_nodes,
        launcher=world.launcher,
        host=socket.gethostname(),
        pid=os.getpid(),
        device=device,
        parts={
            "config": flat(run.as_written.model_dump(mode="json")),
            "deepspeed": flat(deepspeed.values) if deepspeed is not None else {},
            "data": data_facts(states),
            "model": model_facts(run),
            "code": code_facts(Path(crossfoot.__file__).parent),
            "libraries": versions(DECIDING),
            "beside": {**versions(BESIDE), "python": ".".join(platform.python_version_tuple()[:2])},
        },
        origins={
            "config": " ".join([run.path, *run.overrides]),
            "deepspeed": os.path.abspath(deepspeed.path) if deepspeed is not None else "",
            "code": str(Path(crossfoot.__file__).parent),
        },
        refused=tuple(refused),
    )


def flat(values: Any, name: str = "") -> dict[str, str]:
    """Nested settings as dotted names and JSON values; a list is one value, an empty section too."""
    if not isinstance(values, Mapping) or not values:
        return {name: json.dumps(values, ensure_ascii=False)}
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= flat(value, f"{name}.{key}" if name else str(key))
    return found


def data_facts(states: Sequence[SourceState]) -> dict[str, str]:
    """Each data file's content: its size in bytes and its sha256."""
    return {state.path: f"{state.bytes:,} bytes, sha256 {state.sha256[:12]}" for state in states}


def model_facts(run: RunFile) -> dict[str, str]:
    """The model's config.json, the sizes of its weight files with parts of their bytes, the tokenizer, and
    the commits of what a hub gave. Of the model nothing where it is built in or not here.
    """
    facts = {f"commit of {key}": commit[:12] for key, commit in commits_of(run).items()}
    with suppress(Refused):  # whoever needs a tokenizer that is not there says so
        if mark := tokenizer_mark(run):
            facts["tokenizer"] = f"sha256 {mark[:12]}"
    folder = model_folder(run.config.model.path)
    if folder is None:
        return facts
    if (file := folder / CONFIG_JSON).is_file():
        facts[file.name] = f"sha256 {sha256_of_file(file)[:12]}"
    return facts | weight_marks(folder)


def code_facts(package: Path) -> dict[str, str]:
    """sha256 of each source file of the package: what runs, wherever it was installed from."""
    files = sorted(file for file in package.rglob("*.py"))
    return {file.relative_to(package).as_posix(): _sha256(file.read_bytes()) for file in files}


def versions(names: Sequence[str]) -> dict[str, str]:
    """The installed version of each library, without importing it."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
