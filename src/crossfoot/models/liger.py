"""Liger's kernels (the package liger-kernel, Triton on CUDA) in place of a model's own, where it has them."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from crossfoot.findings.finding import Refused
from crossfoot.written.weight_findings import kernels_missing

_LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
"""Left alone: the loss is summed over trained tokens and made in the output layer (models/head_loss.py)."""


def require_liger() -> None:
    """Refused where its kernels cannot run: before weights are loaded."""
    if not torch.cuda.is_available():
        raise Refused(kernels_missing("liger", "its kernels run on CUDA, and torch sees no such device"))


def take_liger(model: PreTrainedModel) -> None:
    """Put Liger's kernels into a loaded model. Refused: none for its family, or the package is not there."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:
        install = "install it: pip install liger-kernel"
        raise Refused(kernels_missing("liger", f"liger-kernel: {error}", (install,))) from error
    family = model.config.model_type
    if family not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise Refused(kernels_missing("liger", f"Liger has no kernels for the family {family}"))
    _apply_liger_kernel_to_instance(model=model, **dict.fromkeys(_LOSSES, False))
