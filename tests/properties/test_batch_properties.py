"""For any numbers: the solved third is the smallest that holds, and every help keeps its promise."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crossfoot.arithmetic.batch import BatchImpossible, BatchPlan, Topology, solve_batch, spread

counts = st.integers(1, 40)
batches = st.one_of(st.integers(1, 2_000), st.integers(1, 10**12))
layouts = st.lists(st.integers(1, 9), min_size=1, max_size=9).map(tuple)
topologies = st.one_of(
    st.builds(Topology, gpus_per_node=st.integers(1, 9), num_nodes=st.integers(1, 9)),
    layouts.map(lambda layout: Topology(layout, len(layout))),
)
any_number = st.integers(1, 60)


@pytest.mark.lie("B4", "U6", answer="impossible")
@settings(max_examples=150, deadline=None)
@given(topologies, counts, batches)
def test_accumulation_and_micro_batch_are_the_smallest_that_hold(
    topology: Topology, given_count: int, batch: int
) -> None:
    by_micro = solve_batch(topology, micro_batch_size=given_count, global_batch_size=batch)
    by_accum = solve_batch(topology, grad_accum_steps=given_count, global_batch_size=batch)
    for plan, third in ((by_micro, by_micro.grad_accum_steps), (by_accum, by_accum.micro_batch_size)):
        assert plan.global_batch_size == batch
        assert third >= 1
        assert (
            given_count * third * topology.world_size
            >= batch
            > given_count * (third - 1) * topology.world_size
        )
        assert plan.is_uneven == (plan.capacity_samples != batch)
    assert (by_micro.solved, by_accum.solved) == ("grad_accum_steps", "micro_batch_size")


@settings(max_examples=150, deadline=None)
@given(topologies, counts, counts, batches)
def test_three_numbers_are_accepted_exactly_when_no_forward_is_spare(
    topology: Topology, micro: int, accum: int, batch: int
) -> None:
    per_forward = micro * topology.dp_degree
    holds = per_forward * accum >= batch
    one_fewer_holds = accum > 1 and per_forward * (accum - 1) >= batch
    try:
        plan = solve_batch(topology, micro_batch_size=micro, grad_accum_steps=accum, global_batch_size=batch)
    except BatchImpossible:
        assert not holds or one_fewer_holds
    else:
        assert holds and not one_fewer_holds
        assert plan == BatchPlan(micro, accum, batch, topology, None)


@settings(max_examples=300, deadline=None)
@given(topologies, any_number, any_number, any_number)
def test_following_any_help_makes_the_plan_that_it_promises(
    topology: Topology, micro: int, accum: int, batch: int
) -> None:
    written = {"micro_batch_size": micro, "grad_accum_steps": accum, "global_batch_size": batch}
    try:
        solve_batch(topology, **written)
    except BatchImpossible as impossible:
        caught = impossible
    else:
        assume(False)
    assert caught.helps
    for text in caught.helps:
        changed = dict(written)
        changed |= {key: int(value) for key, value in re.findall(r"batch\.(\w+) to (\d+)", text)}
        assert changed != written
        plan = solve_batch(topology, **changed)
        promise = re.search(r": (\d+) x (\d+) x (\d+) = (\d+)(?: holds (\d+))?$", text)
        assert promise is not None
        assert [int(number) for number in promise.groups(default=promise[4])] == [
            plan.micro_batch_size,
            plan.grad_accum_steps,
            topology.dp_degree,
            plan.capacity_samples,
            plan.global_batch_size,
        ]


@settings(max_examples=100, deadline=None)
@given(layouts, counts, batches)
def test_only_the_number_of_ranks_counts(layout: tuple[int, ...], micro: int, batch: int) -> None:
    """Ranks on nodes that are not alike hold what as many ranks on one node hold."""
    topology = Topology(layout, len(layout))
    assert topology.world_size == sum(layout)
    assert topology.is_even == (len(set(layout)) == 1)
    plan, alone = (
        solve_batch(where, micro_batch_size=micro, global_batch_size=batch)
        for where in (topology, Topology(sum(layout), 1))
    )
    assert replace(plan, topology=alone.topology) == alone
    assert Topology(layout[::-1], len(layout)).has_nodes_of(topology)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20))
def test_ranks_are_spread_as_equally_as_they_can_be(ranks: int, nodes: int) -> None:
    shares = spread(ranks, nodes)
    assert (sum(shares), len(shares)) == (ranks, nodes)
    assert max(shares) - min(shares) <= 1
    assert shares == tuple(sorted(shares, reverse=True))


@settings(max_examples=100, deadline=None)
@given(topologies, counts, batches)
def test_folding_changes_no_slot(topology: Topology, micro: int, batch: int) -> None:
    plan = solve_batch(topology, micro_batch_size=micro, global_batch_size=batch)
    folded = plan.fold()
    assert folded.topology == Topology(1, 1)
    assert folded.fold() == folded
    for name in ("micro_batch_size", "global_batch_size", "capacity_samples", "slots_per_step", "is_uneven"):
        assert getattr(folded, name) == getattr(plan, name)
