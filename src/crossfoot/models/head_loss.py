"""The loss inside the output layer: logits of all tokens over the whole vocabulary are never held at once.

55,296 logits a token are 220 kB in float32, and as much again for their gradient: of 8,192 tokens 3.6 GB.
Here they are made for a few hundred tokens at a time, and their gradient is taken at once. torch's own
`linear_cross_entropy` does the same, but its sum has the precision of the weights: in bfloat16 the ledger's
losses would be wrong in the third digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from crossfoot.data.samples import IGNORED_LABEL

CHUNK_TOKENS = 256
PLAIN_HEADS = frozenset(
    ("llama", "mistral", "mixtral", "olmo", "olmo2", "phi3", "qwen2", "qwen2_moe", "qwen3")
)
"""Families whose logits are what the output layer gives: no scale, no cap behind it. A test compares."""


class _SummedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as Any
    """hidden [tokens, width], weight [rows, width], targets int64 [tokens] -> their cross entropies, summed,
    float32. The gradients are made with the logits, chunk by chunk, and wait for what the sum is multiplied
    with.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ctx.dtypes = hidden.dtype, weight.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        asks = ctx.needs_input_grad
        to_hidden = torch.empty_like(hidden) if asks[0] else None
        to_weight = (torch.empty_like if len(targets) else torch.zeros_like)(weight) if asks[1] else None
        total = hidden.new_zeros((), dtype=torch.float32)
        # Made once, and written over by every chunk: fresh memory of this size costs as much as the softmax.
        places = min(CHUNK_TOKENS, len(targets))
        raw = weight.new_empty((places, len(weight)))
        full = torch.empty_like(raw, dtype=torch.float32)
        for start in range(0, len(targets), CHUNK_TOKENS):
            rows, wanted = hidden[start : start + CHUNK_TOKENS], targets[start : start + CHUNK_TOKENS]
            logits, gradient = raw[: len(wanted)], full[: len(wanted)]
            torch.mm(rows, weight.T, out=logits)
            torch.log_softmax(logits, dim=-1, dtype=torch.float32, out=gradient)
            total += functional.nll_loss(gradient, wanted, reduction="sum")
            if not any(asks):
                continue
            gradient.exp_()
            gradient[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
            logits.copy_(gradient)
            if to_hidden is not None:
                torch.mm(logits, weight, out=to_hidden[start : start + CHUNK_TOKENS])
            if to_weight is not None:
                to_weight.addmm_(logits.T, rows, beta=float(start > 0))  # the first chunk writes over nothing
        ctx.save_for_backward(to_hidden, to_weight)
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        to_hidden, to_weight = (
            None if found is None else found.mul_(gradient.to(found.dtype)).to(dtype)
            for found, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return to_hidden, to_weight, None


def _evaluated(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same without gradients: [cross entropies, summed; targets that were the likeliest], float32."""
    found = hidden.new_zeros(2, dtype=torch.float32)
    for rows, wanted in zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True):
        found += loss_and_hits(functional.linear(rows, weight), wanted)
    return found


def loss_and_hits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """logits [tokens, rows], targets int64 [tokens], IGNORED_LABEL for those that do not count -> [cross
    entropies, summed; targets that were the likeliest], float32.
    """
    options: dict[str, Any] = {"ignore_index": IGNORED_LABEL, "reduction": "sum"}
    loss = functional.cross_entropy(logits.float(), targets, **options)
    return torch.stack((loss, (logits.argmax(-1) == targets).sum()))


class HeadLoss:
    """A model's output layer, which gives a loss instead of logits while it is told targets.

    The layer's own forward is replaced, not the layer: wrappers around it (peft's copy that is trained, ZeRO
    3, which gathers the weight for its call) work as ever.
    """

    def __init__(self, head: nn.Module, weight: Callable[[], torch.Tensor]) -> None:
        """weight: of the layer, as it is now."""
        self._logits = head.forward
        self._head = head
        self._weight = weight
        self._targets: torch.Tensor | None = None
        head.forward = self._forward

    @contextmanager
    def given(self, targets: torch.Tensor) -> Iterator[None]:
        """targets: int64 [rows, columns], for the hidden states [rows, columns, width] that the layer will
        be given; IGNORED_LABEL where nothing is predicted.
        """
        self._targets = targets
        try:
            yield
        finally:
            self._targets = None

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._targets is None:
            logits: torch.Tensor = self._logits(hidden)
            return logits
        targets = self._targets.flatten()
        kept = torch.nonzero(targets != IGNORED_LABEL).squeeze(-1)
        rows = hidden.flatten(0, 1)[kept]
        if not self._head.training:
            return _evaluated(rows, self._weight(), targets[kept])
        loss: torch.Tensor = _SummedCrossEntropy.apply(rows, self._weight(), targets[kept])
        return loss


def head_loss(model: PreTrainedModel) -> HeadLoss | None:
    """The output layer with its loss inside; None where the loss stays outside: families that do something
    to the logits, a layer that has an adapter or a bias, and float16, whose gradients need the loss scale
    before they are rounded.
    """
    head = model.get_output_embeddings()
    trained = getattr(head, "modules_to_save", None)
    if trained is not None:
        head = trained[head.active_adapters[0]]
    rows = getattr(head, "token_adapter", None)
    linear = head if rows is None else rows.base_layer
    if model.config.model_type not in PLAIN_HEADS or type(linear) is not nn.Linear or linear.bias is not None:
        return None
    if model.dtype == torch.float16:
        return None
    if rows is not None:  # peft puts the trained rows into the weight
        return HeadLoss(rows, lambda: rows.get_merged_weights(rows.active_adapters))
    return HeadLoss(linear, lambda: linear.weight)
