"""The optimizer over what is trained."""

from __future__ import annotations

import torch
from torch import nn

from crossfoot.models.parameters import shape_of
from crossfoot.written.config import OptimizerSection


def build_optimizer(model: nn.Module, section: OptimizerSection) -> torch.optim.Optimizer:
    """The optimizer over the trained parameters, at rate 0 (the loop sets the rate of every step before it).

    adamw: torch's, fused. sgd: without momentum or decay. Matrices (two dimensions and more, ZeRO-3: of the
    whole tensor) are decayed, vectors (norms, biases) are not; an empty group is left out. A shared tensor is
    one parameter.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if len(shape_of(parameter)) >= 2]
    vectors = [parameter for parameter in trained if len(shape_of(parameter)) < 2]
    decay = section.weight_decay if section.name == "adamw" else 0.0
    groups = [
        {"params": parameters, "weight_decay": weight_decay}
        for parameters, weight_decay in ((matrices, decay), (vectors, 0.0))
        if parameters
    ]
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0)
    return torch.optim.AdamW(groups, lr=0.0, betas=section.betas, eps=section.eps, fused=True)
