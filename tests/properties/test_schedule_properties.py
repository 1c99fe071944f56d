"""For any samples, batch, policy and topology: every sample once an epoch, the same steps everywhere."""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crossfoot.arithmetic import epoch_order as order_module
from crossfoot.arithmetic import schedule as schedule_module
from crossfoot.arithmetic.batch import Topology, solve_batch
from crossfoot.arithmetic.dealing import deal, enough_room
from crossfoot.arithmetic.epoch_order import EpochOrder, epoch_order
from crossfoot.arithmetic.layout import PackedLayout, PaddedLayout
from crossfoot.arithmetic.schedule import Schedule, batches_sha256


@st.composite
def schedules(draw: st.DrawFn, *, by_epochs: bool = False) -> Schedule:
    last_step = draw(st.sampled_from(["short", "drop", "carry"]))
    num_samples = draw(st.integers(1, 90))
    most = num_samples if last_step == "drop" else 120
    batch = draw(st.integers(1, most))
    seed = draw(st.integers(0, 2**63 - 1))
    if by_epochs or draw(st.booleans()):
        return Schedule(num_samples, batch, seed, last_step, epochs=draw(st.integers(1, 4)))
    return Schedule(num_samples, batch, seed, last_step, max_steps=draw(st.integers(1, 40)))


topologies = st.one_of(
    st.builds(Topology, gpus_per_node=st.integers(1, 5), num_nodes=st.integers(1, 3)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)).map(lambda layout: Topology(layout, 2)),
)


def layout_of(topology: Topology, micro_batch_size: int, global_batch_size: int) -> PaddedLayout:
    plan = solve_batch(topology, micro_batch_size=micro_batch_size, global_batch_size=global_batch_size)
    return PaddedLayout(topology.dp_degree, plan.grad_accum_steps, plan.micro_batch_size)


def lengths_for(schedule: Schedule) -> np.ndarray:
    """Token lengths with many ties, so that the order of equals is looked at."""
    return np.random.default_rng(schedule.num_samples).integers(1, 7, schedule.num_samples).astype(np.int32)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_an_epoch_order_is_a_permutation_sorted_by_philox_words(
    num_samples: int, seed: int, epoch: int
) -> None:
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(num_samples).tolist()
    assert epoch_order(num_samples, seed, epoch).tolist() == sorted(
        range(num_samples), key=lambda i: (words[i], i)
    )


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 70),
    st.lists(st.tuples(*[st.integers(0, 300)] * 2)),
)
def test_windows_of_an_order_are_parts_of_the_whole(
    num_samples: int, window: int, chunk: int, parts: list[tuple[int, int]]
) -> None:
    with (
        mock.patch.object(order_module, "WINDOW_SAMPLES", window),
        mock.patch.object(order_module, "_CHUNK_WORDS", chunk),
    ):
        order, whole = EpochOrder(num_samples, 5, 2), epoch_order(num_samples, 5, 2)
        for lo, hi in [(0, num_samples), *parts]:
            lo, hi = min(lo, num_samples), min(hi, num_samples)
            assert np.array_equal(order.at(lo, hi), whole[lo:hi])


@pytest.mark.lie("B1", "B3", "B9", answer="impossible")
@settings(max_examples=100, deadline=None)
@given(schedules(by_epochs=True))
def test_every_sample_is_trained_once_an_epoch(schedule: Schedule) -> None:
    assert schedule.epochs is not None
    seen: Counter[tuple[int, int]] = Counter()
    for k in range(schedule.total_steps):
        seen.update(zip(schedule.passes_of(k).tolist(), schedule.samples(k).tolist(), strict=True))
    assert set(seen.values()) == {1}
    everything = {(epoch, i) for epoch in range(schedule.epochs) for i in range(schedule.num_samples)}
    missing = everything - set(seen)
    assert set(seen) <= everything
    assert len(missing) == schedule.dropped_samples
    if schedule.last_step == "drop":
        rest = schedule.num_samples % schedule.global_batch_size
        assert Counter(epoch for epoch, _id in missing) == {e: rest for e in range(schedule.epochs) if rest}
    else:
        assert not missing


@settings(max_examples=100, deadline=None)
@given(schedules())
def test_sizes_are_exact(schedule: Schedule) -> None:
    batch, num_samples = schedule.global_batch_size, schedule.num_samples
    steps = [schedule.samples(k) for k in range(schedule.total_steps)]
    sizes = [step.size for step in steps]
    assert sizes == [schedule.step_size(k) for k in range(schedule.total_steps)]
    assert schedule.last_step_samples == sizes[-1]
    assert schedule.scheduled_samples == sum(sizes)
    assert schedule.distinct_samples == len(set(np.concatenate(steps).tolist()))
    assert all(0 < size <= batch for size in sizes)
    if schedule.max_steps is not None:
        assert len(sizes) == schedule.max_steps
    if schedule.last_step == "short":
        rest = num_samples % batch or batch
        ends = range(schedule.steps_per_epoch - 1, len(sizes), schedule.steps_per_epoch)
        assert sizes == [rest if k in ends else batch for k in range(len(sizes))]
    elif schedule.epochs is None or schedule.last_step == "drop":
        assert set(sizes) == {batch}
    else:
        assert set(sizes[:-1]) <= {batch}
        assert sum(sizes) == schedule.epochs * num_samples


@settings(max_examples=100, deadline=None)
@given(schedules(), st.integers(1, 200))
def test_blocks_are_the_steps(schedule: Schedule, block_samples: int) -> None:
    whole = schedule_module.BLOCK_SAMPLES
    try:
        schedule_module.BLOCK_SAMPLES = block_samples
        k = 0
        for block in schedule.blocks():
            assert block.first == k
            assert block.ids.dtype == np.int64
            assert block.ids.size <= max(block_samples, schedule.global_batch_size)
            steps = {
                int(step): row.tolist()
                for steps, ids in block.rows()
                for step, row in zip(steps, ids, strict=True)
            }
            for number in range(len(block.sizes)):
                assert steps.pop(number) == schedule.samples(k).tolist()
                k += 1
            assert not steps
        assert k == schedule.total_steps
    finally:
        schedule_module.BLOCK_SAMPLES = whole


@pytest.mark.lie("B6", answer="impossible")
@settings(max_examples=100, deadline=None)
@given(schedules(), topologies, topologies, st.integers(1, 8), st.integers(1, 8))
def test_step_sets_do_not_know_the_topology(
    schedule: Schedule, here: Topology, there: Topology, micro_here: int, micro_there: int
) -> None:
    """The slots of any layout hold each step's samples, each once: together they are the same sets."""
    lengths = lengths_for(schedule)
    layouts = [
        layout_of(topology, micro, schedule.global_batch_size)
        for topology, micro in ((here, micro_here), (there, micro_there))
    ]
    for k in range(schedule.total_steps):
        ids = schedule.samples(k)
        for layout in layouts:
            slots = layout.slots(ids, lengths[ids])
            assert len(slots) == layout.dp_degree
            assert {len(rank) for rank in slots} == {layout.grad_accum_steps}
            held = [slot.size for rank in slots for slot in rank]
            assert max(held) <= layout.micro_batch_size
            assert max(held) - min(held) <= 1
            assert sorted(i for rank in slots for slot in rank for i in slot.tolist()) == sorted(ids.tolist())


@settings(max_examples=100, deadline=None)
@given(schedules(), topologies, st.integers(1, 8))
def test_folding_gives_the_same_runs_in_the_same_order(
    schedule: Schedule, topology: Topology, micro: int
) -> None:
    plan = solve_batch(topology, micro_batch_size=micro, global_batch_size=schedule.global_batch_size)
    folded = plan.fold()
    wide = PaddedLayout(topology.dp_degree, plan.grad_accum_steps, micro)
    narrow = PaddedLayout(folded.topology.dp_degree, folded.grad_accum_steps, folded.micro_batch_size)
    lengths = lengths_for(schedule)
    for k in range(schedule.total_steps):
        ids = schedule.samples(k)
        slots = wide.slots(ids, lengths[ids])
        runs = [slots[r][f].tolist() for f in range(wide.grad_accum_steps) for r in range(wide.dp_degree)]
        (only_rank,) = narrow.slots(ids, lengths[ids])
        assert [run.tolist() for run in only_rank] == runs
        # Longest first over the runs, and equal lengths in the schedule's order.
        place = {i: n for n, i in enumerate(ids.tolist())}
        flat = [i for run in runs for i in run]
        if len(place) == len(flat):  # a carried step may hold a sample of two epochs twice
            assert flat == sorted(flat, key=lambda i: (-int(lengths[i]), place[i]))


@settings(max_examples=60, deadline=None)
@given(schedules(), topologies, st.integers(1, 8))
def test_hashes_are_those_of_the_steps_and_slots_one_by_one(
    schedule: Schedule, topology: Topology, micro: int
) -> None:
    layout = layout_of(topology, micro, schedule.global_batch_size)
    lengths = lengths_for(schedule)
    batches = hashlib.sha256(f"crossfoot batches 1 {schedule.total_steps}\n".encode())
    head = f"crossfoot layout padded 1 {layout.dp_degree} {layout.grad_accum_steps} {schedule.total_steps}\n"
    slots_hash = hashlib.sha256(head.encode())
    cuts: dict[int, list[int]] = {}
    for k in range(schedule.total_steps):
        ids = schedule.samples(k)
        slots = layout.slots(ids, lengths[ids])
        runs = [slots[r][f].tolist() for f in range(layout.grad_accum_steps) for r in range(layout.dp_degree)]
        cuts[ids.size] = [len(run) for run in runs]
        for digest, row in ((batches, sorted(ids.tolist())), (slots_hash, [i for run in runs for i in run])):
            digest.update(b"".join(number.to_bytes(8, "little") for number in (len(row), *row)))
    for size, cut in sorted(cuts.items()):
        slots_hash.update(b"".join(number.to_bytes(8, "little") for number in (size, *cut)))
    assert batches_sha256(schedule) == batches.hexdigest()
    assert layout.sha256(schedule, lengths) == slots_hash.hexdigest()


@settings(max_examples=60, deadline=None)
@given(schedules(by_epochs=True), st.integers(1, 3))
def test_a_longer_run_begins_with_the_shorter_one(schedule: Schedule, more: int) -> None:
    assert schedule.epochs is not None
    assume(schedule.total_steps > 1)
    longer = Schedule(
        schedule.num_samples,
        schedule.global_batch_size,
        schedule.seed,
        schedule.last_step,
        epochs=schedule.epochs + more,
    )
    for k in range(
        schedule.total_steps - 1
    ):  # the last carried step of the shorter run is filled in the longer
        assert longer.samples(k).tolist() == schedule.samples(k).tolist()


@st.composite
def steps_by_tokens(draw: st.DrawFn) -> tuple[PackedLayout, np.ndarray]:
    """A layout with a limit in tokens, and the lengths of the samples of a step."""
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=50))
    ranks, tokens = draw(st.integers(1, 5)), draw(st.integers(max(lengths), 150))
    per_token = draw(st.sampled_from([1, 50, 50_408]))
    return PackedLayout(ranks, len(lengths), 1, per_token, ranks, tokens), np.array(lengths, dtype=np.int32)


@settings(max_examples=300, deadline=None)
@given(steps_by_tokens(), st.randoms(use_true_random=False))
def test_a_step_by_tokens_is_whole_in_as_few_forwards_as_hold_it(
    step: tuple[PackedLayout, np.ndarray], random: Random
) -> None:
    layout, lengths = step
    ids = np.arange(lengths.size, dtype=np.int64)
    slots = layout.slots(ids, lengths)
    assert len(slots) == layout.dp_degree
    (forwards,) = {len(rank) for rank in slots}
    assert layout.forwards(lengths[np.newaxis]).tolist() == [forwards]
    assert sorted(i for rank in slots for slot in rank for i in slot.tolist()) == ids.tolist()
    held = [int(lengths[slot].sum()) for rank in slots for slot in rank]
    assert max(held) <= layout.micro_batch_tokens
    # as few: what has fewer slots has no room for all, or some found none in them
    fewer = layout.dp_degree * (forwards - 1)
    if fewer * layout.micro_batch_tokens >= lengths.sum():
        work = sorted((layout.work_per_token * n + n * n for n in lengths.tolist()), reverse=True)
        assert deal(work, sorted(lengths.tolist(), reverse=True), fewer, layout.micro_batch_tokens) is None
        assert enough_room(np.sort(lengths)[np.newaxis, ::-1], fewer)[0] > layout.micro_batch_tokens
    shuffled = ids.copy()
    random.shuffle(shuffled)
    again = layout.slots(shuffled, lengths[shuffled])
    assert [[slot.tolist() for slot in rank] for rank in again] == [
        [slot.tolist() for slot in rank] for rank in slots
    ]
    (alone,) = layout.folded().slots(ids, lengths)
    at_once = [slot.tolist() for number in range(forwards) for slot in (rank[number] for rank in slots)]
    assert [slot.tolist() for slot in alone] == at_once


@settings(max_examples=300, deadline=None)
@given(steps_by_tokens(), st.integers(1, 12))
def test_enough_room_is_enough(step: tuple[PackedLayout, np.ndarray], slots: int) -> None:
    layout, lengths = step
    descending = np.sort(lengths.astype(np.int64))[::-1]
    enough = int(enough_room(descending[np.newaxis], slots)[0])
    work = (layout.work_per_token * descending + descending**2).tolist()
    for most in (enough, enough + 1, 2 * enough):
        dealt = deal(work, descending.tolist(), slots, most)
        assert dealt is not None
        assert sorted(place for slot in dealt for place in slot) == list(range(lengths.size))
