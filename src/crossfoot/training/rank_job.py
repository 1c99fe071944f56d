"""What a rank is to do: everything that is decided and refused before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.data.train_sources import train_files
from crossfoot.environment.ancestry import launchers_above
from crossfoot.environment.world import Engine, World, engine_for, refuse_nested, unplanned_nodes
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.store import DataIndex
from crossfoot.index.tokenising_line import TokenisingLine
from crossfoot.index.verified import alone, verified_index
from crossfoot.liveness.findings import run_lives
from crossfoot.liveness.living import living
from crossfoot.planning.lock import make_lock
from crossfoot.planning.plan import RunPlan, run_parts
from crossfoot.planning.prepare import CheckedRun, plan_checked, read_and_check, survey
from crossfoot.planning.start_conditions import Start, unmet
from crossfoot.rendezvous.devices import look_at_device
from crossfoot.rendezvous.meeting_point import meet
from crossfoot.rendezvous.preflight import ranks_per_node
from crossfoot.rendezvous.rank_info import rank_info_of
from crossfoot.rendezvous.rendezvous import Rendezvous
from crossfoot.runs.changing import refusals_of_allow
from crossfoot.runs.findings import allow_without_continue
from crossfoot.runs.restarts import is_started_again, take_over_without_continue
from crossfoot.runs.resume import NEW_RUN, PreviousAttempts, Resumed, ResumePoint
from crossfoot.runs.run_folder import holds_run
from crossfoot.written.hub import not_here
from crossfoot.written.model_facts import BUILTIN_TINY, needs_trained_embeddings
from crossfoot.written.run_file import RunFile


@dataclass(frozen=True)
class TrainOptions:
    """What the command line asks for besides the plan.

    stop_after: so many steps of the plan, over all attempts; None: all. continues: go on with the run in the
    run folder. allow: keys that may be changed for that. takes_over: also when its last attempt lives.
    is_repeated: the same command begins the run, goes on with it, or finds it finished.
    """

    stop_after: int | None = None
    continues: bool = False
    allow: tuple[str, ...] = ()
    takes_over: bool = False
    is_repeated: bool = False

    def on(self, run: RunFile, environ: Mapping[str, str]) -> TrainOptions:
        """What that comes to for the run folder as it is, in this surrounding. Raises Refused."""
        if is_started_again(run, environ):
            return replace(self, continues=True, is_repeated=True)
        return replace(self, continues=self.continues or (self.is_repeated and holds_run(run.run_dir)))


@dataclass(frozen=True)
class RankJob:
    """One rank's work. lock: the plan's, its sha256 the same on all ranks. steps: of the plan, done when this
    attempt ends.

    validation is None without validation data. engine_kind: deepspeed or accelerate. rendezvous: where all
    ranks meet before they have a process group; None for a rank that is alone. previous_attempts: what
    rank 0 found in the run folder to go on with; None for a new run. resume_point: where it starts, known
    once the run folder is claimed. resumed: how rank 0 takes the run up. hosts: of every rank.
    """

    plan: RunPlan
    index: DataIndex
    validation: DataIndex | None
    world: World
    engine_kind: str
    warnings: tuple[Finding, ...]
    lock: dict[str, Any]
    steps: int
    options: TrainOptions = TrainOptions()
    rendezvous: Rendezvous | None = None
    previous_attempts: PreviousAttempts | None = None
    resume_point: ResumePoint = NEW_RUN
    resumed: Resumed | None = None
    hosts: tuple[str, ...] = ()

    @property
    def folded(self) -> bool:
        """True when the plan's ranks, one or many, run in one process."""
        return self.engine_kind == "accelerate"

    @property
    def model_path(self) -> str:
        """Folder or hub id of the base model; builtin:tiny lies beside the indexes once it is made."""
        path = self.plan.run.config.model.path
        return tiny_folder(self.plan.run.index_dir) if path == BUILTIN_TINY else path


def make_rank_job(path: str, overrides: Sequence[str], world: World, options: TrainOptions) -> RankJob:
    """Read, check, compare the ranks (preflight), index, plan.

    What can be refused without torch is refused first; tokenising comes last. Raises Refused, for what all
    ranks found together on all of them.
    """
    refuse_start()
    if unknown := refusals_of_allow(options.allow):
        raise Refused(unknown)
    checked = read_and_check(path, overrides, world)
    checked.refuse()
    config = checked.run.config
    if world.rank == 0:
        options = options.on(checked.run, os.environ)
    engine_kind = engine_of(checked, world)
    previous_attempts, refused, noted = _look_alone(checked.run, world, options)
    rendezvous, world, warnings = run_preflight(checked, world, refused)
    checked = checked.on_nodes(world.ranks_per_node)
    says = alone if rendezvous is None else rendezvous.first_says

    def index_of(files: list[str], name: str) -> DataIndex:
        first = world.rank == 0
        line = TokenisingLine() if first else None
        return verified_index(checked.run, files, is_builder=first, says=says, progress=line, name=name)

    index, validation = run_parts(checked.run, index_of(train_files(config.data), "index"))
    if files := config.data.validation_files:
        validation = index_of(files, "validation index")
    _refuse_untrained_rows(checked, index)
    checked = survey(checked, index, look=world.rank == 0)  # which alone says what the index tells
    checked.refuse()
    plan = plan_checked(checked, index)
    total, stop_after = plan.schedule.total_steps, options.stop_after
    return RankJob(
        plan=plan,
        index=index,
        validation=validation,
        world=world,
        engine_kind=engine_kind,
        warnings=(*checked.findings, *noted, *warnings),
        lock=make_lock(plan),
        steps=total if stop_after is None else min(stop_after, total),
        options=options,
        rendezvous=rendezvous,
        previous_attempts=previous_attempts,
    )


def refuse_start() -> None:
    """What is wrong with the way of starting itself, whatever the config says. Raises Refused."""
    refuse_nested(launchers_above(), os.environ)


def engine_of(checked: CheckedRun, world: World) -> Engine:
    """Which engine drives the run. Raises Refused when this world cannot be the plan's, as far as one rank
    knows it.
    """
    planned = checked.sourced.topology
    has_file = checked.run.config.deepspeed is not None
    engine_kind = engine_for(world, planned.world_size, has_file, os.environ)
    if findings := unplanned_nodes(world, planned):
        raise Refused(findings)
    return engine_kind


def run_preflight(
    checked: CheckedRun, world: World, refused: Sequence[Finding] = ()
) -> tuple[Rendezvous | None, World, tuple[Finding, ...]]:
    """All ranks are here, are one run, where the plan has them, and have devices of their own, before
    anything slow. Returns the rendezvous, the world with the ranks on each node as they came, and warnings.

    refused: what this rank alone is refused for; said here, so that nobody waits for it. One rank alone has
    nobody to meet. Raises RefusedTogether on all ranks, Refused for ranks that did not come.
    """
    if world.world_size == 1:
        if refused:
            raise Refused(refused)
        return None, world, ()
    rendezvous = meet(world, os.environ, checked.run.run_dir)
    device = look_at_device(world.local_rank, os.environ)
    rank_infos, warnings = rendezvous.preflight(rank_info_of(checked, world, device, refused))
    world = replace(world, ranks_per_node=ranks_per_node(rank_infos))
    planned = checked.on_nodes(world.ranks_per_node).sourced.topology
    rendezvous.refuse_together(unplanned_nodes(world, planned))
    return rendezvous, world, warnings


def _look_alone(
    run: RunFile, world: World, options: TrainOptions
) -> tuple[PreviousAttempts | None, tuple[Finding, ...], tuple[Finding, ...]]:
    """What only rank 0 looks at: the conditions of a start, and what earlier attempts left in the run folder;
    the others, whose cache may be another one, whether the model is here. (previous attempts, what the start
    is refused for, warnings).
    """
    if world.rank != 0:
        return None, not_here(run), ()
    start = Start(run, options.continues)
    found = unmet(start)
    if options.allow and not options.continues and not options.is_repeated:
        found += (allow_without_continue(options.allow),)
    if options.takes_over and not options.continues and not options.is_repeated:
        found += (take_over_without_continue(),)
    if any(finding.counts_as == "error" for finding in found):
        return None, found, ()
    if not start.continues:
        return None, (), found
    if not options.takes_over and (ranks := living(run.run_dir)):
        return None, (run_lives(run.run_dir, run.path, ranks[0].attempt, ranks), *found), ()
    return start.previous_attempts, (), found


def _refuse_untrained_rows(checked: CheckedRun, index: DataIndex) -> None:
    facts, rows = checked.facts.model, checked.facts.table_rows
    if facts is None or rows is None:
        return
    vocabulary = index.header.tokenizer.vocabulary
    finding = needs_trained_embeddings(checked.run.config, rows, vocabulary, facts.tied)
    if finding is not None:
        raise Refused(replace(finding, place=checked.run.place("lora")))
