"""What became of an optimizer's update, and the guard that leaves one out without asking the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from crossfoot.metering.host_copy import HostCopy


@dataclass(frozen=True)
class Update:
    """What became of one `Engine.step`. What may still be on its way from the GPU is read by a call.

    grad_norm: global, before clipping. was_applied: false when the weights stayed as they were. left_out: why
    they did, a key of SKIPS, as far as that is known at once; the same on all ranks. loss_scale: what the
    losses of this step were multiplied with. can_retry: a next try would have a lower loss scale.
    """

    grad_norm: Callable[[], float]
    was_applied: Callable[[], bool] = lambda: True
    left_out: str | None = None
    loss_scale: float = 1.0
    can_retry: bool = False


class UpdateGuard:
    """Leaves an update out where the gradient norm is NaN or infinite: weights and optimizer state stay
    bitwise as they were, and nobody waits for the GPU to say so.

    torch's fused optimizers look at a flag on the device (`found_inf`, made for torch.amp.GradScaler). Plain
    SGD, which keeps no state, is given gradients of zero instead.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]) -> None:
        self._optimizer = optimizer
        self._trained = trained
        self._has_flag = all(group.get("fused") for group in optimizer.param_groups)
        is_plain_sgd = isinstance(optimizer, torch.optim.SGD) and not any(
            group["momentum"] or group["weight_decay"] for group in optimizer.param_groups
        )
        if not (self._has_flag or is_plain_sgd):
            raise ValueError(f"{type(optimizer).__name__} is neither fused nor plain SGD")
        self._held: torch.Tensor | None = None

    def judge(self, norm: torch.Tensor, holds: bool) -> Update:
        """Prepare the optimizer's next step, the gradients of all ranks being there.

        norm: of them, a scalar on the device. holds: an update that is left out keeps all later ones out too.
        """
        flag = torch.isfinite(norm).logical_not().to(torch.float32)
        if holds and self._held is not None:
            flag = torch.maximum(flag, self._held)
        self._held = flag if holds else None
        if self._has_flag:
            self._optimizer.found_inf = flag
        else:
            for parameter in self._trained:
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(flag.bool(), 0.0)
        told_norm, told_flag = HostCopy(norm), HostCopy(flag)
        return Update(told_norm.number, lambda: told_flag.number() == 0.0)


def weighted(loss: torch.Tensor, weight: float) -> torch.Tensor:
    """The loss times its weight. Where it is NaN or infinite, every gradient made of it is too.

    An infinite loss can have finite gradients: a target's logit at minus infinity gives a softmax of 0. 0 x a
    finite loss is 0, and then nothing changes, to the bit.
    """
    return loss * (weight + 0.0 * loss.detach())
