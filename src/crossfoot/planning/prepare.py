"""Everything that happens before torch is imported: read, check, index, plan; all findings at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossfoot.arithmetic.batch import BatchPlan
from crossfoot.checks.rules import Facts, check_static
from crossfoot.finding import Finding, Refused
from crossfoot.index.locate import count_records, estimate_samples, refuse_unopenable, tokenizer_mark
from crossfoot.index.store import DataIndex
from crossfoot.planning.plan import RunPlan, SourcedTopology, make_plan, solve_run_batch, topology_of
from crossfoot.starting.world import World
from crossfoot.written.deepspeed_file import DeepSpeedFile, load_deepspeed_file
from crossfoot.written.run_file import RunFile, load_run

_FILE_CODES = ("CF501", "CF502")


@dataclass(frozen=True)
class Static:
    """What is known without looking at the data."""

    run: RunFile
    sourced: SourcedTopology
    batch: BatchPlan | None
    deepspeed: DeepSpeedFile | None
    findings: tuple[Finding, ...]

    @property
    def has_error(self) -> bool:
        """True when a finding forbids the run."""
        return any(finding.severity == "error" for finding in self.findings)

    def refuse(self) -> None:
        """Raises Refused when there is an error, with what an early look at the data adds: all at once."""
        if not self.has_error:
            return
        if any(finding.code in _FILE_CODES for finding in self.findings):
            raise Refused(self.findings)
        try:
            count_records(self.run.config.data.train, self.run.config.data.task)
        except Refused as refused:
            raise Refused([*self.findings, *refused.findings]) from refused
        raise Refused(self.findings)


def read_static(path: str, overrides: Sequence[str], world: World | None = None) -> Static:
    """Read the run config and the DeepSpeed file and hold them against each other. Raises only for the
    unreadable.
    """
    run = load_run(path, overrides)
    sourced = topology_of(run, world)
    findings: list[Finding] = []
    batch: BatchPlan | None = None
    deepspeed: DeepSpeedFile | None = None
    try:
        batch = solve_run_batch(run, sourced.topology)
    except Refused as refused:
        findings.extend(refused.findings)
    if run.config.deepspeed is not None:
        try:
            deepspeed = load_deepspeed_file(run.config.deepspeed, run.place("deepspeed"))
        except Refused as refused:
            findings.extend(refused.findings)
    findings.extend(check_static(Facts(run=run, deepspeed=deepspeed, batch=batch)))
    findings.extend(_files_missing(run, names_model=all(finding.code != "CF541" for finding in findings)))
    return Static(run, sourced, batch, deepspeed, tuple(findings))


def _files_missing(run: RunFile, names_model: bool) -> list[Finding]:
    """Data files and a tokenizer that are not there: validation data too, which is only read after all else.

    names_model: model.path is no folder that is missing; if it is, its tokenizer is not looked for.
    """
    findings: list[Finding] = []
    data = run.config.data
    try:
        refuse_unopenable([*data.train, *data.validation], data.task, run)
    except Refused as refused:
        findings.extend(refused.findings)
    if names_model or run.config.tokenizer is not None:
        try:
            tokenizer_mark(run)
        except Refused as refused:
            findings.extend(refused.findings)
    return findings


def plan_static(static: Static, index: DataIndex | None) -> RunPlan:
    """The plan on an index, or, without one, on a count of records. Refused when there is an error among
    findings.
    """
    if static.batch is None or static.has_error:
        raise Refused(static.findings)
    data = static.run.config.data
    counted = index.num_samples if index else estimate_samples(data.train, data.task, data.max_seq_len)
    try:
        return make_plan(
            static.run,
            sourced=static.sourced,
            batch=static.batch,
            deepspeed=static.deepspeed,
            index=index,
            num_samples=counted,
        )
    except Refused as refused:
        raise Refused([*static.findings, *refused.findings]) from refused
