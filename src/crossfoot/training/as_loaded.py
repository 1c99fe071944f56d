"""The model in memory as `crossfoot evaluate` would load it from a checkpoint, bit by bit, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import GenerationConfig

from crossfoot.models.attention import SEGMENT_ATTENTION
from crossfoot.training.cpu_compute import HIGHEST, matmul
from crossfoot.training.engine import Engine


@contextmanager
def as_loaded(engine: Engine, model: Any) -> Iterator[None]:
    """Inside, it has no dropout, sees rows as they are and not what is packed in them, generates by nobody's
    settings, and multiplies as torch does. Afterwards it trains as before. model: without its loss.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    parts = list({id(part): part for part in (model, base)}.values())
    settings = [getattr(part, "generation_config", None) for part in parts]
    is_packed = base.config._attn_implementation == SEGMENT_ATTENTION
    engine.evaluating(True)
    try:
        if is_packed:
            base.set_attn_implementation(base.get_correct_attn_implementation(None))
        for part in parts:
            part.generation_config = GenerationConfig()
        base.config.use_cache = True
        with matmul(HIGHEST):
            yield
    finally:
        base.config.use_cache = False
        for part, before in zip(parts, settings, strict=True):
            part.generation_config = before
        if is_packed:
            base.set_attn_implementation(SEGMENT_ATTENTION)
        engine.evaluating(False)


def trained_sha256(model: nn.Module) -> str:
    """Of what is trained, as forwards use it: names and bits."""
    whole = hashlib.sha256()
    for name, one in model.named_parameters():
        if one.requires_grad:
            whole.update(name.encode())
            whole.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()
