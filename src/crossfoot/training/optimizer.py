"""The optimizer over what is trained, in groups that have a rate of their own."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from crossfoot.metering.meter import RATE_GROUP
from crossfoot.models.parameters import shape_of
from crossfoot.written.config import OptimizerSection


def build_optimizer(
    model: nn.Module, section: OptimizerSection, own_rates: Collection[str] = ()
) -> torch.optim.Optimizer:
    """The optimizer over the trained parameters, at rate 0 (the loop sets the rate of every step before it).

    adamw: torch's, fused. sgd: without momentum or decay. Matrices (two dimensions and more, ZeRO-3: of the
    whole tensor) are decayed, vectors (norms, biases) are not; an empty group is left out. A shared tensor is
    one parameter. own_rates: kinds of parameters (`rate_groups.GROUPS`) that are groups of their own.
    """
    decay = section.weight_decay if section.name == "adamw" else 0.0
    members: dict[tuple[str, float], list[nn.Parameter]] = {}
    for own in ("", *own_rates):
        members |= {(own, decay): [], (own, 0.0): []}
    kinds = parameter_kinds(model) if own_rates else {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = kinds.get(id(parameter), "")
            is_matrix = len(shape_of(parameter)) >= 2
            members[kind if kind in own_rates else "", decay if is_matrix else 0.0].append(parameter)
    groups = [
        {"params": parameters, "weight_decay": weight_decay, RATE_GROUP: own}
        for (own, weight_decay), parameters in members.items()
        if parameters
    ]
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0)
    return torch.optim.AdamW(groups, lr=0.0, betas=section.betas, eps=section.eps, fused=True)


def parameter_kinds(model: nn.Module) -> dict[int, str]:
    """The kind of every parameter, by its id; a tied table is embed_tokens."""
    kinds = {}
    for name, parameter in model.named_parameters():
        parts = set(name.split("."))
        a, b = ({f"lora_{side}", f"lora_embedding_{side}"} & parts for side in "AB")
        kinds[id(parameter)] = "lora_A" if a else "lora_B" if b else "other"
    for kind, table in (("lm_head", "get_output_embeddings"), ("embed_tokens", "get_input_embeddings")):
        module = getattr(model, table)()
        for parameter in () if module is None else module.parameters():
            if kinds[id(parameter)] in ("other", "lm_head"):
                kinds[id(parameter)] = kind
    return kinds
