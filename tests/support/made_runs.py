"""Runs as their pages are made from, without a folder: steps, ranks, attempts and faults as wished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from crossfoot.ledger.book import BookLines
from crossfoot.ledger.entry import Cause, StepEntry
from crossfoot.ledger.rank_counts import per_rank_of
from crossfoot.receipts.receipt import make_receipt
from crossfoot.run_pages.seen_run import SeenRun
from crossfoot.runs.attempts import AcceptedFinding, Change
from crossfoot.runs.ending import Ending, PeakMemory
from crossfoot.runs.noise_scale import RunNoise
from crossfoot.runs.reader import AttemptRecord, RunRecord
from crossfoot.runs.validations import Validation
from crossfoot.watching.state import AttemptView, Footed, RunState
from ledger_cases import an_attempt, sealed

TOKENS = 37


def made_run(
    steps: int = 100,
    *,
    batch: int = 32,
    ranks: int = 4,
    name: str = "made",
    kills: tuple[int, ...] = (),
    ending: Ending | None = None,
    faults: Mapping[int, str] | None = None,
    status: str = "ended",
    done: int | None = None,
    noise: RunNoise | None = None,
    is_dry: bool = False,
    lock: Mapping[str, Any] | None = None,
    attempt: Mapping[str, Any] | None = None,
) -> SeenRun:
    """kills: each attempt but the last is killed after so many steps, and the next begins ten before. faults:
    by step index, a kind of cause, or "nan". done: steps with a line, None: all. ending: None: finished, and
    all done.
    """
    faults, done = faults or {}, steps if done is None else done
    if ending is None and status == "ended":
        memory = PeakMemory(7_123_000_000, ranks - 1, "GPU", "NVIDIA A100")
        ending = Ending("finished", done, 0, steps, 1.234567, None, memory=memory)
    records, lines, first = [], [], 0
    made_lock = _lock(steps, batch, ranks, name, lock or {})
    for number, end in enumerate((*kills, done), start=1):
        began = an_attempt(number, first, **{**_how(number, ranks), **(attempt or {})})
        records.append(AttemptRecord(began, made_lock, ending if end == done else None))
        lines += [_line(step, number, batch, ranks, faults.get(step, "")) for step in range(first, end)]
        first = max(0, end - 10)
    run = RunRecord(
        f"runs/{name}", made_lock, tuple(records), BookLines(lines), ending, _validations(steps, done)
    )
    receipt = make_receipt(made_lock, run.lines, ending, None, run.attempts)
    return SeenRun(f"runs/{name}", run, receipt, _state(run, status, done, steps), {}, noise, is_dry)


def _lock(steps: int, batch: int, ranks: int, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    samples = steps * batch
    expects = {
        "total_steps": steps,
        "samples": samples,
        "distinct_samples": samples,
        "real_tokens": samples * TOKENS,
        "trained_tokens": samples * (TOKENS - 7),
        "forwards": steps * ranks * 2,
    }
    config = {
        "model": {"path": "models/chinese-alpaca-2-7b", "dtype": "bfloat16"},
        "batch": {"micro_batch_size": 4, "grad_accum_steps": None, "global_batch_size": batch},
        "lora": {"r": 64, "alpha": 128.0, "target_modules": ["q_proj", "v_proj"]},
        "optimizer": {"name": "adamw", "max_grad_norm": 1.0},
    }
    plan = {
        "gpus_per_node": ranks,
        "num_nodes": 1,
        "global_batch_size": batch,
        "grad_accum_steps": 2,
        "capacity_samples": 4 * ranks * 2,
        "samples_per_epoch": samples,
        "learning_rate": {"peak": 2e-4, "rule": "sqrt", "reference_batch": 8, "schedule": "cosine"},
    }
    return sealed(
        expects, (ranks, 2), config, {"plan": {**plan, "batches_sha256": "1" * 64}, **changes}, name
    )


def _how(number: int, ranks: int) -> dict[str, Any]:
    origins = {"batch.global_batch_size": "configs/made.yaml:12", "model.path": "command line"}
    known = {"world_size": ranks, "gpus_per_node": ranks, "hosts": ("node1", "node2"), "job_id": "4711"}
    if number > 1:
        known["allowed"] = (Change("lr.reference", 1e-4, 2e-4),)
        accepted = AcceptedFinding(
            "CF232", "the rate is three times the usual", "measured on <our> data & co"
        )
        known["accepted"] = (accepted,)
    versions = {"torch": "2.13.0", "deepspeed": "0.19.8"}
    return known | {"origins": origins, "versions": versions, "started": "2026-11-30T05:41:34+00:00"}


def _line(step: int, attempt: int, batch: int, ranks: int, fault: str) -> StepEntry:
    loss = 2.5 * math.exp(-step / 800) + 1.2 + 0.2 * math.sin(step * 1.7)
    real = batch - 1 if fault in ("missing sample", "trained twice") else batch
    cause = [Cause(step, 1, 0, fault, "it was not", step, "data/zh.jsonl:7", 1, 0)] if fault in KINDS else []
    slots = [batch * TOKENS // ranks + (rank * 13 + step * 7) % 29 for rank in range(ranks)]
    columns = {
        "rank": range(ranks),
        "samples": [real // ranks + (rank < real % ranks) for rank in range(ranks)],
        "real_tokens": _dealt(real * TOKENS, ranks),
        "trained_tokens": _dealt(real * (TOKENS - 7), ranks),
        "token_slots": slots,
        "forwards": [2] * ranks,
    }
    seconds = 1.5 + batch / 100 + 0.3 * math.sin(step / 9)
    rate = 2e-4 * min(1.0, (step + 1) / 10)
    return StepEntry(
        step=step,
        attempt=attempt,
        epoch=0,
        lr=rate,
        planned_lr=rate,
        planned_samples=batch,
        real_samples=real,
        distinct_samples=real,
        repeated_samples=0,
        planned_first_seen_samples=batch,
        first_seen_samples=real,
        planned_real_tokens=batch * TOKENS,
        real_tokens=real * TOKENS,
        planned_trained_tokens=batch * (TOKENS - 7),
        trained_tokens=real * (TOKENS - 7),
        token_slots=sum(slots),
        planned_forwards=2 * ranks,
        real_forwards=2 * ranks,
        loss=math.nan if fault == "nan" else loss,
        grad_norm=math.inf if fault == "nan" else 0.8 + 0.1 * math.cos(step),
        applied=True,
        skipped=None,
        retries=0,
        seconds=seconds,
        median_seconds=seconds * 0.97 - batch / 999,
        fastest_seconds=seconds * 0.93,
        slowest_rank=step % ranks,
        pause_seconds=4.0 if step % 500 == 499 else 0.0,
        planned_samples_sha256="a" * 16,
        samples_sha256="a" * 16,
        slots_sha256="b" * 16,
        wrong_rate_ranks=0,
        wrong_weight_forwards=0,
        cause_count=len(cause),
        not_finite=(),
        causes=tuple(cause),
        per_rank=per_rank_of(columns).short(),
    )


KINDS = ("missing sample", "trained twice", "rate differs")
"""Faults that a line names."""


def _dealt(number: int, ranks: int) -> list[int]:
    each, rest = divmod(number, ranks)
    return [each + (rank < rest) for rank in range(ranks)]


def _validations(steps: int, done: int) -> tuple[Validation, ...]:
    every = max(1, steps // 8)
    return tuple(
        Validation(step, 1, 2.4 * math.exp(-step / 700) + 1.3, 0.3 + step / (3 * steps + 500), 50, 2000)
        for step in range(0, done + 1, every)
    )


def _state(run: RunRecord, status: str, done: int, steps: int) -> RunState:
    views = tuple(
        AttemptView(one.attempt.attempt, one.attempt, "killed" if one is not run.attempts[-1] else status)
        for one in run.attempts
    )
    return RunState(
        run_dir=run.run_dir,
        name="made",
        sha="",
        status=status,
        done_steps=done,
        asked_steps=steps,
        recent=(),
        attempts=views,
        saved=None,
        unfinished=(),
        validation=None,
        evaluation=None,
        best_validation=None,
        ranks=(),
        ending=run.ending,
        silent_seconds=0.0,
        footed=Footed(None),
    )
