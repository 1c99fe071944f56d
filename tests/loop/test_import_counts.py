"""What `crossfoot import` says another trainer counts, held against that trainer's own code."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import Trainer

from crossfoot.importing.trained import Batch, Epoch

CASES = [
    (micro, accumulation, world, samples)
    for micro in (1, 3)
    for accumulation in (1, 4)
    for world in (1, 2, 4)
    for samples in (1, 7, 24, 37, 40, 205)
]


@pytest.mark.parametrize("is_dropping", [False, True])
@pytest.mark.parametrize(("micro", "accumulation", "world", "samples"), CASES)
def test_an_epoch_is_counted_as_accelerate_and_the_trainer_do(
    micro: int, accumulation: int, world: int, samples: int, is_dropping: bool
) -> None:
    if is_dropping and samples < micro * world:
        pytest.skip("there the Trainer has nothing to train")
    epoch = Epoch(Batch(micro, accumulation, world), samples, is_dropping)
    ranks = [list(_sampler(micro, samples, world, rank, is_dropping)) for rank in range(world)]
    trained = [sample for batches in ranks for batch in batches for sample in batch]
    assert {len(batches) for batches in ranks} == {epoch.forwards}
    assert len(trained) - len(set(trained)) == epoch.repeated
    assert samples - len(set(trained)) == epoch.dropped
    assert _trainers_steps(ranks[0], accumulation, epochs=3) == epoch.total_steps(3)


def _sampler(micro: int, samples: int, world: int, rank: int, is_dropping: bool) -> Any:
    batches = BatchSampler(SequentialSampler(range(samples)), micro, is_dropping)
    return BatchSamplerShard(batches, world, rank) if world > 1 else batches


def _trainers_steps(batches: list[list[int]], accumulation: int, epochs: int) -> int:
    """The steps of a run by transformers of today."""
    loader = DataLoader([[0]] * len(batches), batch_size=1)
    arguments = SimpleNamespace(
        max_steps=-1, gradient_accumulation_steps=accumulation, num_train_epochs=epochs, world_size=1
    )
    asked = SimpleNamespace(
        get_total_train_batch_size=lambda _: 1, get_sp_size=lambda: 1, num_examples=lambda _: len(batches)
    )
    return int(Trainer.set_initial_training_values(asked, arguments, loader)[-1])


@pytest.mark.parametrize(("forwards", "accumulation"), [(10, 4), (8, 4), (3, 4), (4, 4), (205, 8), (1, 1)])
def test_floored_steps_are_those_of_the_trainers_loop_up_to_4_46(forwards: int, accumulation: int) -> None:
    """Its condition for a step, as transformers 4.35.0 has it, in the first epoch."""
    epoch = Epoch(Batch(1, accumulation, 1), forwards, floors_steps=True)
    steps, since = 0, 0
    for done in range(1, forwards + 1):
        since += 1
        if done % accumulation == 0 or (forwards <= accumulation and done == forwards):
            steps, since = steps + 1, 0
    assert (epoch.steps, epoch.without_step) == (steps, since)
    assert epoch.steps == max(forwards // accumulation, 1) and epoch.total_steps(2) == 2 * steps


def test_a_part_of_an_epoch_is_rounded_up() -> None:
    assert Epoch(Batch(2, 2, 2), 100).total_steps(0.5) == math.ceil(0.5 * 13)
