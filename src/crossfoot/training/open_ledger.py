"""The ledger of a run, opened for one attempt at it, and what earlier attempts trained taken over. Rank 0."""

from __future__ import annotations

import os
from collections.abc import Callable

from crossfoot.arithmetic.layout import Layout
from crossfoot.findings.render import render
from crossfoot.index.planned_sources import are_told_apart
from crossfoot.ledger.book import LedgerBook
from crossfoot.ledger.reconcile import Reconciler, remember
from crossfoot.ledger.seen_samples import LedgerSource
from crossfoot.ledger.skipping import policies_of
from crossfoot.planning.plan import RunPlan
from crossfoot.runs.attempts import LEDGER_FILE, attempt_path, counted, later_attempt, read_attempts
from crossfoot.training.rank_job import RankJob


def open_ledger(
    work: RankJob, layout: Layout, report: Callable[[str], None]
) -> tuple[LedgerBook, Reconciler]:
    """The book to append to, cut back to what can be read, and a reconciler that knows what was trained.

    Raises Refused when the ledger cannot be written.
    """
    run_dir, attempt, index = work.plan.run.run_dir, work.resume_point.attempt, work.index
    previous_attempts = work.resumed.previous_attempts if work.resumed is not None else None
    read = previous_attempts.lines if previous_attempts is not None else None
    book = LedgerBook(
        os.path.join(run_dir, LEDGER_FILE),
        whole_bytes=read.whole_bytes if read is not None and read.damage else None,
        keep_in=attempt_path(run_dir, attempt),
        successor=lambda: later_attempt(run_dir, attempt),
    )
    if book.cut is not None:
        report(render([book.cut], colour=False))
    reconciler = Reconciler(
        index.digests,
        index.token_digests,
        index.lengths,
        index.trained_tokens,
        dp_degree=layout.dp_degree,
        origin=index.origin,
        attempt=attempt,
        policies=policies_of(work.lock),
        sources=_ledger_sources(work.plan),
    )
    if previous_attempts is not None:
        schedule = work.plan.schedule
        lines, _ = counted(previous_attempts.lines, read_attempts(run_dir))
        remember(reconciler, lambda step: (schedule.samples(step), schedule.passes_of(step)), lines)
    return book, reconciler


def _ledger_sources(plan: RunPlan) -> tuple[LedgerSource, ...]:
    """The sources whose samples the lines count apart."""
    if not are_told_apart(plan.sources):
        return ()
    return tuple(
        LedgerSource(one.share.first + one.samples, one.share.samples, one.share.per_epoch)
        for one in plan.sources
    )
