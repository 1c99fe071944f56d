"""Attention of a packed row: every sample looks at itself alone.

Registered with transformers under a name of its own, so that every architecture which asks there can be
packed. On a CPU each sample is one causal SDPA call: the kernels' own causal path, without a mask of tokens x
tokens. On CUDA all samples are one call of torch's variable-length flash attention, where that can: half
precision and heads of 256 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from crossfoot.findings.finding import Refused
from crossfoot.written.model_findings import not_packable

SEGMENT_ATTENTION = "crossfoot_segments"
_NOT_KNOWN = ("softcap", "s_aux", "position_bias")
"""Arguments of attention that would be passed over here."""


def segment_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_ends: Sequence[int] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls an attention: query [1, heads, tokens, width] -> [1, tokens, heads, width].

    segment_ends: Python integers, so that nothing waits for a GPU; None: rows of one sample each. What lies
    between two ends sees itself only. Refused: an attention that takes more than this one can give.
    """
    strange = [name for name in _NOT_KNOWN if options.get(name) is not None]
    if strange or attention_mask is not None or (query.shape[0] != 1 and segment_ends is not None):
        raise Refused(not_packable(f"its attention takes {', '.join(strange) or 'a mask of its own'}"))
    ends = (query.shape[2],) if segment_ends is None else tuple(segment_ends)
    if query.is_cuda and query.shape[0] == 1 and _is_flash_ready(query):
        return _flash(module, query, key, value, ends, sliding_window, options.get("scaling")), None
    parts = []
    for start, end in pairwise((0, *ends)):
        own = (part[:, :, start:end] for part in (query, key, value))
        mask = _band(end - start, sliding_window, query.device)
        parts.append(sdpa_attention_forward(module, *own, mask, **options)[0])
    return torch.cat(parts, dim=1), None


def _band(tokens: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """The mask of a sliding window, [1, 1, tokens, tokens]; None where the window holds the whole sample."""
    if window is None or tokens <= window:
        return None
    place = torch.arange(tokens, device=device)
    distance = place[:, None] - place[None, :]
    return ((distance >= 0) & (distance < window))[None, None]


def _is_flash_ready(query: torch.Tensor) -> bool:
    return query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= 256


def _flash(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: tuple[int, ...],
    window: int | None,
    scale: float | None,
) -> torch.Tensor:
    """All samples in one call of torch's flash attention for rows of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    starts = torch.tensor((0, *ends), dtype=torch.int32).to(query.device, non_blocking=True)
    longest = max(end - start for start, end in pairwise((0, *ends)))
    rows = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    sight = (-1 if window is None else window - 1, 0)  # causal: nothing to the right
    out = varlen_attn(
        *rows, starts, starts, longest, longest, scale=scale, window_size=sight,
        enable_gqa=getattr(module, "num_key_value_groups", 1) > 1,
    )  # fmt: skip
    return out.unsqueeze(0)


def require_packable(model: PreTrainedModel) -> None:
    """Refused for an architecture that does not ask transformers for its attention, or remembers
    otherwise what stood before (a state-space model).
    """
    if not model._supports_attention_backend:
        raise Refused(not_packable("its attention is its own, and is not told where a sample ends"))
    if model._is_stateful:
        raise Refused(not_packable("it carries a state from token to token"))


ALL_ATTENTION_FUNCTIONS.register(SEGMENT_ATTENTION, segment_attention)
