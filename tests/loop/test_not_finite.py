"""A step that cannot be learned from changes no weight: the run stops, or goes on without its update."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")


@pytest.mark.parametrize(("optimizer", "policy"), [("sgd", "stop"), ("adamw", "stop"), ("adamw", "skip")])
def test_after_a_step_that_threw_the_weights_away(
    optimizer: str, policy: str, room: Room, trains: Callable[..., Watched]
) -> None:
    config = room.config(
        deepspeed=None,
        batch={"micro_batch_size": 4, "global_batch_size": 4},
        lr={"reference": 1e30},
        optimizer={"name": optimizer, "max_grad_norm": 0.0},
        faults={"nonfinite": policy},
        train={"max_steps": 4},
    )
    seen = trains(config)
    # The ledger is a step behind: when it says so of the second step, the third is taken, and held.
    done, skipped, exit_code = (3, None, 1) if policy == "stop" else (4, "not finite", 0)
    assert seen.exit_code == exit_code
    assert [line["applied"] for line in seen.ledger] == [True, False, False, False][:done]
    assert [line["skipped"] for line in seen.ledger[1:]] == [skipped] * (done - 1)
    assert len(seen.after) == done
    for after in seen.after[1:]:
        assert all(torch.equal(after[name], value) for name, value in seen.after[0].items())
