"""What a run config asks of the machines that it will run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from crossfoot.arithmetic.batch import GpusPerNode
from crossfoot.checks.launch.rules_files import host_name, hostfile_line
from crossfoot.checks.registry import Facts
from crossfoot.data.train_sources import place_of, train_sources
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.planning.prepare import CheckedRun, read_and_check
from crossfoot.written.hub import hub_model
from crossfoot.written.launch.findings import unreadable_launch_file
from crossfoot.written.launch.hostfile import read_hostfile
from crossfoot.written.launch.statement import Host
from crossfoot.written.model_facts import BUILTIN_TINY
from crossfoot.written.run_file import RunFile
from crossfoot.written.source import UnreadableText, read_source


@dataclass(frozen=True)
class WantedPath:
    """A path of the config. name: for people. use: read or write. place: where the config says it. bringing:
    what to do where it cannot be read.
    """

    name: str
    path: str
    use: str
    place: Place | None = None
    bringing: str = "copy it there, or put it on storage that every node mounts"


@dataclass(frozen=True)
class Needs:
    """What is asked for; None is not said. origin: who says the GPUs per node. paths: what must be readable
    or writable. findings: what is wrong with the config itself.
    """

    config: str = ""
    num_nodes: int | None = None
    gpus_per_node: GpusPerNode | None = None
    origin: str = ""
    dtype: str = ""
    uses_deepspeed: bool = True
    paths: tuple[WantedPath, ...] = (WantedPath("run folder", "runs", "write"),)
    findings: tuple[Finding, ...] = ()


def read_needs(
    config: str | None, overrides: Sequence[str], hostfile: str | None, environ: Mapping[str, str]
) -> Needs:
    """The needs of a run config. Raises Refused when nothing of it can be used.

    A config with errors of its own is not held against machines key by key: the errors are what is said.
    """
    if config is None:
        return Needs()
    launch_files = [hostfile] if hostfile else []
    return needs_of(read_and_check(config, overrides, launch_files=launch_files, environ=environ))


def needs_of(checked: CheckedRun) -> Needs:
    """The needs of a run config that has been read."""
    if checked.has_error:
        errors = tuple(finding for finding in checked.findings if finding.counts_as == "error")
        return Needs(checked.run.path, findings=errors)
    values, sourced = checked.run.config, checked.sourced
    return Needs(
        checked.run.path,
        num_nodes=sourced.topology.num_nodes,
        gpus_per_node=sourced.topology.gpus_per_node if sourced.are_gpus_told else None,
        origin=sourced.gpus_origin,
        dtype=values.model.dtype,
        uses_deepspeed=values.deepspeed is not None,
        paths=tuple(_paths(checked.run)),
    )


def read_hosts(hostfile: str) -> tuple[Host, ...]:
    """The hosts of a hostfile. Raises Refused when it cannot be read, or when DeepSpeed would not read it."""
    try:
        file = read_hostfile(read_source(hostfile))
    except UnreadableText as error:
        raise Refused(unreadable_launch_file(error)) from error
    facts = Facts(cast(RunFile, None), launch=(file,))  # these rules look at launch files only
    if wrong := (*hostfile_line(facts), *host_name(facts)):
        raise Refused(wrong)
    return file.hosts


def _paths(run: RunFile) -> Iterator[WantedPath]:
    """What the run reads and writes; of a hub's model, its folder in the cache."""
    config = run.config
    yield WantedPath("run folder", run.run_dir, "write", run.place("run", "dir"))
    yield WantedPath("index", run.index_dir, "write", run.place("data", "index_dir"))
    for section in (config.model, config.tokenizer):
        name = "model" if section is config.model else "tokenizer"
        if section is None or section.path == BUILTIN_TINY:
            continue
        place = run.place(name, "path")
        if (model := hub_model(section.path)) is None:
            yield WantedPath(name, section.path, "read", place)
        else:
            where = str(model.folder or model.place_in_cache)
            yield WantedPath(name, where, "read", place, f"fetch it into the cache: {model.fetching}")
    for source in train_sources(config.data):
        for name in source.files:
            yield WantedPath("data.train", name, "read", place_of(run, name))
    for number, name in enumerate(config.data.validation_files):
        yield WantedPath("data.validation", name, "read", run.place("data", "validation", number))
    if config.deepspeed is not None:
        yield WantedPath("DeepSpeed file", config.deepspeed, "read", run.place("deepspeed"))
