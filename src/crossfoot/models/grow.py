"""A vocabulary grown to what the tokenizer needs, the same on every rank, stage and world."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from crossfoot.models.parameters import is_tied, partition, whole

ROWS_AT_ONCE = 8192
"""Rows of a table summed at once in float64: 8192 x 4096 x 8 bytes are 256 MiB."""


def grow_vocabulary(model: PreTrainedModel, rows: int, deepspeed_config: dict[str, Any] | None) -> None:
    """Grow embed_tokens and lm_head to `rows` rows; new rows (and bias entries) are the mean of the old ones.

    The mean is summed in float64 in row order, so it is bitwise the same on every rank, stage and world. A
    tied model stays tied. deepspeed_config: given under ZeRO-3; only one table is whole at a time, and it is
    partitioned again at once. transformers' own resize_token_embeddings draws the new rows at random, and
    differently on each rank.
    """
    table, head, tied = model.get_input_embeddings(), model.get_output_embeddings(), is_tied(model)
    _grow_module(table, rows, deepspeed_config)
    if head is not None:
        if tied:
            head.weight = table.weight
        else:
            _grow_module(head, rows, deepspeed_config)
        if hasattr(head, "out_features"):
            head.out_features = rows
    table.num_embeddings = rows
    model.config.get_text_config().vocab_size = rows
    if hasattr(model, "vocab_size"):
        model.vocab_size = rows
    inner = getattr(model, model.base_model_prefix, None)
    if inner is not None and hasattr(inner, "vocab_size"):
        inner.vocab_size = rows


def _grow_module(module: nn.Module, rows: int, deepspeed_config: dict[str, Any] | None) -> None:
    """Grow the first dimension of a module's parameters to `rows`, filled with the mean; partition again
    under ZeRO-3.
    """
    for name, old in list(module.named_parameters(recurse=False)):
        with whole([old]), torch.no_grad():
            grown = torch.empty((rows, *old.shape[1:]), dtype=old.dtype, device=old.device)
            grown[: old.shape[0]] = old
            grown[old.shape[0] :] = mean_row(old)
        setattr(module, name, nn.Parameter(grown, requires_grad=old.requires_grad))
    if deepspeed_config is not None:
        partition(module, deepspeed_config)


def mean_row(table: torch.Tensor) -> torch.Tensor:
    """Mean over the rows, in the table's dtype: float64 sums of blocks of rows, added in order."""
    total = torch.zeros(table.shape[1:], dtype=torch.float64, device=table.device)
    for block in table.detach().split(ROWS_AT_ONCE):
        total += block.double().sum(dim=0)
    return (total / table.shape[0]).to(table.dtype)
