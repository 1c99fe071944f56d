"""Small data sets, plans and obedient ranks for the ledger's tests. Digests are made from content, as in
the index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from crossfoot.ledger.book import LedgerBook, read_readable
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.rank_counts import RankCounts, per_rank_of
from crossfoot.ledger.reconcile import PlannedStep, Policies, Reconciler, remember
from crossfoot.ledger.witness import ForwardWitness, SegmentWitness, StepWitness, WitnessRows, pack
from crossfoot.receipts.promised_sets import batches_sha256, terms_of
from crossfoot.runs.attempts import (
    Attempt,
    attempt_path,
    counted,
    read_attempts,
    vouched_steps,
    write_attempt,
)
from crossfoot.runs.ending import Ending, lock_sha256, write_document, write_ending


def digest_of(*content: object) -> int:
    """An unsigned 64-bit digest of any content."""
    return int.from_bytes(hashlib.blake2b(repr(content).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Data:
    """Samples as (content, length, trained tokens); equal content means equal digests."""

    contents: Sequence[int]
    lengths: Sequence[int]
    trained: Sequence[int]

    def segment(self, sample: int) -> SegmentWitness:
        content, length, trained = self.contents[sample], self.lengths[sample], self.trained[sample]
        return SegmentWitness(
            digest_of(content, length), digest_of(content, length, trained), length, trained
        )

    def reconciler(self, dp_degree: int, attempt: int = 1, policies: Policies | None = None) -> Reconciler:
        segments = [self.segment(sample) for sample in range(len(self.contents))]
        return Reconciler(
            np.array([s.digest for s in segments], dtype=np.uint64),
            np.array([s.token_digest for s in segments], dtype=np.uint64),
            np.array(self.lengths, dtype=np.int32),
            np.array(self.trained, dtype=np.int32),
            dp_degree=dp_degree,
            num_samples=len(segments),
            origin=lambda sample: f"data.json:{sample + 1}",
            attempt=attempt,
            policies=policies,
        )

    def plan(
        self, step: int, slots: Sequence[Sequence[Sequence[int]]], lr: float = 2e-5, epoch: int = 0
    ) -> PlannedStep:
        trained_tokens = sum(self.trained[i] for forwards in slots for ids in forwards for i in ids)
        arrays = [[np.array(ids, dtype=np.int64) for ids in forwards] for forwards in slots]
        return PlannedStep(step, epoch, lr, trained_tokens, arrays)

    def obey(self, planned: PlannedStep) -> list[StepWitness]:
        """What ranks say that do exactly what is planned."""
        weight = len(planned.slots) / planned.trained_tokens if planned.trained_tokens else 0.0
        witnesses = []
        for rank, slots in enumerate(planned.slots):
            forwards = []
            for number, ids in enumerate(slots):
                segments = tuple(self.segment(int(i)) for i in ids)
                longest = max((segment.real_tokens for segment in segments), default=2)
                slots_computed = longest * max(len(segments), 1)
                forwards.append(ForwardWitness(number, slots_computed, weight if segments else 0.0, segments))
            loss_sum = 2.0 * sum(forward.trained_tokens for forward in forwards)
            witnesses.append(
                StepWitness(
                    rank, planned.step, tuple(forwards), planned.lr, True, loss_sum, 1.5, 0.25, False, 0
                )
            )
        return witnesses


def six_samples() -> Data:
    """Samples 2 and 5 have equal content; all lengths differ otherwise."""
    return Data([0, 1, 2, 3, 4, 2], [10, 11, 12, 13, 14, 12], [5, 6, 7, 8, 9, 7])


def with_segments(
    witness: StepWitness,
    forward: int,
    change: Callable[[tuple[SegmentWitness, ...]], tuple[SegmentWitness, ...]],
) -> StepWitness:
    """The same account, but one forward was given other segments."""
    forwards = [
        replace(f, segments=change(f.segments)) if f.forward == forward else f for f in witness.forwards
    ]
    return replace(witness, forwards=tuple(forwards))


def without_forward(witness: StepWitness, forward: int) -> StepWitness:
    """The same account, but the backward of one forward never ran."""
    return replace(witness, forwards=tuple(f for f in witness.forwards if f.forward != forward))


def with_columns(line: StepEntry, change: Callable[[list[int], str], list[int]]) -> StepEntry:
    """The line with other columns of its ranks, and their own digest. change: column, name -> column."""
    columns = line.per_rank.columns
    assert columns is not None
    names = [one.name for one in fields(RankCounts)]
    changed = {name: change(list(getattr(columns, name)), name) for name in names}
    return replace(line, per_rank=per_rank_of(changed))


def of_first_rank(line: StepEntry, **more: int) -> StepEntry:
    """The line with so much more in the columns of its first rank."""
    return with_columns(line, lambda column, name: [column[0] + more.get(name, 0), *column[1:]])


def rows_of(witnesses: Sequence[StepWitness], width: int = 2000) -> WitnessRows:
    """As they come from the all-gather."""
    rows = [pack(witness, width) for witness in witnesses]
    return WitnessRows(np.array(rows, dtype=np.int64).reshape(-1, width))


def an_attempt(attempt: int, first_step: int, **other: Any) -> Attempt:
    """The paper of an attempt, continued from the checkpoint of its first step."""
    known = {
        "attempt": attempt,
        "first_step": first_step,
        "from_checkpoint": f"step-{first_step:06d}" if first_step else None,
        "world_size": 2,
        "num_nodes": 1,
        "gpus_per_node": 2,
        "engine": "deepspeed",
        "zero_stage": 2,
        "hosts": ("node1",),
        "job_id": None,
        "started": "2026-01-01T00:00:00Z",
        "crossfoot": "0.1",
    }
    return Attempt(**{**known, **other})


def sealed(
    expects: dict[str, Any],
    topology: tuple[int, int] = (2, 2),
    config: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
    name: str = "job",
) -> dict[str, Any]:
    """A whole lock with its hash: rates rise by 1e-5 from step to step. changes: sections that are merged
    into it.
    """
    steps = expects["total_steps"]
    known: dict[str, Any] = {
        "run": {"seed": 0},
        "data": {"last_step": "short", "index_dir": "no-such-folder"},
        "train": {"epochs": None, "max_steps": steps},
        "lr": {"reference": 1e-5 * steps, "reference_batch": None, "rule": "none", "schedule": "constant"}
        | {"min_ratio": 0.0, "warmup_steps": steps, "warmup_fraction": None, "warmup_samples": None},
    }
    plan: dict[str, Any] = {"samples_per_epoch": 64, "global_batch_size": 4, "micro_batch_size": 4}
    plan |= {"dp_degree": topology[0], "grad_accum_steps": topology[1], "layout_sha256": "0" * 64}
    plan["work_per_token"] = 50
    plan |= {"total_steps": steps, "warmup_steps": steps, "learning_rate": {"peak": 1e-5 * steps}}
    lock: dict[str, Any] = {"name": name, "index": {"address": "none"}, "expects": expects}
    lock |= {"config": {**known, **(config or {})}, "plan": plan}
    for key, value in (changes or {}).items():
        lock[key] = {**lock[key], **value} if isinstance(value, dict) else value
    if lock["config"]:
        lock["plan"].setdefault("batches_sha256", batches_sha256(terms_of(lock)))
    return {**lock, "sha256": lock_sha256(lock)}


@dataclass
class Job:
    """A run in a folder, over as many attempts as a test likes, told line by line by obedient ranks.

    steps: [step] -> (epoch, sample) pairs. faults: the config's section, as in a lock. No data index.
    """

    folder: Path
    data: Data
    steps: Sequence[Sequence[tuple[int, int]]]
    faults: dict[str, str] | None = None
    lock_changes: dict[str, Any] = field(default_factory=dict)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    def plan(self, step: int, dp_degree: int, forwards: int) -> PlannedStep:
        """The step dealt out: sample number n of it goes to rank n modulo dp_degree."""
        slots: list[list[list[int]]] = [[[] for _ in range(forwards)] for _ in range(dp_degree)]
        for number, (_, sample) in enumerate(self.steps[step]):
            turn, rank = divmod(number, dp_degree)
            slots[rank][turn % forwards].append(sample)
        planned = self.data.plan(step, slots, lr=1e-5 * (step + 1), epoch=self.steps[step][0][0])
        ids, epochs = self.samples(step)
        return replace(planned, samples=ids, sample_epochs=epochs)

    def samples(self, step: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        pairs = np.array(self.steps[step], dtype=np.int64).reshape(-1, 2)
        return pairs[:, 1], pairs[:, 0]

    def lock(self, dp_degree: int, forwards: int) -> dict[str, Any]:
        """The lock of the whole run on this topology."""
        flat = [sample for pairs in self.steps for _, sample in pairs]
        expects = {
            "total_steps": len(self.steps),
            "samples": len(flat),
            "distinct_samples": len(set(flat)),
            "real_tokens": sum(self.data.lengths[sample] for sample in flat),
            "trained_tokens": sum(self.data.trained[sample] for sample in flat),
            "forwards": len(self.steps) * dp_degree * forwards,
        }
        config = {} if self.faults is None else {"faults": self.faults}
        return sealed(expects, (dp_degree, forwards), config, self.lock_changes)

    def run(
        self,
        end: int,
        *,
        first_step: int = 0,
        topology: tuple[int, int] = (2, 2),
        torn_bytes: int = 0,
        ending: Ending | None = None,
        change: Callable[[int, list[StepWitness]], list[StepWitness]] = lambda step, told: told,
        policies: Policies | None = None,
        **record: Any,
    ) -> list[StepEntry]:
        """The next attempt: steps [first_step, end), then so many bytes of the next line. Without an ending
        it was killed. Returns the lines it wrote.
        """
        earlier = read_attempts(str(self.folder))
        attempt = len(earlier) + 1
        dp_degree, forwards = topology
        (self.folder / f"attempt-{attempt:03d}").mkdir(parents=True)
        lock = self.lock(dp_degree, forwards)
        write_document(attempt_path(str(self.folder), attempt, "plan.lock.json"), lock)
        if attempt == 1:
            write_document(str(self.folder / "plan.lock.json"), lock)
        write_attempt(str(self.folder), an_attempt(attempt, first_step, world_size=dp_degree, **record))
        book = LedgerBook(str(self.ledger))
        lines = read_readable(str(self.ledger))
        assert vouched_steps(lines, earlier) >= first_step
        reconciler = self.data.reconciler(dp_degree, attempt, policies)
        remember(reconciler, self.samples, counted(lines, read_attempts(str(self.folder)))[0])
        made = []
        for step in range(first_step, end + (torn_bytes > 0)):
            planned = self.plan(step, dp_degree, forwards)
            entry = reconciler.book(planned, rows_of(change(step, self.data.obey(planned))))
            if step == end:
                with self.ledger.open("ab") as file:
                    file.write(entry.to_line().encode()[:torn_bytes])
            else:
                book.append(entry)
                made.append(entry)
        book.close()
        if ending is not None:
            write_ending(attempt_path(str(self.folder), attempt, "ending.json"), ending)
        return made
