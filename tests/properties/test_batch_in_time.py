"""Steps whose size changes, by trained samples and by trained tokens, against a count of the samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.arithmetic import cutting
from crossfoot.arithmetic.epoch_order import epoch_order
from crossfoot.arithmetic.schedule import Schedule, ScheduleImpossible


@st.composite
def thresholds(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    firsts = draw(st.sets(st.integers(1, 200), max_size=4))
    return tuple((first, draw(st.integers(1, 25))) for first in [0, *sorted(firsts)])


@st.composite
def changing_schedules(draw: st.DrawFn) -> Schedule:
    """By samples or by tokens; under drop a first epoch always holds a step."""
    num_samples = draw(st.integers(1, 60))
    last_step = draw(st.sampled_from(["short", "drop", "carry"]))
    length = (
        {"epochs": draw(st.integers(1, 4))}
        if draw(st.booleans())
        else {"max_steps": draw(st.integers(1, 30))}
    )
    base = Schedule(num_samples, 1, draw(st.integers(0, 99)), "short", **length)
    if draw(st.booleans()):
        changed = {"batch_from_samples": draw(thresholds())}
    else:
        tokens = draw(st.lists(st.integers(1, 9), min_size=num_samples, max_size=num_samples))
        changed = {
            "target_trained_tokens": draw(st.integers(1, 60)),
            "trained_tokens": np.array(tokens, dtype=np.int32),
        }
    try:
        return replace(base, last_step=last_step, **changed)
    except ScheduleImpossible:
        return replace(base, **changed)


def counted(schedule: Schedule) -> Iterator[list[tuple[int, int]]]:
    """Every step as (epoch, id), by walking over the samples one by one."""
    step: list[tuple[int, int]] = []
    epoch = trained = steps = 0

    def batch() -> int:
        return [size for first, size in schedule.batch_from_samples if first <= trained][-1]

    def is_full() -> bool:
        if schedule.trained_tokens is not None:
            assert schedule.target_trained_tokens is not None
            return sum(int(schedule.trained_tokens[i]) for _, i in step) >= schedule.target_trained_tokens
        return len(step) == batch()

    while epoch != schedule.epochs:
        for sample in epoch_order(schedule.num_samples, schedule.seed, epoch).tolist():
            step.append((epoch, sample))
            if is_full():
                yield step
                trained, steps, step = trained + len(step), steps + 1, []
                if steps == schedule.max_steps:
                    return
        epoch += 1
        if schedule.last_step == "drop":
            step = []
        elif step and (schedule.last_step == "short" or epoch == schedule.epochs):
            yield step
            trained, steps, step = trained + len(step), steps + 1, []
            if steps == schedule.max_steps:
                return


@given(changing_schedules(), st.sampled_from([1 << 20, 1, 7]))
def test_every_step_is_what_a_count_of_the_samples_makes(schedule: Schedule, window: int) -> None:
    """window: samples that are looked at at once, which changes nothing."""
    with mock.patch.object(cutting, "WINDOW_SAMPLES", window):
        schedule = replace(schedule)
    steps = list(counted(schedule))
    told = [
        list(zip(schedule.passes_of(k).tolist(), schedule.samples(k).tolist(), strict=True))
        for k in range(schedule.total_steps)
    ]
    assert told == steps
    seen = [sample for step in steps for sample in step]
    assert schedule.scheduled_samples == len(seen)
    assert schedule.distinct_samples == len({sample for _, sample in seen})
    assert schedule.largest_step[1] == max(map(len, steps))
    if schedule.epochs is not None:
        assert schedule.dropped_samples == schedule.epochs * schedule.num_samples - len(seen)
        assert schedule.last_step == "drop" or not schedule.dropped_samples
    if schedule.epochs is not None or steps[-1][-1][0]:
        assert schedule.steps_per_epoch == sum(step[0][0] == 0 for step in steps)


@given(changing_schedules(), st.integers(0, 300))
def test_a_batch_holds_from_the_first_step_that_begins_there(schedule: Schedule, samples: int) -> None:
    before = np.cumsum([0, *(schedule.step_size(k) for k in range(schedule.total_steps))])
    assert [schedule.samples_before(k) for k in range(len(before))] == before.tolist()
    begins = [k for k in range(schedule.total_steps) if before[k] >= samples]
    assert schedule.step_after(samples) == min(begins, default=schedule.total_steps)
    for k in range(schedule.total_steps):
        told = [batch for first, batch in schedule.batches if first <= k][-1]
        if schedule.batch_from_samples:
            assert told == [batch for first, batch in schedule.batch_from_samples if first <= before[k]][-1]
