"""Liger's kernels (the package liger-kernel, Triton on CUDA) in place of a model's own, where it has them."""

from __future__ import annotations

import sys

import torch
from transformers import PreTrainedModel

from crossfoot.findings.finding import Refused
from crossfoot.written.weight_findings import kernels_missing

_LEFT_OUT = ("cross_entropy", "fused_linear_cross_entropy", "rope")
"""The loss is summed over trained tokens in the output layer (models/head_loss.py), and the rotation would be
replaced for every model of the process: `crossfoot prove` has a reference in it.
"""


def require_liger() -> None:
    """Refused where its kernels cannot run: before weights are loaded."""
    if not torch.cuda.is_available():
        raise Refused(kernels_missing("liger", "its kernels run on CUDA, and torch sees no such device"))


def take_liger(model: PreTrainedModel) -> None:
    """Put Liger's norms and MLP into a loaded model, and into no other. Refused: none for its family, or the
    package is not there.
    """
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:
        install = "install it: pip install liger-kernel"
        raise Refused(kernels_missing("liger", f"liger-kernel: {error}", (install,))) from error
    family = model.config.model_type
    if family not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise Refused(kernels_missing("liger", f"Liger has no kernels for the family {family}"))
    names = vars(sys.modules[type(model).__module__])
    before = dict(names)
    _apply_liger_kernel_to_instance(model=model, **dict.fromkeys(_LEFT_OUT, False))
    names.update(before)  # the classes that models made later are of
