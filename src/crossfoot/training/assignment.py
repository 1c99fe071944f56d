"""What a rank is to do: everything that is decided, refused and shown before torch is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossfoot.checks.render import render
from crossfoot.finding import Finding, Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.store import DataIndex
from crossfoot.index.tiny import tiny_folder
from crossfoot.index.tokenising_line import TokenisingLine
from crossfoot.planning.lock import make_lock, write_lock
from crossfoot.planning.page import render_plan
from crossfoot.planning.plan import RunPlan
from crossfoot.planning.prepare import Static, plan_static, read_static
from crossfoot.planning.run_folder import ATTEMPT_NAME, CONFIG_NAME, refuse_used_folder, release_folder
from crossfoot.starting.ancestry import launchers_above
from crossfoot.starting.world import World, engine_for, refuse_nested, refuse_unequal
from crossfoot.training.account import account_of
from crossfoot.training.devices import look_at_device
from crossfoot.training.meeting import Meeting, RefusedTogether, meet
from crossfoot.training.shared_folder import claim_folder
from crossfoot.training.tracking import refuse_missing_tracker
from crossfoot.written.model_facts import BUILTIN_TINY, needs_trained_embeddings
from crossfoot.written.resolved import dump_config


@dataclass(frozen=True)
class Assignment:
    """One rank's work. lock: the plan's, its sha256 the same on all ranks. steps: how many to train, from the
    first.

    validation is None without validation data. engine_kind: deepspeed or accelerate. meeting: where all ranks
    meet before they have a process group; None for a rank that is alone.
    """

    plan: RunPlan
    index: DataIndex
    validation: DataIndex | None
    world: World
    engine_kind: str
    warnings: tuple[Finding, ...]
    lock: dict[str, Any]
    steps: int
    meeting: Meeting | None = None

    @property
    def folded(self) -> bool:
        """True when the plan's ranks, one or many, run in one process."""
        return self.engine_kind == "accelerate"

    @property
    def model_path(self) -> str:
        """Folder or hub id of the base model; builtin:tiny lies beside the indexes once it is made."""
        path = self.plan.run.config.model.path
        return tiny_folder(self.plan.run.index_dir) if path == BUILTIN_TINY else path


def assign(path: str, overrides: Sequence[str], world: World, stop_after: int | None) -> Assignment:
    """Read, check, call the roll of the ranks, index, plan.

    What can be refused without torch is refused first; tokenising comes last. Raises Refused, for what all
    ranks found together on all of them.
    """
    refuse_start(world)
    static = read_static(path, overrides, world)
    static.refuse()
    config = static.run.config
    engine_kind = engine_for(
        world, static.sourced.topology.world_size, config.deepspeed is not None, os.environ
    )
    meeting, warnings = call_roll(static, world, _refused_alone(static, world))
    builds = world.rank == 0
    line = TokenisingLine() if builds else None
    index = ensure_index(static.run, config.data.train, is_builder=builds, progress=line)
    validation = None
    if config.data.validation:
        validation = ensure_index(
            static.run, config.data.validation, is_builder=builds, progress=line and TokenisingLine()
        )
    _refuse_untrained_rows(static, index)
    plan = plan_static(static, index)
    total = plan.schedule.total_steps
    return Assignment(
        plan=plan,
        index=index,
        validation=validation,
        world=world,
        engine_kind=engine_kind,
        warnings=(*static.findings, *warnings),
        lock=make_lock(plan),
        steps=total if stop_after is None else min(stop_after, total),
        meeting=meeting,
    )


def refuse_start(world: World) -> None:
    """What is wrong with the way of starting itself, whatever the config says. Raises Refused."""
    refuse_nested(launchers_above(), os.environ)
    refuse_unequal(world)


def call_roll(
    static: Static, world: World, refused: Sequence[Finding] = ()
) -> tuple[Meeting | None, tuple[Finding, ...]]:
    """All ranks are here, are one run, and have devices of their own, before anything slow; with warnings.

    refused: what this rank alone is refused for; said here, so that nobody waits for it. One rank alone has
    nobody to meet. Raises RefusedTogether on all ranks, Refused for ranks that did not come.
    """
    if world.world_size == 1:
        if refused:
            raise Refused(refused)
        return None, ()
    meeting = meet(world, os.environ)
    device = look_at_device(world.local_rank, os.environ)
    return meeting, meeting.call_the_roll(account_of(static, world, device, refused))


def _refused_alone(static: Static, world: World) -> list[Finding]:
    """What only rank 0 looks at: the run folder, and the tracker."""
    found: list[Finding] = []
    for look in (refuse_used_folder, refuse_missing_tracker) if world.rank == 0 else ():
        try:
            look(static.run)
        except Refused as refusal:
            found += refusal.findings
    return found


def _refuse_untrained_rows(static: Static, index: DataIndex) -> None:
    facts = static.facts.model
    if facts is None:
        return
    vocabulary = index.header.tokenizer.vocabulary
    finding = needs_trained_embeddings(static.run.config, facts.vocab_size, vocabulary, facts.tied)
    if finding is not None:
        raise Refused(replace(finding, place=static.run.place("lora")))


def claim(work: Assignment) -> None:
    """Rank 0 makes the run folder its own, and all see it there. Raises Refused, on all ranks together."""
    try:
        claim_folder(work.plan.run, work.world.rank, work.meeting)
    except RefusedTogether as refused:
        if work.world.rank == 0 and any(finding.code == "CF421" for finding in refused.findings):
            release_folder(work.plan.run)
        raise


def announce(work: Assignment) -> None:
    """Rank 0 writes the lock and the resolved config, and shows the plan."""
    if work.world.rank != 0:
        return
    run = work.plan.run
    write_lock(work.lock, run.run_dir)
    resolved = Path(run.run_dir) / ATTEMPT_NAME / CONFIG_NAME
    resolved.write_text(dump_config(run.config), encoding="utf-8")
    if work.warnings:
        print(render(work.warnings, colour=sys.stdout.isatty()), flush=True)
    print(render_plan(work.plan, work.lock["sha256"]), flush=True)
    planned = work.plan.batch
    if work.folded and planned.topology.world_size > 1:
        print(
            f"\nFOLDED: this one process stands in for {planned.topology.world_size} ranks: "
            f"{planned.fold().grad_accum_steps} forwards per step instead of {planned.grad_accum_steps}; "
            "same samples, same rates, same losses",
            flush=True,
        )
    print(flush=True)
