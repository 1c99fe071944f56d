"""What the accounting costs: python benchmarks/accounting.py   (6 minutes on a core; --steps for fewer)

Ranks are simulated: the functions that a run calls are called with the rows of as many ranks. Writes
benchmarks/data/accounting.json and prints it. All times are CPU seconds of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from crossfoot.arithmetic.epoch_order import epoch_order
from crossfoot.arithmetic.layout import PackedLayout
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.ledger.book import LedgerBook, read_book
from crossfoot.ledger.matching import PlannedStep
from crossfoot.ledger.reconcile import Reconciler
from crossfoot.ledger.witness import (
    ForwardWitness,
    SegmentWitness,
    StepWitness,
    WitnessRows,
    pack,
    packed_width,
)
from crossfoot.receipts.promise import promised_steps
from crossfoot.receipts.promise_audit import Promise
from crossfoot.receipts.promised_sets import terms_of
from crossfoot.receipts.receipt import make_receipt
from crossfoot.receipts.run_promise import RunPromise
from crossfoot.runs.ending import Ending
from measuring import save

ROOT = Path(__file__).resolve().parent.parent
SAMPLES, WORK, RATE = 1_000_000, 50_408, 1e-4


def contents(samples: int = SAMPLES) -> Any:
    """A data index of heavy-tailed lengths, 8 to 512 tokens, 70 % of them trained."""
    random = np.random.default_rng(0)
    digests, token_digests = random.integers(0, 1 << 64, (2, samples), dtype=np.uint64)
    lengths = np.clip(random.lognormal(4.8, 0.8, samples), 8, 512).astype(np.int32)
    trained = (lengths * 7 // 10).astype(np.int32)
    return SimpleNamespace(
        digests=digests, token_digests=token_digests, lengths=lengths, trained_tokens=trained
    )


class Run:
    """A run of `ranks` ranks with `micro` samples each, of which every rank does what it is told."""

    def __init__(self, data: Any, ranks: int, micro: int, steps: int) -> None:
        self.data, self.ranks, self.micro = data, ranks, micro
        self.schedule = Schedule(len(data.lengths), ranks * micro, 0, "carry", max_steps=steps)
        self.layout = PackedLayout(ranks, 1, micro, WORK, ranks)
        arrays = (data.digests, data.token_digests, data.lengths, data.trained_tokens)
        self.reconciler = Reconciler(*arrays, dp_degree=ranks)
        self.width = packed_width(1, micro)

    def plan(self, step: int) -> PlannedStep:
        """As StepPlanner does it."""
        ids, epochs = self.schedule.samples(step), self.schedule.passes_of(step)
        trained = int(self.data.trained_tokens[ids].sum(dtype=np.int64))
        slots = self.layout.slots(ids, self.data.lengths[ids])
        return PlannedStep(step, int(epochs[0]), RATE, trained, slots, ids, epochs)

    def rows(self, planned: PlannedStep) -> Any:
        """What the ranks send, int64[ranks, width]."""
        data, weight = self.data, self.ranks / planned.trained_tokens
        rows = []
        for rank, (ids,) in enumerate(planned.slots):
            columns = (data.token_digests, data.digests, data.lengths, data.trained_tokens)
            segments = tuple(SegmentWitness(*(int(column[one]) for column in columns)) for one in ids)
            slots = -(-sum(one.real_tokens for one in segments) // 16) * 16
            forward = ForwardWitness(0, slots, weight, segments, 1.5)
            told = (rank, planned.step, (forward,), RATE, True, 1.5, 1.0, 0.25 + rank * 1e-6, False, 0)
            rows.append(pack(StepWitness(*told), self.width))
        return np.array(rows)

    def lock(self) -> dict[str, Any]:
        """As much of a lock as a receipt needs."""
        steps = self.schedule.total_steps
        lr = {"reference": RATE, "reference_batch": None, "rule": "none", "schedule": "constant"}
        lr |= {"min_ratio": 0.0, "warmup_steps": 0, "warmup_fraction": None, "warmup_samples": None}
        config = {"run": {"seed": 0}, "data": {"last_step": "carry", "layout": "packed"}, "lr": lr}
        config["train"] = {"epochs": None, "max_steps": steps}
        plan = {"samples_per_epoch": len(self.data.lengths), "global_batch_size": self.ranks * self.micro}
        plan |= {"micro_batch_size": self.micro, "grad_accum_steps": 1, "dp_degree": self.ranks}
        plan["work_per_token"] = WORK
        return {"name": "benchmark", "sha256": "0" * 64, "config": config, "plan": plan}


def tell(text: str) -> None:
    """On stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def milliseconds(do: Callable[..., Any], *words: Any) -> tuple[float, Any]:
    """CPU time of a call, and its answer."""
    began = time.process_time()
    made = do(*words)
    return (time.process_time() - began) * 1e3, made


def step_costs(ranks: int, folder: Path, steps: int = 20) -> dict[str, float]:
    """Median milliseconds of a step of 4 samples a rank, and bytes of its line."""
    run = Run(contents(200_000), ranks, 4, steps)
    book = LedgerBook(str(folder / f"{ranks}.jsonl"))
    found: dict[str, list[float]] = {}
    for step in range(steps):
        plan_ms, planned = milliseconds(run.plan, step)
        raw = run.rows(planned)
        main_ms, rows = milliseconds(WitnessRows, raw)
        main_ms += milliseconds(lambda told: (told.has_bad_step, told.stop), rows)[0]
        book_ms, line = milliseconds(run.reconciler.book, planned, rows)
        append_ms, _ = milliseconds(book.append, line)
        assert not line.causes and line.per_rank.ranks == ranks
        costs = {"every_rank_main_thread_ms": main_ms, "rank_0_ledger_thread_ms": book_ms + append_ms}
        costs |= {"planning_the_step_ms": plan_ms, "line_bytes": len(line.to_line())}
        for name, value in costs.items():
            found.setdefault(name, []).append(value)
    book.close()
    planned = run.plan(steps - 1)
    raw = run.rows(planned)
    raw[[0, 1], 22:] = raw[[1, 0], 22:]  # two ranks trained each other's samples
    unlike = Run(run.data, ranks, 4, steps).reconciler
    odd_ms, odd = milliseconds(unlike.book, planned, WitnessRows(raw))
    medians = {name: round(statistics.median(values[2:]), 3) for name, values in found.items()}
    return medians | {"ledger_thread_ms_of_a_step_with_causes": round(odd_ms, 1), "causes": odd.cause_count}


def write_ledger(steps: int, folder: Path) -> None:
    """A ledger of 1,024 ranks with one sample each. The first lines are those of a run; all others are made
    from what the receipt works out, after the first ones were seen to come out the same.
    """
    run = Run(contents(), 1024, 1, steps)
    lock, expects = run.lock(), Counter(total_steps=steps)
    book, real = LedgerBook(str(folder / "ledger.jsonl")), []
    for planned in map(run.plan, range(20)):
        real.append(run.reconciler.book(planned, WitnessRows(run.rows(planned))))
    for step in promised_steps(terms_of(lock), run.data, 0, steps):
        number, samples, trained = step.step, step.samples, step.trained_tokens
        is_real = number < len(real)
        line = replace(
            real[0],
            step=number,
            epoch=divmod(number * 1024, SAMPLES)[0],
            distinct_samples=samples,
            **dict.fromkeys(("planned_first_seen_samples", "first_seen_samples"), step.first_seen_samples),
            **dict.fromkeys(("planned_real_tokens", "real_tokens"), step.real_tokens),
            **dict.fromkeys(("planned_trained_tokens", "trained_tokens"), trained),
            token_slots=real[number].token_slots if is_real else step.real_tokens,
            loss=1.5 * samples / trained,
            **dict.fromkeys(("planned_samples_sha256", "samples_sha256"), step.samples_sha256),
            slots_sha256=step.slots_sha256,
            per_rank=replace(real[0].per_rank, sha256=step.ranks_sha256),
        )
        assert not is_real or line.to_line() == real[number].to_line()
        book.append(line)
        expects.update(samples=samples, distinct_samples=step.first_seen_samples, forwards=step.forwards)
        expects.update(real_tokens=step.real_tokens, trained_tokens=trained)
    book.close()
    (folder / "lock.json").write_text(json.dumps(lock | {"expects": expects}), encoding="utf-8")


def read_ledger(folder: Path) -> dict[str, Any]:
    """The receipt of it, in this process, which does nothing else."""
    data = contents()
    lock = json.loads((folder / "lock.json").read_text(encoding="utf-8"))
    began = time.process_time()
    lines = read_book(str(folder / "ledger.jsonl"))
    read = time.process_time()
    ending = Ending("finished", len(lines), 0, len(lines))
    promise = RunPromise(Promise({1: terms_of(lock)}, data), (), ())
    receipt = make_receipt(lock, lines, ending, run_promise=promise)
    assert receipt.foots, receipt.causes[:3]
    return {
        "lines": len(lines),
        "ledger_bytes": (folder / "ledger.jsonl").stat().st_size,
        "read_cpu_seconds": round(read - began, 1),
        "receipt_cpu_seconds": round(time.process_time() - began, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def order_costs(samples: int, how: str) -> dict[str, Any]:
    """The order of one epoch, in this process: whole, or by the steps of 4,096 samples."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, slowest = time.process_time(), 0.0
    if how == "whole":
        epoch_order(samples, 0, 0)
    else:
        schedule = Schedule(samples, 4096, 0, "drop", epochs=1)
        for step in range(schedule.total_steps):
            slowest = max(slowest, milliseconds(schedule.samples, step)[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found = {"cpu_seconds": round(time.process_time() - began, 1), "more_rss_mib": peak >> 10}
    return found | ({"slowest_step_ms": round(slowest)} if slowest else {})


def train(folder: Path, accounting: str, steps: int = 12) -> dict[str, Any]:
    """Steps of the demo in this process, with the meter and the ledger or without."""
    from crossfoot import cli
    from crossfoot.liveness.stopping import Stop
    from crossfoot.metering.meter import Meter
    from crossfoot.training import loop, step_recorder

    costs: list[float] = []
    real = loop.learn_step

    def learn_step(*words: Any) -> Any:
        costs.append(time.process_time())
        return real(*words)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(loop, "learn_step", learn_step))
        if accounting == "off":
            for name in ("_see_batch", "_see_ids", "_see_loss", "_see_update"):
                stack.enter_context(mock.patch.object(Meter, name, lambda *words: None))
            nothing = {
                "settle": lambda *words: Stop.NO,
                "drain": lambda self: Stop.NO,
                "begin": lambda self: None,
            }
            for name, does in nothing.items():
                stack.enter_context(mock.patch.object(step_recorder.StepRecorder, name, does))
        words = ["train", "configs/demo.yaml", "--stop-after", str(steps), f"run.dir={folder / accounting}"]
        cli.main(words)
    each = np.diff(costs)[1:]
    return {"ms": round(float(np.median(each)) * 1e3, 2)}


def in_a_process(*words: str) -> Any:
    """This file's answer to these words, from a process of its own."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__)), *words]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def tables(steps: int) -> Iterator[tuple[str, Any]]:
    """Everything, one table after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield "step", {str(ranks): step_costs(ranks, folder) for ranks in (8, 64, 1024)}
        write_ledger(steps, folder)
        yield "receipt_of_1024_ranks", in_a_process("--read", name)
        pairs = [
            [in_a_process("--train", f"{name}/{i}", how)["ms"] for how in ("on", "off")] for i in range(3)
        ]
        on, off = (statistics.median(column) for column in zip(*pairs, strict=True))
        yield "demo_step", {"on_ms": on, "off_ms": off, "runs": pairs, "ratio": round(on / off, 3)}
        orders = {
            f"{n}, {how}": in_a_process("--order", str(n), how)
            for n in (10**7, 10**8)
            for how in ("whole", "steps")
        }
        yield "order_of_an_epoch", orders


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=100_000, help="lines of the ledger that a receipt is made of"
    )
    for name, count in (("read", 1), ("order", 2), ("train", 2)):
        parser.add_argument(f"--{name}", nargs=count, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        tell(json.dumps(read_ledger(Path(asked.read[0]))))
    elif asked.order:
        tell(json.dumps(order_costs(int(asked.order[0]), asked.order[1])))
    elif asked.train:
        tell(json.dumps(train(Path(asked.train[0]), asked.train[1])))
    else:
        found = {}
        for name, table in tables(asked.steps):
            found[name] = table
            tell(json.dumps({name: table}, indent=2))
            save("accounting", found)


if __name__ == "__main__":
    main()
