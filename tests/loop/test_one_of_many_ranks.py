"""What one rank of several does in a step, told to an engine that only listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from crossfoot.arithmetic.layout import PaddedLayout
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Refused
from crossfoot.index.build import ensure_index
from crossfoot.ledger.findings import disk_full
from crossfoot.ledger.reconcile import PlannedStep
from crossfoot.ledger.skipping import Policies
from crossfoot.ledger.witness import StepWitness, pack, unpack
from crossfoot.liveness.stopping import Stop, StopRequest
from crossfoot.metering.meter import ClosedStep
from crossfoot.rendezvous.ranks import Ranks, agree
from crossfoot.training.loop import run_step, slot_seed
from crossfoot.training.step_recorder import StepRecorder
from index_cases import jsonl, written_run

pytestmark = pytest.mark.xdist_group("loop")


class Listening:
    """An engine of three ranks that writes down what it is told, and what would be drawn in a forward."""

    dp_degree = 3

    def __init__(self) -> None:
        self.told: list[Any] = []

    def set_rate(self, rate: float) -> None:
        self.told.append(rate)

    def forward(self, batch: Any) -> float:
        self.told.append((len(batch.segments), float(torch.rand(()))))
        return 1.5

    def backward(self, loss: float, weight: float, last: bool) -> None:
        self.told.append((loss, weight, last))

    def step(self) -> str:
        return "updated"


def drawn_after(seed: int) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return float(torch.rand(()))


@pytest.mark.parametrize(("targets", "weight"), [(40, 3 / 40), (0, 0.0)])
def test_the_weight_and_the_draws_of_a_rank(tmp_path: Path, targets: int, weight: float) -> None:
    records = [{"instruction": f"say {number}", "output": "x" * number} for number in range(1, 6)]
    run = written_run(tmp_path, [jsonl(tmp_path / "data.jsonl", *records)])
    index = ensure_index(run, run.config.data.train, is_builder=True)
    slots = [
        [np.array(ids, dtype=np.int64) for ids in rank] for rank in ([[0], [1]], [[2], []], [[3, 4], []])
    ]
    planned = PlannedStep(step=9, epoch=0, lr=0.125, trained_tokens=targets, slots=slots)
    ticks: list[None] = []
    engine = Listening()
    with torch.random.fork_rng(devices=[]):
        run_step(
            engine,
            index,
            planned,
            2,
            dropout_seed=7,
            packed=False,
            tick=lambda: ticks.append(None),
            computing=lambda: engine.told.append("computing"),
        )
    assert engine.told == [
        0.125,
        (2, drawn_after(slot_seed(7, 9, [4, 3]))),
        (1.5, weight, False),
        (0, drawn_after(slot_seed(7, 9, []))),
        "computing",
        (1.5, weight, True),
    ]
    assert len(ticks) == 2


def test_draws_differ_by_seed_step_and_slot() -> None:
    assert (
        len(
            {slot_seed(*three) for three in ((1, 2, [3]), (2, 2, [3]), (1, 3, [3]), (1, 2, [4]), (2, 1, [3]))}
        )
        == 5
    )
    assert slot_seed(7, 3, [1]) == 8034915097316094625


class TwoRanks:
    """This rank's row and that of another, who says `other` of itself; wishes: what the other gathers."""

    def __init__(self, wish: Stop = Stop.NO, **other: Any) -> None:
        self._wish, self._other = wish, other

    def begin_gather_row(self, row: Any) -> Callable[[], Any]:
        return lambda: np.array([row, pack(replace(unpack(row), rank=1, **self._other), len(row))])

    def gather(self, mine: int, kind: type) -> list[int]:
        return [mine, int(self._wish)]


class OneForward:
    """The meter of a rank that says of each step that all is well."""

    def witness(self, closed: ClosedStep, stop: int) -> StepWitness:
        return StepWitness(0, closed.step, (), 0.1, True, 1.0, 1.0, 0.5, False, stop)


@pytest.mark.parametrize(
    ("mine", "other", "answer"),
    [
        (Stop.NO, {}, Stop.NO),
        (Stop.NO, {"stop": int(Stop.SAVE)}, Stop.SAVE),
        (Stop.SAVE, {"stop": int(Stop.TERMINATED)}, Stop.TERMINATED),
        (Stop.INTERRUPTED, {"stop": int(Stop.TERMINATED)}, Stop.INTERRUPTED),
        (Stop.NO, {"nonfinite": True, "applied": False}, Stop.NOT_FINITE),
        (Stop.NO, {"overflow": True, "applied": False}, Stop.NOT_FINITE),
    ],
)
def test_what_any_rank_wishes_is_every_rank_s_answer(mine: Stop, other: dict[str, Any], answer: Stop) -> None:
    parts: Any = {"ranks": TwoRanks(**other), "meter": OneForward(), "book": None, "reconciler": None}
    stop = StopRequest()
    stop.ask(mine)
    recorder = StepRecorder(layout=PaddedLayout(2, 1, 1), stop=stop, policies=Policies(), **parts)
    planned = PlannedStep(step=0, epoch=0, lr=0.1, trained_tokens=1, slots=[[], []])
    assert recorder.settle(ClosedStep(0.0, step=0), planned) is Stop.NO, "a step is booked with the next one"
    assert recorder.settle(ClosedStep(0.0, step=1), planned) is answer


def test_a_wish_of_the_other_rank_is_known_when_the_books_are_drained() -> None:
    parts: Any = {"ranks": TwoRanks(Stop.TERMINATED), "meter": OneForward(), "book": None, "reconciler": None}
    recorder = StepRecorder(layout=PaddedLayout(2, 1, 1), stop=StopRequest(), policies=Policies(), **parts)
    assert recorder.drain() is Stop.TERMINATED


@dataclass(frozen=True)
class Line:
    step: int
    pause_seconds: float = 0.0
    cause_count: int = 0


class Booking:
    """Parts of a recorder of rank 0 whose ledger takes a line when it may. said: what happened, in order."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.said: list[str] = []
        self.may_write = Event()
        self._fault = fault

    def begin_gather_row(self, row: Any) -> Callable[[], Any]:
        self.said.append(f"begin {row[2]}")
        return lambda: (self.said.append(f"read {row[2]}"), row[None, :])[1]

    def gather(self, mine: int, kind: type) -> list[int]:
        return [mine]

    def book(self, planned: PlannedStep, rows: Any) -> Line:
        self.may_write.wait()
        return Line(planned.step)

    def append(self, line: Line) -> None:
        if self._fault is not None:
            raise self._fault
        self.said.append(f"line {line.step}, paused {line.pause_seconds}")

    def fsync(self) -> None:
        self.said.append("durable")

    close = fsync

    def recorder(self) -> StepRecorder:
        parts: Any = {"ranks": self, "meter": OneForward(), "book": self, "reconciler": self}
        return StepRecorder(layout=PaddedLayout(1, 1, 1), stop=StopRequest(), policies=Policies(), **parts)


def step_of(number: int) -> tuple[ClosedStep, PlannedStep]:
    return ClosedStep(0.0, step=number), PlannedStep(number, 0, 0.1, trained_tokens=1, slots=[[]])


def test_a_line_is_gathered_while_the_next_step_computes_and_written_beside_the_loop() -> None:
    parts = Booking()
    recorder = parts.recorder()
    recorder.begin()  # of the first step: nothing waits
    recorder.settle(*step_of(0))
    recorder.begin()
    recorder.begin()  # tried again at another loss scale
    assert parts.said == ["begin 0"]
    recorder.paused(2.0)
    assert recorder.settle(*step_of(1)) is Stop.NO
    assert parts.said == ["begin 0", "read 0"], "the loop does not wait for the ledger"
    parts.may_write.set()
    assert recorder.drain() is Stop.NO
    assert parts.said[-2:] == ["line 1, paused 0.0", "durable"]
    assert [one for one in parts.said if "line" in one] == ["line 0, paused 2.0", "line 1, paused 0.0"]


def test_what_fails_beside_the_loop_is_known_with_the_next_step() -> None:
    parts = Booking(Refused(disk_full("ledger.jsonl", "take a line", ())))
    parts.may_write.set()
    recorder = parts.recorder()
    recorder.settle(*step_of(0))
    recorder.settle(*step_of(1))
    assert recorder.drain() is Stop.NOT_WRITABLE
    assert recorder.finding is not None and recorder.finding.code == "CF701"

    broken = Booking(ZeroDivisionError("of the ledger"))
    broken.may_write.set()
    recorder = broken.recorder()
    recorder.settle(*step_of(0))
    recorder.settle(*step_of(1))
    with pytest.raises(ZeroDivisionError, match="of the ledger"):
        recorder.settle(*step_of(2))
    recorder.rescue()
    assert broken.said[-1] == "durable"


def test_ranks_that_hold_another_plan_or_place_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    first = {"rank": 0, "host": "a", "told": (0, 2), "plan_sha256": "1" * 64}
    monkeypatch.setattr(Ranks, "gather", lambda ranks, mine, kind: [replace(mine, **first), mine])
    agree(Ranks(1, 2, None), read_world(told), "1" * 64)
    for rank, plan, code in (("1", "2" * 64, "CF420"), ("0", "1" * 64, "CF422")):
        with pytest.raises(Refused) as refused:
            agree(Ranks(1, 2, None), read_world({**told, "RANK": rank, "LOCAL_RANK": rank}), plan)
        assert [finding.code for finding in refused.value.findings] == [code]
