"""Liger's kernels go into the model that asks for them, and into no other; the loss stays ours."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

from crossfoot.findings.finding import Refused
from crossfoot.models.liger import require_liger, take_liger
from support.plain_torch import tiny_llama

pytestmark = pytest.mark.xdist_group("loop")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a package like liger-kernel is called with; like it, it renames a class of transformers."""
    words: dict[str, Any] = {}

    def apply(model: Any, **named: Any) -> None:
        words.update(named)
        monkeypatch.setattr(modeling_llama, "LlamaMLP", object)

    package, patching = ModuleType("liger_kernel.transformers"), ModuleType("monkey_patch")
    monkeypatch.setattr(package, "_apply_liger_kernel_to_instance", apply, raising=False)
    monkeypatch.setattr(patching, "MODEL_TYPE_TO_APPLY_LIGER_FN", {"llama": apply}, raising=False)
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", patching)
    return words


def test_only_this_model_is_changed_and_no_loss(asked: dict[str, Any], tmp_path: Path) -> None:
    before = modeling_llama.LlamaMLP
    model = LlamaForCausalLM.from_pretrained(tiny_llama(tmp_path))
    take_liger(model)
    assert asked == {"cross_entropy": False, "fused_linear_cross_entropy": False, "rope": False}
    assert modeling_llama.LlamaMLP is before
    model.config.model_type = "gpt2"
    with pytest.raises(Refused, match=r"model\.kernels liger is not available here"):
        take_liger(model)


def test_without_cuda_it_is_refused_before_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused) as caught:
        require_liger()
    assert [finding.code for finding in caught.value.findings] == ["CF597"]
