"""Some forty DeepSpeed files after public ones."""

from __future__ import annotations

from typing import Any

AUTO_BATCH = dict.fromkeys(
    (
        "gradient_accumulation_steps",
        "gradient_clipping",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
    ),
    "auto",
)
AUTO_ADAMW = {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
AUTO_WARMUP = {
    "type": "WarmupLR",
    "params": dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), "auto"),
}
AUTO_DECAY = {"type": "WarmupDecayLR", "params": {**AUTO_WARMUP["params"], "total_num_steps": "auto"}}
SCALING = {
    "loss_scale": 0,
    "loss_scale_window": 1000,
    "initial_scale_power": 16,
    "hysteresis": 2,
    "min_loss_scale": 1,
}
FP16_AUTO, BF16_AUTO = {"enabled": "auto", **SCALING}, {"enabled": "auto"}
PINNED = {"device": "cpu", "pin_memory": True}
ON_CPU, ON_NOTHING = {"device": "cpu"}, {"device": "none", "pin_memory": True}
BUCKETS = {
    "allgather_partitions": True,
    "allgather_bucket_size": 2e8,
    "overlap_comm": True,
    "reduce_scatter": True,
    "reduce_bucket_size": 2e8,
    "contiguous_gradients": True,
}
ZERO_2: dict[str, Any] = {"stage": 2, **BUCKETS}
ZERO_3: dict[str, Any] = {
    "stage": 3,
    "overlap_comm": True,
    "contiguous_gradients": True,
    "sub_group_size": 1e9,
    "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto",
    "stage3_max_live_parameters": 1e9,
    "stage3_max_reuse_distance": 1e9,
    "stage3_gather_16bit_weights_on_model_save": True,
}
BOTH_PINNED = {"offload_optimizer": PINNED, "offload_param": PINNED}
HF = {"fp16": FP16_AUTO, "optimizer": AUTO_ADAMW, "scheduler": AUTO_WARMUP, **AUTO_BATCH}
QUIET = {"steps_per_print": 2000, "wall_clock_breakdown": False}
TWO_AUTO = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}
ADAM_3E5 = {"type": "AdamW", "params": {"lr": 3e-5, "betas": [0.8, 0.999], "eps": 1e-8, "weight_decay": 3e-7}}
WARMUP_3E5 = {
    "type": "WarmupLR",
    "params": {"warmup_min_lr": 0, "warmup_max_lr": 3e-5, "warmup_num_steps": 500},
}
CHAT_ENGINE = {
    "enabled": False,
    "max_out_tokens": 512,
    "inference_tp_size": 1,
    "release_inference_cache": False,
    "pin_parameters": True,
    "tp_gather_partition_size": 8,
}
LAMB = {
    "type": "Lamb",
    "params": {
        "lr": 11e-3,
        "weight_decay": 0.01,
        "bias_correction": False,
        "max_coeff": 0.3,
        "min_coeff": 0.01,
    },
}
LLAMA_FACTORY = {**AUTO_BATCH, "zero_allow_untested_optimizer": True, "fp16": FP16_AUTO, "bf16": BF16_AUTO}
FACTORY_2 = {"stage": 2, **BUCKETS, "round_robin_gradients": True}
AXOLOTL = {
    "bf16": BF16_AUTO,
    "fp16": {**FP16_AUTO, "auto_cast": False, "initial_scale_power": 32},
    **AUTO_BATCH,
    "wall_clock_breakdown": False,
}
MEGATRON = {
    "train_batch_size": 32,
    "train_micro_batch_size_per_gpu": 4,
    "steps_per_print": 10,
    "gradient_clipping": 1.0,
    "prescale_gradients": False,
    "wall_clock_breakdown": False,
    "bf16": {"enabled": True},
}
CURRICULUM = {
    "enabled": False,
    "curriculum_type": "seqlen",
    "min_difficulty": 64,
    "max_difficulty": 2048,
    "schedule_type": "fixed_linear",
    "schedule_config": {"total_curriculum_step": 1000, "difficulty_step": 8},
}
OFF = {"enabled": False}
COMPRESSION_OFF = {
    "weight_quantization": {"shared_parameters": OFF, "different_groups": {}},
    "layer_reduction": OFF,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    # scripts/training/ds_zero2_no_offload.json of Chinese-LLaMA-Alpaca-2
    "alpaca2_zero2_no_offload": {
        "fp16": {**FP16_AUTO, "loss_scale_window": 100, "min_loss_scale": 1e-10},
        "zero_optimization": {**ZERO_2, "allgather_bucket_size": 1e8, "reduce_bucket_size": 1e8},
        **AUTO_BATCH,
        **QUIET,
    },
    # after the ZeRO-2 example of the transformers documentation, without optimizer, scheduler and offload
    "transformers_zero2": {
        **LLAMA_FACTORY,
        "zero_optimization": {**FACTORY_2, "allgather_bucket_size": 5e8, "reduce_bucket_size": 5e8},
    },
    # after the ZeRO-3 files that transformers fills in
    "common_zero3": {
        **LLAMA_FACTORY,
        "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "min_loss_scale": 1},
        "zero_optimization": {**ZERO_3, "overlap_comm": False},
    },
    # after the ZeRO-3 files with every number written out, without offload
    "explicit_zero3": {
        "bf16": BF16_AUTO,
        "zero_optimization": {
            **ZERO_3,
            "reduce_bucket_size": 5e7,
            "stage3_prefetch_bucket_size": 5e7,
            "stage3_param_persistence_threshold": 1e5,
            "stage3_gather_16bit_weights_on_model_save": False,
        },
        **AUTO_BATCH,
        "steps_per_print": 5,
        "wall_clock_breakdown": False,
    },
}
"""In the manner of the published ones, without an error in them: what people bring along."""
PUBLIC: dict[str, tuple[dict[str, Any], set[str]]] = {  # name -> (file, the errors that are right about it)
    "transformers docs, zero2 offload": (
        {**HF, "zero_optimization": {**ZERO_2, "offload_optimizer": PINNED}},
        set(),
    ),
    "transformers docs, zero3 offload": ({**HF, "zero_optimization": {**ZERO_3, **BOTH_PINNED}}, set()),
    "transformers tests, zero2": ({**HF, "bf16": BF16_AUTO, "zero_optimization": ZERO_2, **QUIET}, set()),
    "transformers docs, zero3 nvme": (
        {
            **HF,
            "zero_optimization": {**ZERO_3, "offload_param": {"device": "nvme", "nvme_path": "/local_nvme"}},
            "aio": {"block_size": 262144, "queue_depth": 32, "thread_count": 1, "single_submit": False},
        },
        {"CF312"},
    ),
    "transformers 4.3, cpu_offload and numbers": (
        {
            "fp16": {"enabled": False, **SCALING},
            "zero_optimization": {**ZERO_2, "cpu_offload": True},
            "optimizer": ADAM_3E5,
            "zero_allow_untested_optimizer": True,
            "scheduler": WARMUP_3E5,
            **QUIET,
        },
        {"CF306", "CF307"},
    ),
    "transformers docs, amp off": (
        {"amp": {"enabled": False, "opt_level": "O1"}, "zero_optimization": ZERO_2, **AUTO_BATCH},
        set(),
    ),
    "LLaMA-Factory z0": ({**LLAMA_FACTORY, "zero_optimization": {**FACTORY_2, "stage": 0}}, {"CF311"}),
    "LLaMA-Factory z2": ({**LLAMA_FACTORY, "zero_optimization": FACTORY_2}, set()),
    "LLaMA-Factory z2 offload": (
        {**LLAMA_FACTORY, "zero_optimization": {**FACTORY_2, "offload_optimizer": PINNED}},
        set(),
    ),
    "LLaMA-Factory z3": ({**LLAMA_FACTORY, "zero_optimization": ZERO_3}, set()),
    "LLaMA-Factory z3 offload": ({**LLAMA_FACTORY, "zero_optimization": {**ZERO_3, **BOTH_PINNED}}, set()),
    "FastChat s2": (
        {
            "zero_optimization": {
                "stage": 2,
                "offload_optimizer": ON_CPU,
                "contiguous_gradients": True,
                "overlap_comm": True,
            },
            "fp16": {"enabled": "auto", "auto_cast": False, "loss_scale": 0},
            **TWO_AUTO,
        },
        set(),
    ),
    "FastChat s3": (
        {
            "fp16": FP16_AUTO,
            "zero_optimization": {**ZERO_3, **BOTH_PINNED},
            **AUTO_BATCH,
            "steps_per_print": 1e5,
        },
        set(),
    ),
    "Stanford Alpaca": (
        {
            "bf16": BF16_AUTO,
            "optimizer": AUTO_ADAMW,
            "scheduler": AUTO_DECAY,
            "zero_optimization": {**ZERO_3, **BOTH_PINNED},
            **AUTO_BATCH,
            "steps_per_print": 5,
        },
        set(),
    ),
    "BELLE": (
        {
            "bf16": {**FP16_AUTO, "auto_cast": False},
            "optimizer": AUTO_ADAMW,
            "scheduler": AUTO_DECAY,
            "zero_optimization": ZERO_2,
            **TWO_AUTO,
        },
        {"CF315"},
    ),
    "ChatGLM-6B p-tuning": (
        {
            "train_micro_batch_size_per_gpu": "auto",
            "zero_allow_untested_optimizer": True,
            "fp16": FP16_AUTO,
            "zero_optimization": {**ZERO_2, "allgather_bucket_size": 5e8, "overlap_comm": False},
        },
        set(),
    ),
    "Qwen zero2": (
        {**HF, "bf16": BF16_AUTO, "zero_optimization": {**ZERO_2, "offload_optimizer": ON_NOTHING}},
        set(),
    ),
    "Qwen zero3": (
        {
            **HF,
            "bf16": BF16_AUTO,
            "zero_optimization": {**ZERO_3, "offload_optimizer": ON_NOTHING, "offload_param": ON_NOTHING},
        },
        set(),
    ),
    "LLaVA zero2": (
        {
            "fp16": FP16_AUTO,
            "bf16": BF16_AUTO,
            **TWO_AUTO,
            "zero_optimization": {**ZERO_2, "sub_group_size": 1e9, "reduce_bucket_size": "auto"},
        },
        set(),
    ),
    "axolotl zero1": ({**AXOLOTL, "zero_optimization": {"stage": 1, "overlap_comm": True}}, set()),
    "axolotl zero1 compiled": (
        {
            **AXOLOTL,
            "zero_optimization": {"stage": 1, "overlap_comm": True},
            "compile": {"disable": False, "backend": "inductor"},
        },
        set(),
    ),
    "axolotl zero2": (
        {**AXOLOTL, "zero_optimization": {"stage": 2, "offload_optimizer": ON_CPU, "overlap_comm": True}},
        set(),
    ),
    "axolotl zero3 bf16": ({**AXOLOTL, "bf16": {"enabled": True}, "zero_optimization": ZERO_3}, set()),
    "axolotl zero3 bf16 offload": (
        {
            **AXOLOTL,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": True},
            "zero_optimization": {**ZERO_3, "offload_optimizer": ON_CPU, "offload_param": ON_CPU},
        },
        set(),
    ),
    "OpenRLHF": (
        {
            "steps_per_print": 100,
            "zero_optimization": {
                "stage": 3,
                "offload_param": {"device": "none"},
                "offload_optimizer": ON_NOTHING,
                "sub_group_size": "auto",
                "stage3_max_live_parameters": "auto",
                "stage3_max_reuse_distance": "auto",
                "stage3_param_persistence_threshold": "auto",
                "stage3_prefetch_bucket_size": "auto",
                "reduce_bucket_size": "auto",
                "zero_hpz_partition_size": 1,
                "zero_quantized_weights": False,
                "zero_quantized_gradients": False,
            },
            "bf16": {"enabled": True},
            "gradient_clipping": 1.0,
            "prescale_gradients": False,
            "wall_clock_breakdown": False,
            "data_types": {"grad_accum_dtype": "fp32"},
        },
        set(),
    ),
    "DeepSpeed-Chat": (
        {
            "train_batch_size": 32,
            "train_micro_batch_size_per_gpu": 4,
            "steps_per_print": 10,
            "zero_optimization": {
                "stage": 2,
                "offload_param": {"device": "none"},
                "offload_optimizer": {"device": "none"},
                "stage3_param_persistence_threshold": 1e4,
                "stage3_max_live_parameters": 3e7,
                "stage3_prefetch_bucket_size": 3e7,
                "memory_efficient_linear": False,
            },
            "bf16": {"enabled": True},
            "gradient_clipping": 1.0,
            "prescale_gradients": False,
            "wall_clock_breakdown": False,
            "hybrid_engine": CHAT_ENGINE,
            "tensorboard": {"enabled": True, "output_path": "out/ds_tensorboard_logs/", "job_name": "step1"},
        },
        set(),
    ),
    "DeepSpeedExamples, BERT with LAMB": (
        {**MEGATRON, "optimizer": LAMB, "zero_optimization": {"stage": 1}},
        set(),
    ),
    "DeepSpeedExamples, 1-bit Adam": (
        {
            **MEGATRON,
            "zero_optimization": {"stage": 1},
            "optimizer": {
                "type": "OneBitAdam",
                "params": {"lr": 4e-4, "freeze_step": 23000, "comm_backend_name": "nccl"},
            },
        },
        set(),
    ),
    "DeepSpeedExamples, CIFAR": (
        {
            "train_batch_size": 16,
            "optimizer": ADAM_3E5,
            "scheduler": WARMUP_3E5,
            "gradient_clipping": 1.0,
            "fp16": {"enabled": True, "fp16_master_weights_and_grads": False, **SCALING},
            "zero_optimization": {"stage": 2, **BUCKETS, "cpu_offload": False},
        },
        {"CF101", "CF305", "CF306", "CF307"},
    ),
    "Megatron-DeepSpeed, everything off": (
        {
            **MEGATRON,
            "zero_optimization": {"stage": 1, "elastic_checkpoint": True},
            "curriculum_learning": CURRICULUM,
            "compression_training": COMPRESSION_OFF,
            "progressive_layer_drop": OFF,
            "eigenvalue": OFF,
            "elasticity": OFF,
            "sparse_gradients": False,
            "data_efficiency": {"enabled": False, "data_sampling": {"enabled": False}},
            "flops_profiler": {"enabled": False, "profile_step": 1, "module_depth": -1, "top_modules": 1},
            "activation_checkpointing": {"partition_activations": True, "cpu_checkpointing": False},
        },
        set(),
    ),
    "Megatron-DeepSpeed, curriculum": (
        {
            **MEGATRON,
            "zero_optimization": {"stage": 1},
            "curriculum_learning": {**CURRICULUM, "enabled": True},
        },
        {"CF317"},
    ),
    "BLOOM": ({**MEGATRON, "train_batch_size": 2048, "zero_optimization": {"stage": 0}}, {"CF101", "CF311"}),
    "GLM-10B": (
        {
            "train_micro_batch_size_per_gpu": 8,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 1.0,
            "zero_optimization": {**ZERO_2, "contiguous_gradients": False, "cpu_offload": True},
            "zero_allow_untested_optimizer": True,
            "fp16": {"enabled": True, **SCALING},
            "optimizer": {"type": "Adam", "params": {"lr": 1e-4, "betas": [0.9, 0.95], "weight_decay": 0.1}},
            "activation_checkpointing": {
                "partition_activations": False,
                "contiguous_memory_optimization": False,
            },
        },
        {"CF102", "CF103", "CF305", "CF306"},
    ),
    "xtuner zero2": (
        {
            **TWO_AUTO,
            "gradient_clipping": "auto",
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": 2, "overlap_comm": True},
            "fp16": {"enabled": "auto", "initial_scale_power": 16},
            "bf16": BF16_AUTO,
        },
        set(),
    ),
    "Dolly": ({**HF, "bf16": {"enabled": True}, "fp16": OFF, "zero_optimization": ZERO_3, **QUIET}, set()),
    "FLAN-T5 of a blog": ({**HF, "bf16": BF16_AUTO, "zero_optimization": ZERO_3, **QUIET}, set()),
    "numbers that agree": (
        {
            **MEGATRON,
            "gradient_accumulation_steps": 2,
            "zero_optimization": ZERO_2,
            "optimizer": {
                "type": "Adam",
                "params": {
                    "lr": "1e-4",
                    "betas": [0.9, 0.999],
                    "eps": "1e-8",
                    "weight_decay": 0.0,
                    "torch_adam": True,
                    "adam_w_mode": True,
                },
            },
        },
        set(),
    ),
    "of 2020": (
        {
            "train_batch_size": 32,
            "zero_optimization": True,
            "allgather_size": 200000000,
            "disable_allgather": True,
        },
        set(),
    ),
    "of 2020, off": ({"zero_optimization": False, "bf16": {"enabled": "auto"}}, {"CF311"}),
    "of 2021, fp16 weights": (
        {
            "zero_optimization": {
                "stage": 3,
                "cpu_offload": True,
                "cpu_offload_param": True,
                "cpu_offload_use_pin_memory": True,
                "stage3_gather_fp16_weights_on_model_save": True,
            },
            "bfloat16": {"enabled": True},
        },
        set(),
    ),
    "of 2021, cpu_offload_params": (
        {"zero_optimization": {"stage": 3, "cpu_offload": True, "cpu_offload_params": True}},
        {"CF314"},
    ),
    "all as text": (
        {
            "train_batch_size": "32",
            "gradient_clipping": "1.0",
            "zero_optimization": {
                "stage": "2",
                "reduce_bucket_size": "200000000",
                "overlap_comm": "true",
                "cpu_offload": "false",
            },
            "bf16": {"enabled": "true"},
        },
        set(),
    ),
    "monitors": (
        {
            "zero_optimization": {"stage": 1},
            "tensorboard": {"enabled": True, "output_path": "tb"},
            "wandb": {"enabled": True, "group": "g", "team": "t", "project": "p"},
            "csv_monitor": {"enabled": True, "output_path": "csv", "job_name": "j"},
            "comet": {"enabled": True, "projct": "p"},
            "monitor_config": {"tensorboard": {"enabled": True}},
        },
        set(),
    ),
}
