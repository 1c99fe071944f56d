"""Dropout before LoRA's A on a CPU, with four draws from one random word.

torch draws a double for every element there, which is an eighth of a step in bfloat16.
"""

from __future__ import annotations

import torch
from torch import nn

DRAWS = 1 << 16
"""A draw is one of so many: p is taken as the nearest share of them."""


class FewerDraws(nn.Dropout):  # type: ignore[misc]  # torch is taken as Any
    """nn.Dropout on a CPU; elsewhere it is torch's own, one kernel. The draws come from torch's generator, so
    a seed decides them, and gradient checkpointing repeats them.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Elements are zero with probability p, the others divided by 1 - p."""
        dropped = min(round(self.p * DRAWS), DRAWS - 1)
        if not (values.is_cpu and self.training and dropped):
            return super().forward(values)
        words = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[: values.numel()]
        # Times a byte of 0 or 1: several times as fast as a choice by a boolean, and kept for the backward.
        kept = (draws >= dropped - DRAWS // 2).view(torch.int8).view(values.shape)
        return values * kept * (DRAWS / (DRAWS - dropped))


def draw_less(model: nn.Module) -> None:
    """Give every adapter of peft's such a dropout in place of torch's."""
    for module in model.modules():
        dropouts = getattr(module, "lora_dropout", {})
        for name, dropout in dropouts.items():
            if type(dropout) is nn.Dropout:
                dropouts[name] = FewerDraws(dropout.p)
