"""One rank's run, from the command line to the exit code: assign, agree, build, train, close."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from crossfoot.environment.world import World
from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.formats import show
from crossfoot.liveness.rank_monitor import RankMonitor
from crossfoot.liveness.stopping import Stop, StopRequest
from crossfoot.phrases import first_line
from crossfoot.rendezvous.rendezvous import RefusedTogether
from crossfoot.runs.attempts import note_matmul
from crossfoot.runs.run_folder import release_folder
from crossfoot.training.acquire import acquire, start_attempt
from crossfoot.training.rank_job import RankJob, TrainOptions, make_rank_job

FOLLOW_SECONDS = 10.0
NO_OPTIONS = TrainOptions()


def run(path: str, overrides: Sequence[str], world: World, options: TrainOptions = NO_OPTIONS) -> int:
    """The main job on one rank; returns the exit code of the contract, the same on every rank.

    Raises Refused for a user's mistake, KeyboardInterrupt for a signal before the first step; the run folder
    is then free again. torch is imported only when everything that can be refused has been.
    """
    try:
        with StopRequest(speaks=world.rank == 0) as stop:
            work = acquire(make_rank_job(path, overrides, world, options))
            try:
                with _rank_monitor(work, stop) as rank_monitor:
                    start_attempt(work)
                    return _train(work, stop, rank_monitor)
            except BaseException:
                if world.rank == 0:
                    release_folder(work.plan.run, work.resume_point.attempt)
                raise
    except RefusedTogether as refused:
        if world.rank == 0:
            raise
        return follow(refused)


def follow(refused: RefusedTogether) -> int:
    """Say nothing: rank 0 says it for all. A launcher ends this rank with it; where none does, a little later
    it ends by itself, so that rank 0's exit comes first.
    """
    with suppress(KeyboardInterrupt):
        time.sleep(FOLLOW_SECONDS)
    return refused.exit_code


def _rank_monitor(work: RankJob, stop: StopRequest) -> RankMonitor:
    """The monitor of the other ranks, which runs until this one ends. When the launcher that started this
    rank is gone, the run stops after the current step, as on a signal.
    """

    def orphaned(finding: Finding) -> None:
        stop.ask(Stop.ORPHANED)
        if rank_monitor.speaks:
            show([replace(finding, severity="warning")])

    rank_monitor = RankMonitor(
        work.plan.run.run_dir,
        work.resume_point.attempt,
        work.world.rank,
        work.world.world_size,
        work.plan.run.config.faults.timeout_seconds,
        first_step=work.resume_point.first_step,
        on_orphaned=orphaned,
    )
    return rank_monitor


def _train(work: RankJob, stop: StopRequest, rank_monitor: RankMonitor) -> int:
    from crossfoot.models.quiet import hush_libraries

    hush_libraries()
    from crossfoot.rendezvous.ranks import agree, is_lost_rank, join
    from crossfoot.training.build import Built, build
    from crossfoot.training.closing import close
    from crossfoot.training.cpu_compute import settle_compute
    from crossfoot.training.loop import train_steps

    world = work.world
    built: Built | None = None
    rank_monitor.phase("loading")
    try:
        ranks = join(world, work.engine_kind, os.environ, work.plan.run.config.faults.timeout_seconds)
        agree(ranks, world, work.lock["sha256"])
        way = settle_compute(work.plan.run.config.model, world, ranks, _matmul_before(work))
        if way is not None and ranks.is_first:
            note_matmul(work.plan.run.run_dir, work.resume_point.attempt, way)
        built = build(work, ranks, stop, rank_monitor)
        stop.begin()
        rank_monitor.phase("training")
        steps_done, reason = train_steps(built.training, work.resume_point.first_step, work.steps)
        rank_monitor.phase("closing")
        exit_code = close(work, built, steps_done, reason)
        ranks.leave()
    except Exception as error:
        if built is not None:
            built.training.step_recorder.rescue()
        if world.world_size > 1 and is_lost_rank(error):
            finding = rank_monitor.who_is_lost(_first_line(error))
            raise (Refused if rank_monitor.speaks else RefusedTogether)(finding) from error
        if world.world_size > 1 and not isinstance(error, Refused):
            rank_monitor.failed(f"{type(error).__name__}: {_first_line(error)}")
        raise
    return exit_code


def _matmul_before(work: RankJob) -> str | None:
    """How the last of the earlier attempts that decided it multiplied matrices. Known to rank 0."""
    attempts = work.resumed.previous_attempts.attempts if work.resumed is not None else ()
    return next((one.matmul for one in reversed(attempts) if one.matmul is not None), None)


def _first_line(error: Exception) -> str:
    """What a library says, without the place in its source that it begins with and the advice at the end."""
    return re.sub(r"^\[[^\]]*\]\s*", "", first_line(error)).split(". ")[0]
