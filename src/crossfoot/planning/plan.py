"""From a run config, and an index when there is one, to all that is known before the first forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.batch import (
    BatchImpossible,
    BatchPlan,
    GpusPerNode,
    Topology,
    alike,
    solve_batch,
    spread,
)
from crossfoot.arithmetic.held_out import NothingLeft
from crossfoot.arithmetic.layout import (
    LLAMA_2_7B_WORK_PER_TOKEN,
    Layout,
    PackedLayout,
    PaddedLayout,
    StepTooFull,
    refuse_full_steps,
)
from crossfoot.arithmetic.mixture import Mixture
from crossfoot.arithmetic.rate import RateImpossible, RatePlan, half_life_beta, plan_rate
from crossfoot.arithmetic.schedule import Schedule, ScheduleImpossible, batches_sha256
from crossfoot.arithmetic.zero_stages import Parameters, StageCost
from crossfoot.checks.deepspeed.handed_over import handed_over
from crossfoot.checks.deepspeed.stage_costs import costs_of, parameters_of
from crossfoot.checks.impossible import impossible_finding
from crossfoot.environment.world import World
from crossfoot.findings.finding import Refused
from crossfoot.index.planned_sources import PlannedSource, are_told_apart
from crossfoot.index.store import DataIndex
from crossfoot.planning.deepspeed_config import zero_stage
from crossfoot.written.adapter_folder import AdapterFolder, read_adapter
from crossfoot.written.config import Config, OptimizerSection
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.hub import commits_of
from crossfoot.written.launch.sizes import gpus_written, nodes_written
from crossfoot.written.launch.statement import LaunchFile
from crossfoot.written.model_facts import read_model_facts
from crossfoot.written.run_file import RunFile


@dataclass(frozen=True)
class SourcedTopology:
    """Nodes and GPUs, and who said so. are_gpus_told: False when they are only assumed."""

    topology: Topology
    gpus_origin: str
    nodes_origin: str
    are_gpus_told: bool = True


def topology_of(
    run: RunFile, world: World | None = None, launch: Sequence[LaunchFile] = ()
) -> SourcedTopology:
    """`cluster` owns nodes and GPUs; what it leaves out comes from the launch files, from the running world,
    or is one. Launch files that disagree are a finding of the checks, and the first of them counts. Who names
    the GPUs of each node names the nodes too.
    """
    nodes = nodes_written(run, launch)
    gpus = gpus_written(run, launch, nodes.value if nodes else 1)
    launcher = f"{world.launcher} launcher" if world is not None else ""
    num_nodes, nodes_origin = 1, "assumed: cluster.num_nodes is not given"
    if nodes is not None:
        num_nodes, nodes_origin = nodes.value, nodes.origin
    elif world is not None:
        num_nodes, nodes_origin = world.num_nodes, launcher
    gpus_per_node: GpusPerNode = 1
    gpus_origin = "assumed: cluster.gpus_per_node is not given"
    if gpus is not None:
        gpus_per_node, gpus_origin = gpus.value, gpus.origin
    elif world is not None:
        # a rank may know its own node only; the preflight check brings the others (CheckedRun.on_nodes)
        gpus_per_node = alike(world.ranks_per_node or spread(world.world_size, world.num_nodes))
        gpus_origin = launcher
    if isinstance(gpus_per_node, tuple) and len(gpus_per_node) != num_nodes:
        gpus_per_node = max(gpus_per_node)  # that they are of other nodes is a finding of its own
    is_told = gpus is not None or world is not None
    return SourcedTopology(Topology(gpus_per_node, num_nodes), gpus_origin, nodes_origin, is_told)


def solve_run_batch(run: RunFile, topology: Topology, deepspeed: DeepSpeedFile | None = None) -> BatchPlan:
    """The batch of this config on this topology; Refused with the config's places when there is none, and
    with changes that agree with the DeepSpeed file.
    """
    fixed = {} if deepspeed is None else deepspeed.batch_numbers
    try:
        return solve_batch(topology, **run.config.batch_numbers, fixed=fixed)
    except BatchImpossible as error:
        raise Refused(impossible_finding(error, run)) from error


def run_parts(run: RunFile, index: DataIndex) -> tuple[DataIndex, DataIndex | None]:
    """What of the training files' index is trained on, and what is held out for validation, if anything is.
    Refused, with the config's place, when nothing is left.
    """
    try:
        return index.parted(run.config.data.held_out)
    except NothingLeft as error:
        raise Refused(impossible_finding(error, run)) from error


def run_schedule(
    run: RunFile,
    batch: BatchPlan,
    sources: Sequence[PlannedSource],
    trained_tokens: NDArray[np.int32] | None = None,
) -> Schedule:
    """The steps of this run over its sources; Refused, with the config's places, without any. trained_tokens:
    of each sample, which batch.target_trained_tokens needs.
    """
    config = run.config
    mixture = Mixture(tuple(source.share for source in sources), config.run.seed)
    try:
        schedule = Schedule(
            num_samples=mixture.samples_per_epoch,
            global_batch_size=batch.global_batch_size,
            seed=config.run.seed,
            last_step=config.data.last_step,
            epochs=config.train.epochs,
            max_steps=config.train.max_steps,
            batch_from_samples=config.batch.from_samples,
            target_trained_tokens=config.batch.target_trained_tokens,
            trained_tokens=trained_tokens,
            mixture=None if mixture.is_plain else mixture,
        )
    except ScheduleImpossible as error:
        raise Refused(impossible_finding(error, run)) from error
    return schedule


def run_rate(run: RunFile, schedule: Schedule) -> RatePlan:
    """The learning rate of every step; Refused with the config's places, for the rule and for the warm-up at
    once, when none follows.
    """
    lr = run.config.lr
    given: dict[str, Any] = {
        "reference": lr.reference,
        "reference_batch": lr.reference_batch,
        "rule": "none" if schedule.target_trained_tokens else lr.rule,  # CF117
        "global_batch_size": max(batch for _, batch in schedule.batches),
        "batches": schedule.batches,
        "samples_before": schedule.samples_before,
        "schedule": lr.schedule,
        "min_ratio": lr.min_ratio,
        "total_steps": schedule.total_steps,
        "warmup_steps": lr.warmup_steps,
        "warmup_fraction": lr.warmup_fraction,
        "warmup_samples": lr.warmup_samples,
        "cycles": lr.cycles,
        "decay_fraction": lr.decay_fraction,
        "decay_shape": lr.decay_shape,
        "groups": lr.groups,
    }
    try:
        return plan_rate(**given)
    except RateImpossible as error:
        wrong = {error.keys: error}
    without_warmup = {"warmup_steps": None, "warmup_fraction": None, "warmup_samples": None}
    for change in ({"rule": "none"}, without_warmup):
        try:
            plan_rate(**{**given, **change})
        except RateImpossible as error:
            wrong.setdefault(error.keys, error)
    raise Refused([impossible_finding(error, run) for error in wrong.values()])


def run_layout(config: Config, batch: BatchPlan) -> Layout:
    """Where samples sit on the plan's ranks. Reads the model's config.json for what a token costs in it."""
    places = (batch.topology.dp_degree, batch.grad_accum_steps, batch.micro_batch_size)
    if not config.data.is_packed:
        return PaddedLayout(*places)
    facts = read_model_facts(config.model.path)
    work_per_token = (facts and facts.work_per_token) or LLAMA_2_7B_WORK_PER_TOKEN
    return PackedLayout(*places, work_per_token, batch.topology.dp_degree, batch.micro_batch_tokens)


def refuse_crowded(run: RunFile, batch: BatchPlan, schedule: Schedule, index: DataIndex) -> None:
    """Refused, with the config's places, when a step does not fit in the forwards that it may use."""
    try:
        refuse_full_steps(schedule, batch, run_layout(run.config, batch), index.lengths)
    except StepTooFull as error:
        raise Refused(impossible_finding(error, run)) from error


def _as_json(gpus: GpusPerNode) -> int | list[int]:
    return gpus if isinstance(gpus, int) else list(gpus)


@dataclass(frozen=True)
class RunPlan:
    """The whole plan. index: of what is trained on; None: the data is only counted, `estimated` is true and
    there are no hashes. sources: the entries of data.train; none of a proof, whose data is made up.
    """

    run: RunFile
    sourced: SourcedTopology
    batch: BatchPlan
    schedule: Schedule
    rate: RatePlan
    deepspeed: DeepSpeedFile | None
    index: DataIndex | None
    sources: tuple[PlannedSource, ...] = ()

    @property
    def estimated(self) -> bool:
        """True when the number of samples is a count of records, not of tokenised samples."""
        return self.index is None

    @cached_property
    def optimizer(self) -> OptimizerSection:
        """The config's, with the betas of this batch."""
        section = self.run.config.optimizer
        first, second = section.betas
        batch = self.batch.global_batch_size
        return section.model_copy(
            update={"betas": (first, half_life_beta(second, section.beta2_reference_batch, batch))}
        )

    @property
    def zero_stage(self) -> int | None:
        """ZeRO stage, None without a DeepSpeed file."""
        return None if self.deepspeed is None else zero_stage(self.deepspeed.values)

    def layout(self, *, folded: bool = False) -> Layout:
        """Where samples sit: on the plan's ranks, or all on one process."""
        return self._layout.folded() if folded else self._layout

    @cached_property
    def _layout(self) -> Layout:
        return run_layout(self.run.config, self.batch)

    @cached_property
    def commits(self) -> dict[str, str]:
        """Of model and tokenizer, by key, where a hub gave them."""
        return commits_of(self.run)

    @cached_property
    def adapter(self) -> AdapterFolder | None:
        """The adapter that the run starts from."""
        return read_adapter(self.run.config.model)

    @cached_property
    def parameters(self) -> Parameters | None:
        """How many are trained; None for a model of which too little is known."""
        rows = self.index.header.tokenizer.vocabulary if self.index else 0
        rows = max(rows, self.adapter.rows if self.adapter else 0)
        return parameters_of(self.run.config, read_model_facts(self.run.config.model.path), rows)

    @cached_property
    def stage_costs(self) -> tuple[StageCost, ...]:
        """What each ZeRO stage would cost; none of one rank, or where the parameters are not known."""
        if self.deepspeed is None:
            return ()
        handed = handed_over(self.deepspeed.values, self.run.config)
        return costs_of(self.run.config, self.parameters, self.batch, handed)

    @cached_property
    def batches_sha256(self) -> str | None:
        """Hash of the step sets; the same on every topology."""
        return None if self.index is None else batches_sha256(self.schedule)

    @cached_property
    def layout_sha256(self) -> str | None:
        """Hash of the slots."""
        if self.index is None:
            return None
        return self.layout().sha256(self.schedule, self.index.lengths)

    @cached_property
    def expects(self) -> dict[str, int] | None:
        """What the receipt will hold the run against: sums over all planned steps and all ranks."""
        if self.index is None:
            return None
        sums = {"samples": 0, "real_tokens": 0, "trained_tokens": 0, "forwards": 0}
        layout, lengths = self.layout(), self.index.lengths
        for block in self.schedule.blocks():
            forwards = block.each(lambda ids: layout.forwards(lengths[ids]))
            sums["forwards"] += int(forwards.sum()) * layout.dp_degree
            sums["samples"] += int(block.ids.size)
            sums["real_tokens"] += int(lengths[block.ids].sum(dtype=np.int64))
            sums["trained_tokens"] += int(self.index.trained_tokens[block.ids].sum(dtype=np.int64))
        return {
            "total_steps": self.schedule.total_steps,
            "distinct_samples": self.schedule.distinct_samples,
            **sums,
        }

    def numbers(self) -> dict[str, Any]:
        """What `plan --json` promises to have: what, not where from."""
        batch, schedule, rate, layout = self.batch, self.schedule, self.rate, self.layout()
        held_out = None if self.index is None else self.index.held_out
        return {
            "micro_batch_size": batch.micro_batch_size,
            "micro_batch_tokens": batch.micro_batch_tokens,
            "grad_accum_steps": batch.grad_accum_steps,
            "gpus_per_node": _as_json(batch.topology.gpus_per_node),
            "num_nodes": batch.topology.num_nodes,
            "world_size": batch.topology.world_size,
            "dp_degree": batch.topology.dp_degree,
            "global_batch_size": schedule.largest_step[1]
            if schedule.target_trained_tokens is not None
            else batch.global_batch_size,
            "batch_from_samples": [list(pair) for pair in schedule.batch_from_samples] or None,
            "target_trained_tokens": schedule.target_trained_tokens,
            "capacity_samples": batch.capacity_samples,
            "samples_per_epoch": schedule.num_samples,
            **({"sources": [one.numbers for one in self.sources]} if are_told_apart(self.sources) else {}),
            "held_out_samples": None if held_out is None else len(held_out.validation),
            "held_out_duplicates": None if held_out is None else held_out.duplicates,
            "steps_per_epoch": schedule.steps_per_epoch,
            "total_steps": schedule.total_steps,
            "last_step_samples": schedule.last_step_samples,
            "dropped_samples": schedule.dropped_samples,
            "learning_rate": {
                "reference": rate.reference,
                "reference_batch": rate.reference_batch,
                "rule": rate.rule,
                "peak": rate.peak,
                "peaks": [list(pair) for pair in rate.peaks] or None,
                "schedule": rate.schedule,
                "min_ratio": rate.min_ratio,
                "cycles": rate.cycles,
                "decay_steps": rate.decay_steps,
                "decay_shape": rate.decay_shape if rate.decay_steps else None,
                "group_peaks": {name: rate.peak * ratio for name, ratio in rate.groups.items()},
            },
            "beta2": self.optimizer.betas[1],
            "warmup_steps": rate.warmup_steps,
            "work_per_token": layout.work_per_token if isinstance(layout, PackedLayout) else None,
            "zero_stage": self.zero_stage,
            "estimated": self.estimated,
            "batches_sha256": self.batches_sha256,
            "layout_sha256": self.layout_sha256,
        }
