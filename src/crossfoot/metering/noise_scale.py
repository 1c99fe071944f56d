"""Squared norms of gradients, seen as they arrive: of each forward by itself, before they are added up.

Nothing is kept of a gradient but its square sum, in float64 of norms of rows in float32. What the loss was
multiplied with is read where its gradient arrives, so it can be undone without knowing why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.metering.host_copy import HostCopy


@dataclass(frozen=True)
class ForwardSquares:
    """One forward. tokens: trained. squares: by kind of parameter, the squared norm of the gradient of its
    mean loss of a trained token.
    """

    tokens: int
    samples: int
    squares: Mapping[str, float]


@dataclass(frozen=True)
class RankSquares:
    """What one rank saw of a step. forwards: with trained tokens, in order. step: by kind, what this rank's
    part of the whole step's gradient adds to its squared norm; None where the engine does not show it.
    """

    forwards: tuple[ForwardSquares, ...]
    step: Mapping[str, float] | None


@dataclass
class _Forward:
    """One forward as it was seen; weight: the gradient that its loss was given."""

    samples: int
    tokens: HostCopy
    weight: HostCopy
    squares: dict[str, list[torch.Tensor]] = field(default_factory=dict)


class NoiseMeter:
    """Watches one rank's module, which is called with `batch` and returns a summed loss, and its parameters.

    kinds: (kind, parameter) of all that are trained. Nothing is watched outside of `watching`.
    """

    def __init__(self, module: nn.Module, kinds: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._module, self._kinds = module, tuple(kinds)
        self._kind_of = {id(parameter): kind for kind, parameter in self._kinds}
        self._forwards: list[_Forward] = []
        self._step: dict[str, list[torch.Tensor]] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The forwards and backwards inside are seen; those of a watch before are forgotten."""
        self._forwards, self._step = [], None
        handles = [self._module.register_forward_hook(self._see_loss, with_kwargs=True)]
        handles += [
            parameter.register_hook(partial(self._see_gradient, kind)) for kind, parameter in self._kinds
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def see_step(self, parts: Iterable[tuple[nn.Parameter, torch.Tensor]] | None) -> None:
        """What this rank holds of the step's gradient, as (parameter, part of its gradient), when all of it
        is there and nothing is clipped; None where nobody knows.
        """
        if parts is not None:
            self._step = {}
            for parameter, part in parts:
                kind = self._kind_of[id(parameter)]
                self._step.setdefault(kind, []).append(_square_sum(part))

    def squares(self, loss_scale: float) -> RankSquares:
        """What was seen. loss_scale: of the gradients that `see_step` was given. Waits for the GPU."""
        forwards = []
        for seen in self._forwards:
            tokens, weight = round(seen.tokens.number()), seen.weight.number()
            if tokens:
                squares = _numbers(seen.squares, (weight * tokens) ** 2)
                forwards.append(ForwardSquares(tokens, seen.samples, squares))
        step = None if self._step is None else _numbers(self._step, loss_scale**2)
        return RankSquares(tuple(forwards), step)

    def _see_loss(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> None:
        if output.requires_grad:
            batch = kwargs["batch"]
            trained = batch.labels[:, batch.predicting + 1] != IGNORED_LABEL
            output.register_hook(partial(self._see_weight, len(batch.segments), HostCopy(trained.sum())))

    def _see_weight(self, samples: int, tokens: HostCopy, gradient: torch.Tensor) -> None:
        """The backward of a forward begins: every gradient until the next one is of this."""
        self._forwards.append(_Forward(samples, tokens, HostCopy(gradient)))

    def _see_gradient(self, kind: str, gradient: torch.Tensor) -> None:
        self._forwards[-1].squares.setdefault(kind, []).append(_square_sum(gradient))


def _square_sum(gradient: torch.Tensor) -> torch.Tensor:
    """A float64 scalar on the gradient's device. torch adds the squares of a float32 vector up in float32: of
    50 million of them the sum is 0.7 % too small, so only rows are left to it.
    """
    rows = torch.linalg.vector_norm(gradient.detach(), dim=-1, dtype=torch.float32).double().flatten()
    return torch.dot(rows, rows)


def _numbers(sums: Mapping[str, list[torch.Tensor]], divisor: float) -> dict[str, float]:
    return {kind: float(torch.stack(parts).sum()) / divisor for kind, parts in sums.items()}
