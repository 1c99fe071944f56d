"""A checkpoint of other tensors is refused before anything is changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from crossfoot.checkpoints.manifest import Manifest, StoredTensor
from crossfoot.checkpoints.store import Checkpoint
from crossfoot.findings.finding import Refused
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.training.restoring import load_checkpoint

pytestmark = pytest.mark.xdist_group("loop")


def checkpoint_of(optimizer: str = "sgd", **shapes: tuple[int, ...]) -> Checkpoint:
    """Its files are not there: whoever is refused does not read them."""
    tensors = {name: StoredTensor("a.safetensors", shape, "F32") for name, shape in shapes.items()}
    known: dict[str, Any] = {"plan_sha256": "p", "batches_sha256": "b", "attempt": 1, "files": ()}
    known |= {"optimizer_step": 1, "validation_loss": None, "seconds": 0.1, "written": "now"}
    manifest = Manifest(step=1, tensors=tensors, optimizer=optimizer, **known)
    return Checkpoint(Path("step-000001"), manifest)


@pytest.mark.parametrize(
    ("checkpoint", "codes"),
    [
        (checkpoint_of(weight=(3, 2), bias=(4,)), ["CF765"]),
        (checkpoint_of(weight=(3, 2)), ["CF764"]),
        (checkpoint_of(weight=(3, 2), bias=(3,), other=(1,)), ["CF764"]),
        (checkpoint_of("adamw", weight=(3, 2), bias=(3,)), ["CF766"]),
        (checkpoint_of("adamw", weight=(2, 3), other=(3,)), ["CF766", "CF764", "CF764", "CF765"]),
    ],
)
def test_what_does_not_fit_changes_nothing(checkpoint: Checkpoint, codes: list[str]) -> None:
    model = nn.Linear(2, 3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    engine: Any = SimpleNamespace(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(Refused) as caught:
        load_checkpoint(engine, model, checkpoint, Ranks(0, 1, None))
    assert [finding.code for finding in caught.value.findings] == codes
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
