"""The next step is planned while this one computes."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossfoot.training.loop import planned_ahead


class Room:
    """What planned_ahead asks of a Training: two ranks, one sample a slot; step 3 cannot be planned."""

    def __init__(self, rank: int = 1) -> None:
        self.ranks = SimpleNamespace(rank=rank)
        self.planner = self.index = self
        self.read: list[int] = []
        self.planned = {step: threading.Event() for step in range(5)}

    def step(self, step: int) -> Any:
        if step == 3:
            raise ValueError("no step 3")
        return SimpleNamespace(name=step, slots=[[[10 * step]], [[10 * step + 1]]])

    def sample(self, sample_id: int) -> tuple[np.ndarray, None]:
        self.read.append(sample_id)
        self.planned[sample_id // 10].set()
        return np.ones(1), None


def test_a_step_is_planned_while_the_one_before_it_computes() -> None:
    room = Room()
    steps = planned_ahead(room, 0, 3)  # type: ignore[arg-type]
    for step, planned in steps:
        assert planned.name == step
        assert step == 2 or room.planned[step + 1].wait(30)
        assert not any(room.planned[later].is_set() for later in range(step + 2, 5))
    assert room.read == [1, 11, 21], "this rank's samples, and no others"


def test_what_fails_fails_at_its_own_step() -> None:
    steps = planned_ahead(Room(), 1, 5)  # type: ignore[arg-type]
    assert [next(steps)[0], next(steps)[0]] == [1, 2]
    with pytest.raises(ValueError, match="no step 3"):
        next(steps)


def test_a_loop_that_stops_leaves_no_thread() -> None:
    for _ in planned_ahead(Room(), 0, 3):  # type: ignore[arg-type]
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("next step")]
