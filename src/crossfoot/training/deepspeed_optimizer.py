"""What DeepSpeed's own optimizer, which it puts around ours, divides among ranks, sends and holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from crossfoot.models.parameters import is_partitioned


def sharding(optimizer: object) -> str:
    """What the optimizer that DeepSpeed put around ours divides among the ranks: a ZeRO stage, in words."""
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        return "ZeRO 3"
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        return "ZeRO 2" if optimizer.partition_gradients else "ZeRO 1"
    return "ZeRO 1" if isinstance(optimizer, BF16_Optimizer) else "ZeRO 0"


def communication(engine: Any) -> dict[str, Any]:
    """In which precision gradients are added up and sent, and in how large pieces (elements)."""
    optimizer, zero = engine.optimizer, "zero_optimization"
    sums = getattr(optimizer, "grad_acc_dtype", getattr(optimizer, "gradient_accumulation_dtype", None))
    sent = getattr(optimizer, "communication_data_type", engine.communication_data_type)
    return {
        "data_types.grad_accum_dtype": _dtype_name(sums),
        "communication_data_type": _dtype_name(sent),
        f"{zero}.reduce_bucket_size": engine.zero_reduce_bucket_size(),
        f"{zero}.allgather_bucket_size": engine.zero_allgather_bucket_size(),
    }


def own_fragment(parameter: nn.Parameter) -> torch.Tensor | None:
    """What ZeRO has this rank update of a parameter's gradient; None where it is another rank's. Stages 1 and
    2 as DeepSpeed 0.19.8 finds it in `safe_get_full_grad`, which then adds up the whole on all ranks.
    """
    if is_partitioned(parameter):
        from deepspeed.utils import safe_get_local_grad

        part: torch.Tensor = safe_get_local_grad(parameter)
        return part
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    fragment = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
    own = mapping.lp_fragment_address
    # in bfloat16 a rank may keep the gradient of the whole parameter
    is_whole = fragment.numel() == parameter.numel()
    return fragment.narrow(0, own.start, own.numel) if is_whole else fragment


def _dtype_name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
