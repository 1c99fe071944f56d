"""The batch equation: published numbers, the three-number rule, and helps that hold what they promise."""

from __future__ import annotations

import pytest

from crossfoot.arithmetic.batch import (
    BatchImpossible,
    BatchPlan,
    GpusPerNode,
    Topology,
    ceil_div,
    solve_batch,
)

TWO_NODES = Topology(gpus_per_node=8, num_nodes=2)


@pytest.mark.parametrize(
    ("gpus", "nodes", "micro", "accum", "batch"),
    [
        pytest.param(4, 1, 4, 8, 128, id="Stanford Alpaca"),
        pytest.param(8, 2, 8, 2, 256, id="Chinese-Llama-2-7B"),
        pytest.param(1, 1, 2, 8, 16, id="a LoRA card"),
        pytest.param(1, 1, 1, 8, 8, id="Chinese-LLaMA-Alpaca-2 run_sft.sh"),
        pytest.param(8, 2, 4, 8, 512, id="two nodes of eight"),
        pytest.param(8, 1, 1, 16, 128, id="Tulu 3 SFT 8B"),
        pytest.param(8, 32, 1, 1, 256, id="Tulu 3 SFT 405B"),
    ],
)
def test_published_arithmetic_from_any_two_numbers_and_from_all_three(
    gpus: int, nodes: int, micro: int, accum: int, batch: int
) -> None:
    topology = Topology(gpus, nodes)
    numbers = {"micro_batch_size": micro, "grad_accum_steps": accum, "global_batch_size": batch}
    for left_out in (*numbers, None):
        plan = solve_batch(topology, **{key: value for key, value in numbers.items() if key != left_out})
        assert plan == BatchPlan(micro, accum, batch, topology, left_out)
        assert plan.capacity_samples == batch
        assert not plan.is_uneven


@pytest.mark.parametrize(
    ("topology", "given", "third", "capacity"),
    [
        # What others floor: litgpt trains 48 of these 64, Chinese-Vicuna 30 of 32 (docs/lies.md, U6).
        (Topology(6, 1), {"micro_batch_size": 4, "global_batch_size": 64}, ("grad_accum_steps", 3), 72),
        (Topology(3, 1), {"micro_batch_size": 1, "global_batch_size": 32}, ("grad_accum_steps", 11), 33),
        (TWO_NODES, {"micro_batch_size": 4, "global_batch_size": 100}, ("grad_accum_steps", 2), 128),
        (TWO_NODES, {"grad_accum_steps": 2, "global_batch_size": 100}, ("micro_batch_size", 4), 128),
        (TWO_NODES, {"micro_batch_size": 8, "global_batch_size": 3}, ("grad_accum_steps", 1), 128),
    ],
)
def test_a_batch_that_does_not_divide_is_kept(
    topology: Topology, given: dict[str, int], third: tuple[str, int], capacity: int
) -> None:
    plan = solve_batch(topology, **given)
    assert (plan.solved, getattr(plan, third[0])) == (third[0], third[1])
    assert plan.global_batch_size == given["global_batch_size"]
    assert plan.capacity_samples == capacity
    assert plan.is_uneven


@pytest.mark.parametrize(
    ("batch", "accepted"), [(129, False), (128, True), (65, True), (64, False), (1, False)]
)
def test_three_numbers_leave_no_forward_spare(batch: int, accepted: bool) -> None:
    numbers = {"micro_batch_size": 4, "grad_accum_steps": 2, "global_batch_size": batch}
    if accepted:
        plan = solve_batch(TWO_NODES, **numbers)
        assert (plan.global_batch_size, plan.solved) == (batch, None)
    else:
        with pytest.raises(BatchImpossible):
            solve_batch(TWO_NODES, **numbers)


def test_three_numbers_with_one_forward_hold_any_smaller_batch() -> None:
    for batch in range(1, 65):
        plan = solve_batch(TWO_NODES, micro_batch_size=4, grad_accum_steps=1, global_batch_size=batch)
        assert plan.global_batch_size == batch


def test_a_batch_above_the_capacity_names_every_change() -> None:
    with pytest.raises(BatchImpossible) as caught:
        solve_batch(TWO_NODES, micro_batch_size=4, grad_accum_steps=2, global_batch_size=256)
    assert caught.value.title == "global_batch_size is 256, but a step holds only 128 samples"
    assert caught.value.keys == (
        "batch.global_batch_size",
        "batch.micro_batch_size",
        "batch.grad_accum_steps",
    )
    assert caught.value.notes == ("4 samples x 2 forwards x 8 GPUs x 2 nodes = 128 samples",)
    assert caught.value.helps == (
        "set batch.grad_accum_steps to 4: 4 x 4 x 16 = 256",
        "or set batch.micro_batch_size to 8: 8 x 2 x 16 = 256",
        "or set batch.global_batch_size to 128: 4 x 2 x 16 = 128",
    )


def test_spare_forwards_name_every_change() -> None:
    with pytest.raises(BatchImpossible) as caught:
        solve_batch(TWO_NODES, micro_batch_size=4, grad_accum_steps=8, global_batch_size=250)
    assert caught.value.title == "global_batch_size is 250, but the other batch numbers make 512"
    assert caught.value.notes[1] == "4 of the 8 forwards already hold 250 samples"
    assert caught.value.helps == (
        "set batch.grad_accum_steps to 4: 4 x 4 x 16 = 256 holds 250",
        "or set batch.micro_batch_size to 2: 2 x 8 x 16 = 256 holds 250",
        "or set batch.global_batch_size to 512: 4 x 8 x 16 = 512",
    )


def test_a_change_that_would_be_refused_again_is_not_offered() -> None:
    with pytest.raises(BatchImpossible) as caught:
        solve_batch(TWO_NODES, micro_batch_size=4, grad_accum_steps=8, global_batch_size=7)
    # No micro_batch_size is offered: even with 1, a single forward on 16 ranks holds the 7 samples.
    assert caught.value.helps == (
        "set batch.grad_accum_steps to 1: 4 x 1 x 16 = 64 holds 7",
        "or set batch.global_batch_size to 512: 4 x 8 x 16 = 512",
    )


@pytest.mark.parametrize(
    "given",
    [
        {"grad_accum_steps": 0, "micro_batch_size": 4, "global_batch_size": 256},
        {"micro_batch_size": -1, "global_batch_size": 1},
        {"global_batch_size": 256},
        {},
    ],
)
def test_what_a_config_cannot_say_is_our_mistake(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no batch follows") as caught:
        solve_batch(TWO_NODES, **given)
    assert not isinstance(caught.value, BatchImpossible)


@pytest.mark.parametrize(("gpus", "nodes"), [(0, 1), (8, -2), ((2, 0), 2)])
def test_a_cluster_without_gpus_is_our_mistake(gpus: GpusPerNode, nodes: int) -> None:
    with pytest.raises(ValueError, match="cannot run anything") as caught:
        Topology(gpus, nodes)
    assert not isinstance(caught.value, BatchImpossible)


def test_folding_keeps_the_batch_and_the_slots() -> None:
    plan = solve_batch(TWO_NODES, micro_batch_size=4, global_batch_size=100)
    folded = plan.fold()
    assert folded == BatchPlan(4, 32, 100, Topology(1, 1), "grad_accum_steps")
    assert (folded.slots_per_step, folded.capacity_samples) == (plan.slots_per_step, plan.capacity_samples)


def test_a_plan_that_cannot_hold_its_batch_is_our_mistake() -> None:
    for micro, accum, batch in ((4, 1, 65), (0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError) as caught:
            BatchPlan(micro, accum, batch, TWO_NODES)
        assert not isinstance(caught.value, BatchImpossible)


@pytest.mark.parametrize(
    ("a", "b", "quotient"), [(0, 3, 0), (1, 3, 1), (3, 3, 1), (4, 3, 2), (10**30 + 1, 10, 10**29 + 1)]
)
def test_ceil_div(a: int, b: int, quotient: int) -> None:
    assert ceil_div(a, b) == quotient
