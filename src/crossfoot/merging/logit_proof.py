"""Whether a merged folder answers as base and adapters do: logits, by plain transformers and plain peft.

A folder in float32 may differ by ROUNDING; both sides compute in float64 then, because through 30 layers the
order of float32 sums is worth more than that. For one in 16 bits they compute in float32, and it may differ
by what its numbers lost. How much that is is measured: peft merges the same adapters its own way, the result
is rounded to the same 16 bits, and its logits are compared too. Twice that is the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from crossfoot.index.store import DataIndex
from crossfoot.merging.base_files import BaseFiles
from crossfoot.models.start_adapter import merge_adapter
from crossfoot.phrases import size
from crossfoot.written.adapter_folder import AdapterFolder

PROMPTS = 32
MOST_TOKENS = 128
"""Of a prompt; what comes after is not computed."""
ROUNDING = 1e-6
"""|difference| / |logits| of the worst prompt, from weights that were rounded to float32 once."""
_ROOM = 1.2
"""Beside the weights of one model: the largest layer once more, activations, logits."""


@dataclass(frozen=True)
class Proof:
    """difference: |merged - unmerged| / |unmerged| of the worst prompt, None when nothing was compared.
    bound: what it may be. adapter: how far the adapter moves the logits of the base, in the same measure.
    same_first_tokens: prompts after which both say the same token first. why: nothing was compared.
    """

    difference: float | None
    bound: float
    adapter: float | None = None
    same_first_tokens: int = 0
    prompts: int = 0
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the folder is proven."""
        return self.difference is not None and self.difference <= self.bound


def prove_merged(
    folder: str,
    base: Path,
    adapters: Sequence[AdapterFolder],
    trained_dtype: torch.dtype | None,
    dtype: torch.dtype,
    prompts: Sequence[Sequence[int]],
) -> Proof:
    """Compare. trained_dtype: of the base in training; None: as it is stored."""
    computed = torch.float64 if dtype == torch.float32 else torch.float32
    needed = _needed_bytes(base, computed)
    free = psutil.virtual_memory().available
    if needed > free:
        why = f"the comparison needs {size(needed)} of memory, and {size(free)} are free"
        return Proof(None, ROUNDING, why=why)
    unmerged = _unmerged(base, adapters, trained_dtype).to(computed)
    longest = getattr(unmerged.config.get_text_config(), "max_position_embeddings", None) or MOST_TOKENS
    prompts = [ids[: min(longest, MOST_TOKENS)] for ids in prompts]
    with unmerged.disable_adapter():
        without = _logits(unmerged, prompts)
    wanted = _logits(unmerged, prompts)
    moved = _apart(without, wanted)
    bound = ROUNDING
    if dtype != torch.float32:
        bound += 2 * _apart(_logits(_rounded(unmerged, dtype), prompts), wanted)
    del unmerged, without
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    merged.to(computed).eval()
    found = _logits(merged, prompts)
    same = sum(bool(a[-1].argmax() == b[-1].argmax()) for a, b in zip(found, wanted, strict=True))
    return Proof(_apart(found, wanted), bound, moved, same, len(prompts))


def _unmerged(base: Path, adapters: Sequence[AdapterFolder], dtype: torch.dtype | None) -> PeftModel:
    """The base under the last adapter, in float32; the ones before it are merged as training merges them."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype or "auto", trust_remote_code=False
    )
    *before, last = adapters
    for adapter in before:
        model = merge_adapter(model, adapter, None)
    model = model.float()
    if last.needed_rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(last.needed_rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, last.folder).eval()


def _rounded(model: PeftModel, dtype: torch.dtype) -> nn.Module:
    merged: PreTrainedModel = model.merge_and_unload()
    for parameter in merged.parameters():
        parameter.data = parameter.data.to(dtype).float()
    return merged


def _logits(model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """[tokens, vocabulary] of each prompt, one at a time: no padding."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([list(ids)])).logits[0] for ids in prompts]


def _apart(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """|difference| / |wanted| of the worst prompt; infinite where one is no number."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        rows = min(one.shape[-1], other.shape[-1])
        share = float((one[:, :rows] - other[:, :rows]).norm() / other[:, :rows].norm())
        worst = max(worst, share if share == share else float("inf"))
    return worst


def _needed_bytes(base: Path, computed: torch.dtype) -> int:
    numbers = sum(torch.Size(one.shape).numel() for one in BaseFiles(base).tensors.values())
    return int(numbers * computed.itemsize * _ROOM)


def prompts_of(index: DataIndex) -> list[list[int]]:
    """Samples from all over an index."""
    chosen = np.unique(np.linspace(0, index.num_samples - 1, PROMPTS).astype(int))
    return [index.sample(int(i))[0].tolist() for i in chosen]


def seeded_prompts(rows: int) -> list[list[int]]:
    """Tokens drawn from all rows of the table, where no text is at hand."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(rows, (PROMPTS, MOST_TOKENS // 2), generator=generator)
    listed: list[list[int]] = drawn.tolist()
    return listed
