"""LoRA dropout on a CPU: four draws of a word, as likely as asked for, repeated by seed and checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from crossfoot.models.dropout import DRAWS, FewerDraws

pytestmark = pytest.mark.xdist_group("loop")
ELEMENTS = 1_000_001  # no multiple of four


def dropped_of(values: torch.Tensor, share: float) -> torch.Tensor:
    torch.manual_seed(3)
    dropped: torch.Tensor = FewerDraws(share).train()(values)
    return dropped


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9999999])
def test_every_place_of_a_word_drops_as_often_as_asked(share: float) -> None:
    exact = min(round(share * DRAWS), DRAWS - 1) / DRAWS
    zero = dropped_of(torch.ones(ELEMENTS), share) == 0
    for place in range(4):
        found = zero[place::4].double()
        deviation = (exact * (1 - exact) / len(found)) ** 0.5
        assert abs(float(found.mean()) - exact) < 5 * deviation
    beside = (zero[1:] & zero[:-1]).double().mean()
    assert abs(float(beside) - exact**2) < 5 * (exact**2 / ELEMENTS) ** 0.5 + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_divided_by_the_exact_share(dtype: torch.dtype) -> None:
    values = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(0)).to(dtype)
    dropped = dropped_of(values, 0.05)
    kept = dropped != 0
    assert dropped.dtype == dtype
    scale = DRAWS / (DRAWS - round(0.05 * DRAWS))
    assert torch.equal(dropped[kept], (values[kept].float() * scale).to(dtype))


def test_a_seed_decides_and_the_gradient_goes_where_the_value_went() -> None:
    values = torch.ones(3, 7, requires_grad=True)
    first = dropped_of(values, 0.5)
    assert torch.equal(first, dropped_of(values, 0.5))
    first.sum().backward()
    assert torch.equal(values.grad, first)


def test_gradient_checkpointing_draws_the_same_again() -> None:
    drops = FewerDraws(0.5).train()
    values = torch.ones(257, requires_grad=True)
    torch.manual_seed(3)
    once = checkpoint(lambda x: drops(x) ** 2, values, use_reentrant=False)
    once.sum().backward()
    assert torch.equal(values.grad, 2 * 2 * dropped_of(values, 0.5))


def test_nothing_is_drawn_outside_of_training_or_for_nothing() -> None:
    values = torch.ones(100)
    assert torch.equal(FewerDraws(0.5).eval()(values), values)
    assert torch.equal(FewerDraws(0.0).train()(values), values)
    assert isinstance(FewerDraws(0.5), nn.Dropout)
