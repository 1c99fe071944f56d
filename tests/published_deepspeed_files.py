"""DeepSpeed files in the manner of the published ones, for tests: what people bring along."""

from __future__ import annotations

from typing import Any

AUTO_BATCH = {
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}

PUBLISHED: dict[str, dict[str, Any]] = {
    # scripts/training/ds_zero2_no_offload.json of Chinese-LLaMA-Alpaca-2
    "alpaca2_zero2_no_offload": {
        "fp16": {
            "enabled": "auto",
            "loss_scale": 0,
            "loss_scale_window": 100,
            "initial_scale_power": 16,
            "hysteresis": 2,
            "min_loss_scale": 1e-10,
        },
        "zero_optimization": {
            "stage": 2,
            "allgather_partitions": True,
            "allgather_bucket_size": 1e8,
            "overlap_comm": True,
            "reduce_scatter": True,
            "reduce_bucket_size": 1e8,
            "contiguous_gradients": True,
        },
        **AUTO_BATCH,
        "steps_per_print": 2000,
        "wall_clock_breakdown": False,
    },
    # after the ZeRO-2 example of the transformers documentation, without optimizer, scheduler and offload
    "transformers_zero2": {
        "fp16": {
            "enabled": "auto",
            "loss_scale": 0,
            "loss_scale_window": 1000,
            "initial_scale_power": 16,
            "hysteresis": 2,
            "min_loss_scale": 1,
        },
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 2,
            "allgather_partitions": True,
            "allgather_bucket_size": 5e8,
            "overlap_comm": True,
            "reduce_scatter": True,
            "reduce_bucket_size": 5e8,
            "contiguous_gradients": True,
            "round_robin_gradients": True,
        },
        **AUTO_BATCH,
        "zero_allow_untested_optimizer": True,
    },
    # after the ZeRO-3 files that transformers fills in
    "common_zero3": {
        "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "min_loss_scale": 1},
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "sub_group_size": 1e9,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1e9,
            "stage3_max_reuse_distance": 1e9,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        **AUTO_BATCH,
        "zero_allow_untested_optimizer": True,
    },
    # after the ZeRO-3 files with every number written out, without offload
    "explicit_zero3": {
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "sub_group_size": 1e9,
            "reduce_bucket_size": 5e7,
            "stage3_prefetch_bucket_size": 5e7,
            "stage3_param_persistence_threshold": 1e5,
            "stage3_max_live_parameters": 1e9,
            "stage3_max_reuse_distance": 1e9,
            "stage3_gather_16bit_weights_on_model_save": False,
        },
        **AUTO_BATCH,
        "steps_per_print": 5,
        "wall_clock_breakdown": False,
    },
}
