"""What the meter says of an update, asked without a run."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from crossfoot.ledger.witness import pack, unpack
from crossfoot.metering.meter import RATE_GROUP, Meter
from crossfoot.metering.update import Update

pytestmark = pytest.mark.xdist_group("loop")


@pytest.mark.parametrize(
    ("rates", "told"),
    [([0.1, 0.1, 0.2], 0.2), ([0.2, 0.1, 0.2], 0.1), ([0.3, 0.3, 0.3], 0.3), ([0.4, 0.3, 0.5], 0.3)],
)
def test_no_group_hides_another_rate(rates: list[float], told: float) -> None:
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in rates))
    groups = [{"params": layer.parameters(), "lr": rate} for layer, rate in zip(model, rates, strict=True)]
    optimizer = torch.optim.SGD(groups)
    meter = Meter(model, nn.Embedding(1, 1), optimizer, rank=3)
    optimizer.step()
    witness = meter.witness(meter.end_step(7, Update(lambda: 2.5, loss_scale=1.0)), stop=2)
    assert (witness.rank, witness.step, witness.lr, witness.stop) == (3, 7, told, 2)
    assert (witness.applied, witness.grad_norm, witness.nonfinite, witness.retries) == (True, 2.5, False, 0)


def test_groups_with_rates_of_their_own_are_told_apart() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(4)))
    own = (("", 0.1), ("lora_B", 1.6), ("lora_B", 1.5), ("other", 0.2))
    groups = [
        {"params": layer.parameters(), "lr": rate, RATE_GROUP: name}
        for layer, (name, rate) in zip(model, own, strict=True)
    ]
    optimizer = torch.optim.SGD(groups)
    meter = Meter(model, nn.Embedding(1, 1), optimizer, rank=0)
    optimizer.step()
    witness = meter.witness(meter.end_step(0, Update(lambda: 1.0)))
    assert (witness.lr, witness.group_lrs) == (0.1, {"lora_B": 1.5, "other": 0.2})
    assert unpack(pack(witness, 40)) == witness


def test_without_an_update_there_is_no_rate() -> None:
    model = nn.Linear(1, 1)
    meter = Meter(model, nn.Embedding(1, 1), torch.optim.SGD(model.parameters()), rank=0)
    meter.forget_try()
    witness = meter.witness(meter.end_step(0, Update(lambda: math.inf, lambda: False, "overflow")))
    assert math.isnan(witness.lr) and not witness.applied
    assert (witness.nonfinite, witness.overflow, witness.retries) == (True, True, 1)
