"""The DeepSpeed config that is really handed over: the user's file, with every number that crossfoot owns
written in.

Foreign key names are DeepSpeed's own (its `docs/_pages/config-json.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossfoot.arithmetic.batch import BatchPlan
from crossfoot.arithmetic.rate_groups import BASE_RATE
from crossfoot.arithmetic.zero_stages import Parameters
from crossfoot.checks.deepspeed import vocabulary
from crossfoot.checks.deepspeed.handed_over import ZERO, handed_over, todays_form
from crossfoot.checks.deepspeed.stage_costs import DTYPES, communication_dtype
from crossfoot.written.config import Config

BUCKETS = ("reduce_bucket_size", "allgather_bucket_size")
"""What DeepSpeed's engine can be asked for afterwards."""
LARGEST_BUCKET = 50_000_000
"""Elements. DeepSpeed's own default, ten times as many, is a buffer of 2 GB on every GPU in float32."""


def zero_stage(values: Mapping[str, Any]) -> int:
    """ZeRO stage of a DeepSpeed file; 0 when it says nothing."""
    return vocabulary.zero_stage(todays_form(values)) or 0


def owned_numbers(config: Config, batch: BatchPlan) -> dict[str, Any]:
    """What DeepSpeed must believe, by the names under which its engine can be asked
    (`DeepSpeedEngine.read_back`).
    """
    return {
        "train_batch_size": batch.capacity_samples,
        "train_micro_batch_size_per_gpu": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.grad_accum_steps,
        "gradient_clipping": float(config.optimizer.max_grad_norm),
        "bf16.enabled": config.model.dtype == "bfloat16",
        "fp16.enabled": config.model.dtype == "float16",
        "lr_scheduler": None,
        "data_parallel_degree": batch.topology.dp_degree,
    }


def owned_optimizer(config: Config, betas: tuple[float, float]) -> dict[str, Any]:
    """What the optimizer must be, whatever the engine wraps around it (`optimizer_facts` reads the same
    back). betas: of this batch.
    """
    section = config.optimizer
    is_adamw = section.name == "adamw"
    return {
        "optimizer.name": section.name,
        "rates": sorted({BASE_RATE, *config.lr.groups}),
        "optimizer.weight_decay": section.weight_decay if is_adamw else 0,
        "optimizer.betas": betas if is_adamw else None,
        "optimizer.eps": section.eps if is_adamw else None,
    }


def resolve_deepspeed(
    values: Mapping[str, Any], config: Config, batch: BatchPlan, parameters: Parameters | None = None
) -> dict[str, Any]:
    """The config for `deepspeed.initialize`: one owner per number, nothing left on "auto".

    parameters: None where they are not known; the buckets need be no larger than what is trained. Any other
    "auto" that crossfoot does not own is dropped, so that DeepSpeed's own default holds. Of a precision that
    is switched off nothing but that is handed over: DeepSpeed 0.19 stops at `min_loss_scale: 1e-10` of an
    unused fp16 block, which the file of Chinese-LLaMA-Alpaca-2 has. What else is left out: `handed_over`.
    """
    resolved = handed_over(values, config)
    owned = owned_numbers(config, batch)
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        resolved[key] = owned[key]
    resolved["gradient_clipping"] = owned["gradient_clipping"]
    for block in ("bf16", "fp16"):
        is_on = owned[f"{block}.enabled"]
        resolved[block] = {**(resolved.get(block, {}) if is_on else {}), "enabled": is_on}
    if owned["bf16.enabled"]:
        # Otherwise gradients are added up and averaged in bfloat16, and the result depends on accumulation
        # and ranks.
        resolved.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
        resolved.setdefault("communication_data_type", "fp32")
    _size_buckets(resolved.get(ZERO, {}), parameters)
    resolved["zero_allow_untested_optimizer"] = True
    resolved["zero_force_ds_cpu_optimizer"] = False  # with offload_optimizer ours steps on the CPU
    resolved.setdefault("steps_per_print", 2**31 - 1)
    return resolved


def _size_buckets(zero: dict[str, Any], parameters: Parameters | None) -> None:
    """Bucket sizes that the file leaves open, in elements; even, or DeepSpeed stops."""
    trained = LARGEST_BUCKET if parameters is None else parameters.trained
    size = min(LARGEST_BUCKET, trained + trained % 2)
    stage = zero.get("stage") or 0
    for name in BUCKETS[: {0: 0, 3: 1}.get(stage, 2)]:
        zero.setdefault(name, size)


def handed_settings(resolved: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """What of a resolved config DeepSpeed could take otherwise than it is written, by the names of
    `DeepSpeedEngine.read_back`.
    """
    zero = resolved.get(ZERO, {})
    buckets = {f"{ZERO}.{name}": zero[name] for name in BUCKETS if name in zero}
    sums = {"data_types.grad_accum_dtype": DTYPES["fp32"]} if dtype == "bfloat16" else {}
    return {**buckets, **sums, "communication_data_type": communication_dtype(resolved, dtype)}
