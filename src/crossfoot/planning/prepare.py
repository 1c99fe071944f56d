"""All that happens before torch is imported: read, check, survey the data, plan; findings all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from crossfoot.arithmetic.batch import BatchPlan, Topology
from crossfoot.arithmetic.held_out import NothingLeft
from crossfoot.checks.impossible import impossible_finding
from crossfoot.checks.rules import Facts, run_static_rules
from crossfoot.checks.rules_batch_in_time import steps_not_known
from crossfoot.data.tokenizer_files import tokenizer_files_of
from crossfoot.data.train_sources import train_files
from crossfoot.environment.world import World
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.index.locate import find_index, refuse_unopenable, tokenizer_mark
from crossfoot.index.look import index_findings, look_at
from crossfoot.index.planned_sources import PlannedSource, planned_sources
from crossfoot.index.store import DataIndex
from crossfoot.planning.asked_tasks import wrong_with_evaluation
from crossfoot.planning.plan import (
    RunPlan,
    SourcedTopology,
    refuse_crowded,
    run_parts,
    run_rate,
    run_schedule,
    solve_run_batch,
    topology_of,
)
from crossfoot.written.accepting import accept_known
from crossfoot.written.adapter_folder import AdapterFolder, read_adapter
from crossfoot.written.deepspeed_file import DeepSpeedFile, load_deepspeed_file
from crossfoot.written.findings import in_file_order
from crossfoot.written.hub import not_here, said_beforehand
from crossfoot.written.launch.read import read_job, read_launch_file
from crossfoot.written.launch.statement import LaunchFile
from crossfoot.written.model_ends import read_model_ends
from crossfoot.written.model_facts import read_model_facts
from crossfoot.written.overriding import Override
from crossfoot.written.run_file import RunFile, read_run
from crossfoot.written.section import Unsure

T = TypeVar("T")

_NO_DATA = ("CF501", "CF502", "CF505", "CF557", "CF558", "CF559", "CF560", "CF561", "CF565")
"""With one of these the data cannot be looked at."""
_NO_INDEX = (*_NO_DATA, "CF520", "CF541")
"""With one of these there is no index."""


@dataclass(frozen=True)
class CheckedRun:
    """What is known before anything slow. reading: what was wrong while reading; findings: all there is."""

    facts: Facts
    reading: tuple[Finding, ...]
    findings: tuple[Finding, ...]
    topology: SourcedTopology | None

    @property
    def run(self) -> RunFile:
        """The run config; without its wrong keys when it has an error."""
        return self.facts.run

    @property
    def sourced(self) -> SourcedTopology:
        """Nodes and GPUs. RuntimeError when the config's are wrong: refuse() comes first."""
        if self.topology is None:
            raise RuntimeError("asked for the topology of a config with errors")
        return self.topology

    def on_nodes(self, ranks_per_node: tuple[int, ...] | None) -> CheckedRun:
        """The same with the ranks where they really are, where the config leaves that open."""
        batch, cluster = self.facts.batch, self.run.config.cluster
        if ranks_per_node is None or batch is None or cluster.gpus_per_node is not None:
            return self
        real = Topology(ranks_per_node, len(ranks_per_node))
        planned = batch.topology
        if (real.world_size, real.num_nodes) != (planned.world_size, planned.num_nodes):
            return self
        facts = replace(self.facts, batch=replace(batch, topology=real))
        return replace(self, facts=facts, topology=replace(self.sourced, topology=real))

    def and_found(self, findings: Sequence[Finding]) -> CheckedRun:
        """The same with further findings."""
        return _checked(self.facts, [*self.reading, *findings], self.topology)

    @property
    def has_error(self) -> bool:
        """True when a finding forbids the run."""
        return any(finding.counts_as == "error" for finding in self.findings)

    def refuse(self) -> None:
        """Raises Refused when there is an error, with what a look at the data adds: all at once."""
        if self.has_error:
            raise Refused(survey(self, look=True).findings)


def read_and_check(
    path: str,
    overrides: Sequence[str],
    world: World | None = None,
    launch_files: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> CheckedRun:
    """Read the run config, the DeepSpeed file and the launch files and hold them against each other.

    environ: where a job's variables are looked for; they are witnesses beside the launch files. Raises only
    for a config of which nothing can be used.
    """
    reading: list[Finding] = []
    launch = _launch(launch_files, environ or {}, reading)
    words: list[Override | str] = [
        Override(word, place) for file in launch if starts(file, path) for word, place in file.overrides
    ]
    run, found = read_run(path, [*words, *overrides])
    reading.extend(found)
    with suppress(Unsure):
        reading.extend(_files_missing(run))
    sourced = _unless_unsure(lambda: topology_of(run, world, launch), reading)
    deepspeed = _unless_unsure(lambda: _deepspeed(run), reading)
    batch: BatchPlan | None = None
    if sourced is not None:
        batch = _unless_unsure(lambda: solve_run_batch(run, sourced.topology, deepspeed), reading)
    facts = Facts(
        run=run,
        deepspeed=deepspeed,
        batch=batch,
        launch=launch,
        model=_unless_unsure(lambda: read_model_facts(run.config.model.path), reading),
        tokenizer=_unless_unsure(lambda: tokenizer_files_of(run), reading),
        adapter=_unless_unsure(lambda: start_adapter(run), reading),
        ends=_unless_unsure(lambda: read_model_ends(run.config.model.path), reading),
    )
    return _checked(facts, reading, sourced)


def start_adapter(run: RunFile) -> AdapterFolder | None:
    """The adapter that the run starts from. Raises Refused, at the place of its key."""
    try:
        return read_adapter(run.config.model)
    except Refused as refused:
        place = run.place("model.adapter")
        raise Refused([replace(each, place=each.place or place) for each in refused.findings]) from refused


def survey(checked: CheckedRun, index: DataIndex | None = None, *, look: bool = False) -> CheckedRun:
    """The same with what the data adds: number of steps, rates, and, with `look`, the state of the samples.

    index: of the training data; without one, records are counted and some are looked at.
    """
    run, batch = checked.run, checked.facts.batch
    reading = list(checked.reading)
    facts = checked.facts
    can_open = all(finding.code not in _NO_DATA for finding in reading)
    if look and can_open:
        special = facts.tokenizer.special if facts.tokenizer is not None else ()
        facts = replace(facts, data=_unless_unsure(lambda: look_at(run, index, special), reading))
        reading.extend(facts.data.findings if facts.data is not None else ())
    elif index is not None:
        reading.extend(index_findings(run, index))
    if index is not None or can_open:
        sources = _unless_unsure(lambda: _sources(run, index), reading)
        facts = replace(facts, sources=sources or ())
    needs_tokens = _unless_unsure(lambda: run.config.batch.target_trained_tokens, []) is not None
    if batch is not None and facts.sources and (index is not None or not needs_tokens):
        trained = index.trained_tokens if index is not None else None
        schedule = _unless_unsure(lambda: run_schedule(run, batch, facts.sources, trained), reading)
        facts = replace(facts, schedule=schedule)
        if schedule is not None and index is not None:
            _unless_unsure(lambda: refuse_crowded(run, batch, schedule, index), reading)
        if schedule is not None:
            rate = _unless_unsure(lambda: run_rate(run, schedule), reading)
            facts = replace(facts, rate=rate)
    return _checked(facts, reading, checked.topology)


def plan_written(
    path: str,
    overrides: Sequence[str],
    launch_files: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> tuple[RunPlan, tuple[Finding, ...]]:
    """The plan of what is written, and warnings; no index is made for it. Raises Refused."""
    checked = read_and_check(path, overrides, launch_files=launch_files, environ=environ)
    checked.refuse()
    found = [*not_here(checked.run), *wrong_with_evaluation(checked.run)]
    checked = checked.and_found([*map(said_beforehand, found)])
    index = existing_index(checked)
    checked = survey(checked, index)
    return plan_checked(checked, index), checked.findings


def existing_index(checked: CheckedRun) -> DataIndex | None:
    """The index of what is trained on, when it is already built and can be looked for. Raises Refused, with
    all that was found before, when data.validation leaves nothing of it.
    """
    if any(finding.code in _NO_INDEX for finding in checked.findings):
        return None
    index = None
    with suppress(Unsure, Refused):
        index = find_index(checked.run, train_files(checked.run.config.data))
    try:
        return None if index is None else run_parts(checked.run, index)[0]
    except Unsure:
        return None
    except Refused as refused:
        raise Refused([*checked.findings, *refused.findings]) from refused


def plan_checked(checked: CheckedRun, index: DataIndex | None) -> RunPlan:
    """The plan on an index, or, without one, on a count of records. Refused when there is an error among
    findings.
    """
    facts = checked.facts
    if facts.schedule is None:
        checked = survey(checked, index)
        facts = checked.facts
    if checked.has_error:
        raise Refused(checked.findings)
    if facts.schedule is None and index is None and checked.run.config.batch.target_trained_tokens:
        raise Refused(steps_not_known(checked.run))
    if facts.batch is None or facts.schedule is None or facts.rate is None:
        raise RuntimeError("no error was found, and there is no plan")
    return RunPlan(
        checked.run,
        checked.sourced,
        facts.batch,
        facts.schedule,
        facts.rate,
        facts.deepspeed,
        index,
        facts.sources,
    )


def _checked(facts: Facts, reading: Sequence[Finding], topology: SourcedTopology | None) -> CheckedRun:
    """With all findings, in file order; one that a look and a count both made is kept once."""
    found = (*reading, *run_static_rules(facts))
    no_model = {finding.place for finding in found if finding.code == "CF541"}
    unique: dict[tuple[str, Place | None, str, str], Finding] = {}
    for finding in found:
        if finding.code != "CF520" or finding.place not in no_model:  # that model's own tokenizer
            file = finding.label if finding.code in _NO_DATA else ""  # of several on one command line
            unique.setdefault((finding.code, finding.place, finding.title, file), finding)
    judged = accept_known(facts.run, in_file_order(unique.values(), facts.run.path))
    return CheckedRun(facts, tuple(reading), judged, topology)


def _unless_unsure(ask: Callable[[], T], findings: list[Finding]) -> T | None:
    """What `ask` gives; None when the config has it wrong, or when it is refused, which is noted."""
    try:
        return ask()
    except Unsure:
        return None
    except Refused as refused:
        findings.extend(refused.findings)
        return None


def _launch(
    paths: Iterable[str], environ: Mapping[str, str], findings: list[Finding]
) -> tuple[LaunchFile, ...]:
    files = []
    for path in paths:
        file, found = read_launch_file(path)
        findings.extend(found)
        files.append(file)
    return tuple(file for file in (*files, read_job(environ)) if file is not None)


def starts(file: LaunchFile, config: str) -> bool:
    """Whether the command in a launch file names this run config."""
    return file.config is not None and file.config.is_same(config)


def _deepspeed(run: RunFile) -> DeepSpeedFile | None:
    if run.config.deepspeed is None:
        return None
    return load_deepspeed_file(run.config.deepspeed, run.place("deepspeed"))


def _sources(run: RunFile, index: DataIndex | None) -> tuple[PlannedSource, ...]:
    """The entries of data.train, counted. Raises Refused."""
    try:
        return planned_sources(run, index)
    except NothingLeft as error:
        raise Refused(impossible_finding(error, run)) from error


def _files_missing(run: RunFile) -> list[Finding]:
    """Data files and a tokenizer that are not there; validation data too, which is only read last."""
    findings: list[Finding] = []
    data = run.config.data
    try:
        refuse_unopenable([*train_files(data), *data.validation_files], data.task, run)
    except Refused as refused:
        findings.extend(refused.findings)
    try:
        tokenizer_mark(run)
    except Refused as refused:
        findings.extend(refused.findings)
    return findings
