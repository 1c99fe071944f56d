"""The schedule on small numbers that a reader can count, its golden vectors, and its refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossfoot.arithmetic import epoch_order as order_module
from crossfoot.arithmetic import schedule as schedule_module
from crossfoot.arithmetic.epoch_order import Ids, epoch_order
from crossfoot.arithmetic.layout import PaddedLayout
from crossfoot.arithmetic.schedule import (
    Schedule,
    ScheduleImpossible,
    batches_sha256,
)

LENGTHS_37 = np.array([(7 * i) % 13 + 1 for i in range(37)], dtype=np.int32)


def sizes(schedule: Schedule) -> list[int]:
    return [schedule.step_size(k) for k in range(schedule.total_steps)]


@pytest.mark.parametrize(
    ("seed", "epoch", "order"),
    [
        (42, 0, [11, 7, 12, 1, 6, 10, 4, 3, 15, 5, 13, 14, 9, 0, 2, 8]),
        (42, 1, [4, 10, 12, 13, 9, 5, 3, 0, 11, 2, 15, 14, 7, 1, 6, 8]),
        (2**63 - 1, 7, [6, 2, 3, 1, 7, 4, 5, 0]),
    ],
)
def test_golden_epoch_order(seed: int, epoch: int, order: list[int]) -> None:
    """A run must be the same run on every machine and with every numpy: these numbers never change."""
    result = epoch_order(len(order), seed, epoch)
    assert result.dtype == np.int64
    assert result.tolist() == order


def test_golden_hashes() -> None:
    schedule = Schedule(37, 16, 42, "short", epochs=2)
    assert batches_sha256(schedule) == "7fadcb1129b1ee04114bbb9d45b299664a9bd8e86fa2031ef12787dc7481b20f"
    layout = PaddedLayout(dp_degree=3, grad_accum_steps=2, micro_batch_size=3)
    golden = "7b6d2c3836ce9d5e9db4b0c4c6e0971cce6008f4595bffc4cff71b6978587078"
    assert layout.sha256(schedule, LENGTHS_37) == golden


@pytest.mark.parametrize(
    ("last_step", "step_sizes", "steps_per_epoch", "distinct", "dropped"),
    [
        # accelerate's even_batches makes 40 samples an epoch of these 37 (docs/lies.md, B3).
        ("short", [16, 16, 5, 16, 16, 5], 3, 37, 0),
        ("drop", [16, 16, 16, 16], 2, 36, 10),
        ("carry", [16, 16, 16, 16, 10], 3, 37, 0),
    ],
)
def test_what_becomes_of_the_rest_of_an_epoch(
    last_step: schedule_module.LastStep,
    step_sizes: list[int],
    steps_per_epoch: int,
    distinct: int,
    dropped: int,
) -> None:
    schedule = Schedule(37, 16, 42, last_step, epochs=2)
    assert sizes(schedule) == step_sizes
    assert (schedule.steps_per_epoch, schedule.total_steps) == (steps_per_epoch, len(step_sizes))
    assert schedule.last_step_samples == step_sizes[-1]
    assert schedule.scheduled_samples == sum(step_sizes)
    assert (schedule.distinct_samples, schedule.dropped_samples) == (distinct, dropped)


def test_a_carried_step_spans_two_epochs() -> None:
    schedule = Schedule(37, 16, 42, "carry", epochs=2)
    assert schedule.pieces(2) == ((0, 32, 37), (1, 0, 11))
    assert schedule.passes_of(2).tolist() == [0] * 5 + [1] * 11
    expected = np.concatenate([epoch_order(37, 42, 0)[32:], epoch_order(37, 42, 1)[:11]])
    assert schedule.samples(2).tolist() == expected.tolist()
    assert schedule.pieces(4) == ((1, 27, 37),)


def test_a_carried_step_may_hold_several_small_epochs() -> None:
    schedule = Schedule(3, 8, 1, "carry", epochs=4)
    assert sizes(schedule) == [8, 4]
    assert schedule.pieces(0) == ((0, 0, 3), (1, 0, 3), (2, 0, 2))
    assert schedule.passes_of(1).tolist() == [2, 3, 3, 3]


@pytest.mark.parametrize(
    ("last_step", "step_sizes", "distinct", "dropped"),
    [
        ("short", [4, 4, 2, 4, 4], 10, 0),
        ("drop", [4, 4, 4, 4, 4], None, 4),
        ("carry", [4, 4, 4, 4, 4], 10, 0),
    ],
)
def test_max_steps_is_the_horizon(
    last_step: schedule_module.LastStep, step_sizes: list[int], distinct: int | None, dropped: int
) -> None:
    schedule = Schedule(10, 4, 7, last_step, max_steps=5)
    assert sizes(schedule) == step_sizes
    assert (schedule.total_steps, schedule.scheduled_samples) == (5, sum(step_sizes))
    assert schedule.dropped_samples == dropped
    if distinct is not None:
        assert schedule.distinct_samples == distinct


@pytest.mark.parametrize("max_steps", [1, 2, 3, 4, 5])
def test_distinct_samples_of_drop_are_counted_over_its_epochs(max_steps: int) -> None:
    for seed in range(20):  # what one epoch drops, a part of the next one may train
        schedule = Schedule(10, 4, seed, "drop", max_steps=max_steps)
        trained = {i for k in range(max_steps) for i in schedule.samples(k).tolist()}
        assert schedule.distinct_samples == len(trained)


def test_drop_that_ends_inside_an_epoch_has_dropped_nothing_of_it() -> None:
    assert Schedule(10, 4, 7, "drop", max_steps=1).dropped_samples == 0
    assert Schedule(10, 4, 7, "drop", max_steps=2).dropped_samples == 2
    assert Schedule(10, 4, 7, "drop", max_steps=3).dropped_samples == 2


@pytest.mark.parametrize(
    ("samples", "batch", "epochs", "steps"),
    [(51_760, 512, 1, 102), (1_000, 8, 3, 375), (52_002, 128, 3, 1_221), (7, 100, 2, 2), (1, 1, 1, 1)],
)
def test_steps_of_real_sized_runs(samples: int, batch: int, epochs: int, steps: int) -> None:
    assert Schedule(samples, batch, 0, "short", epochs=epochs).total_steps == steps


@pytest.mark.lie("B6", answer="impossible")
def test_step_k_is_a_function_of_k() -> None:
    forward = Schedule(50, 7, 3, "carry", epochs=4)
    backward = Schedule(50, 7, 3, "carry", epochs=4)
    there = [forward.samples(k).tolist() for k in range(forward.total_steps)]
    back = [backward.samples(k).tolist() for k in reversed(range(backward.total_steps))]
    assert there == back[::-1]


def test_at_most_two_epoch_orders_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(num_samples: int, seed: int, epoch: int) -> Ids:
        made.append(epoch)
        return epoch_order(num_samples, seed, epoch)

    monkeypatch.setattr(order_module, "epoch_order", counted)
    schedule = Schedule(10, 4, 0, "carry", epochs=6)
    for k in range(schedule.total_steps):
        schedule.samples(k)
        assert len(schedule._orders) <= 2
    assert made == [0, 1, 2, 3, 4, 5]


def test_what_a_caller_does_to_its_samples_stays_with_it() -> None:
    schedule = Schedule(10, 4, 0, "short", epochs=1)
    before = schedule.samples(0).tolist()
    schedule.samples(0)[:] = -1
    next(schedule.blocks()).ids[:] = -1
    assert schedule.samples(0).tolist() == before


def test_steps_outside_the_run_do_not_exist() -> None:
    schedule = Schedule(10, 4, 0, "short", epochs=1)
    for k in (-1, 3):
        with pytest.raises(IndexError, match="3 steps"):
            schedule.samples(k)


def test_other_seeds_and_epochs_give_other_orders() -> None:
    orders = {tuple(epoch_order(64, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize(
    ("change", "keys", "help_start"),
    [
        ({"num_samples": 0}, ("data.train",), "add files to data.train"),
        (
            {"last_step": "drop", "global_batch_size": 16},
            ("data.last_step", "batch.global_batch_size"),
            "set data.last_step to short: 1 step of 10 samples per epoch",
        ),
    ],
)
def test_schedules_that_do_not_exist(
    change: dict[str, object], keys: tuple[str, ...], help_start: str
) -> None:
    good = Schedule(10, 4, 0, "short", epochs=2)
    with pytest.raises(ScheduleImpossible) as caught:
        replace(good, **change)  # type: ignore[arg-type]
    assert caught.value.keys == keys
    assert caught.value.helps[0].startswith(help_start)


@pytest.mark.parametrize(
    "change",
    [
        {"global_batch_size": 0},
        {"seed": -1},
        {"epochs": 0},
        {"epochs": None, "max_steps": 0},
        {"epochs": None},
        {"max_steps": 5},
    ],
)
def test_what_a_config_cannot_say_is_our_mistake(change: dict[str, object]) -> None:
    good = Schedule(10, 4, 0, "short", epochs=2)
    with pytest.raises(ValueError, match="no schedule follows") as caught:
        replace(good, **change)  # type: ignore[arg-type]
    assert not isinstance(caught.value, ScheduleImpossible)


def test_slots_deal_the_longest_first_and_forward_by_forward() -> None:
    layout = PaddedLayout(dp_degree=2, grad_accum_steps=2, micro_batch_size=2)
    ids = np.array([10, 11, 12, 13, 14, 15], dtype=np.int64)
    lengths = np.array([5, 9, 5, 7, 1, 9], dtype=np.int32)
    # Sorted: 11 15 13 10 12 14; runs of 2 2 1 1; run f * 2 + r goes to rank r, forward f.
    slots = [[slot.tolist() for slot in rank] for rank in layout.slots(ids, lengths)]
    assert slots == [[[11, 15], [12]], [[13, 10], [14]]]


def test_slots_may_be_empty_and_never_overflow() -> None:
    layout = PaddedLayout(dp_degree=2, grad_accum_steps=2, micro_batch_size=2)
    one = np.array([3], dtype=np.int64)
    slots = [[slot.tolist() for slot in rank] for rank in layout.slots(one, one)]
    assert slots == [[[3], []], [[], []]]
    nine = np.arange(9, dtype=np.int64)
    with pytest.raises(ValueError, match="9 samples do not fit in 4 slots of 2"):
        layout.slots(nine, nine)


def test_hashes_tell_runs_apart() -> None:
    schedule = Schedule(37, 16, 42, "short", epochs=2)
    others = [
        replace(schedule, seed=43),
        replace(schedule, global_batch_size=15),
        replace(schedule, last_step="carry"),
        replace(schedule, epochs=1),
        replace(schedule, num_samples=36),
    ]
    assert len({batches_sha256(each) for each in (schedule, *others)}) == 6
    layouts = [
        PaddedLayout(3, 2, 3),
        PaddedLayout(2, 3, 3),
        PaddedLayout(6, 1, 3),
        PaddedLayout(1, 6, 3),
        PaddedLayout(4, 2, 3),
    ]
    digests = {layout.sha256(schedule, LENGTHS_37) for layout in layouts}
    assert len(digests) == 5
    assert layouts[0].sha256(schedule, LENGTHS_37[::-1].copy()) not in digests


def test_a_long_schedule_is_hashed_in_blocks() -> None:
    """Three blocks and a rest: the digest is that of the steps, wherever the blocks are cut."""
    schedule = Schedule(2_500_003, 512, 42, "short", epochs=1)
    firsts, shapes = zip(
        *[(block.first, (len(block.sizes), block.sizes[0])) for block in schedule.blocks()], strict=True
    )
    assert firsts == (0, 2048, 4096, 4882)
    assert shapes == ((2048, 512), (2048, 512), (786, 512), (1, 419))
    seen = np.zeros(schedule.num_samples, dtype=np.int64)
    for block in schedule.blocks():
        np.add.at(seen, block.ids, 1)
    assert (seen == 1).all()
    lengths = (np.arange(schedule.num_samples) % 512 + 1).astype(np.int32)
    layout = PaddedLayout(dp_degree=16, grad_accum_steps=8, micro_batch_size=4)
    whole = (batches_sha256(schedule), layout.sha256(schedule, lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule_module, "BLOCK_SAMPLES", 100_000)
        assert (batches_sha256(schedule), layout.sha256(schedule, lengths)) == whole
