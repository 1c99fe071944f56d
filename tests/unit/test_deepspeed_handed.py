"""The numbers that DeepSpeed is handed: those that crossfoot owns, whatever the file says."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.arithmetic.batch import BatchPlan, Topology, solve_batch
from crossfoot.arithmetic.zero_stages import Parameters
from crossfoot.planning.deepspeed_config import (
    LARGEST_BUCKET,
    handed_settings,
    owned_numbers,
    owned_optimizer,
    resolve_deepspeed,
    zero_stage,
)
from crossfoot.written.config import Config


def config_of(dtype: str = "float32", **optimizer: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "x"},
            "model": {"path": "builtin:tiny", "dtype": dtype},
            "data": {"train": ["a.json"]},
            "batch": {"micro_batch_size": 2, "global_batch_size": 11},
            "lr": {"reference": 1e-4},
            "optimizer": optimizer,
            "train": {"epochs": 1},
        }
    )


def without_buckets(given: dict[str, Any]) -> dict[str, Any]:
    """The section zero_optimization, without the sizes that crossfoot writes."""
    return {name: value for name, value in given["zero_optimization"].items() if "bucket" not in name}


def uneven(gpus_per_node: int | tuple[int, ...] = 2) -> BatchPlan:
    """11 samples on two nodes."""
    return solve_batch(Topology(gpus_per_node, 2), micro_batch_size=2, global_batch_size=11)


@pytest.mark.parametrize(("gpus", "accumulation", "ranks", "capacity"), [(2, 2, 4, 16), ((2, 1), 2, 3, 12)])
def test_an_uneven_batch_is_handed_over_as_what_it_has_room_for(
    gpus: int | tuple[int, ...], accumulation: int, ranks: int, capacity: int
) -> None:
    file = {"train_batch_size": 11, "train_micro_batch_size_per_gpu": "auto", "gradient_clipping": 0.3}
    batch = uneven(gpus)
    given = resolve_deepspeed(file, config_of(max_grad_norm=0.7), batch)
    triple = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [given[name] for name in triple] == [capacity, 2, accumulation]
    assert given["train_batch_size"] == 2 * accumulation * ranks
    assert given["gradient_clipping"] == 0.7
    assert owned_numbers(config_of(max_grad_norm=0.7), batch) == {
        **{name: given[name] for name in (*triple, "gradient_clipping")},
        "bf16.enabled": False,
        "fp16.enabled": False,
        "lr_scheduler": None,
        "data_parallel_degree": ranks,
    }


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"),
    [("float32", False, False), ("bfloat16", True, False), ("float16", False, True)],
)
def test_the_precision_is_the_model_s(dtype: str, bf16: bool, fp16: bool) -> None:
    file = {"bf16": {"enabled": "auto", "x": 1}, "fp16": {"enabled": True, "loss_scale_window": 100}}
    given = resolve_deepspeed(file, config_of(dtype), uneven())
    assert given["bf16"] == ({"x": 1, "enabled": True} if bf16 else {"enabled": False})
    assert given["fp16"] == ({"loss_scale_window": 100, "enabled": True} if fp16 else {"enabled": False})
    assert given.get("data_types") == ({"grad_accum_dtype": "fp32"} if bf16 else None)
    owned = owned_numbers(config_of(dtype), uneven())
    assert (owned["bf16.enabled"], owned["fp16.enabled"]) == (bf16, fp16)


def test_what_a_file_says_of_other_things_stays_and_auto_goes() -> None:
    zero = {"stage": 2, "reduce_bucket_size": "auto", "overlap_comm": False}
    file = {"zero_optimization": zero, "steps_per_print": 7, "data_types": {"grad_accum_dtype": "bf16"}}
    given = resolve_deepspeed(file, config_of("bfloat16"), uneven())
    buckets = {"reduce_bucket_size": LARGEST_BUCKET, "allgather_bucket_size": LARGEST_BUCKET}
    assert given["zero_optimization"] == {"stage": 2, "overlap_comm": False, **buckets}
    assert (given["steps_per_print"], given["data_types"]) == (7, {"grad_accum_dtype": "bf16"})
    assert given["zero_allow_untested_optimizer"] is True and given["zero_force_ds_cpu_optimizer"] is False
    assert zero["reduce_bucket_size"] == "auto", "the file's own values are left alone"
    assert resolve_deepspeed({}, config_of(), uneven())["steps_per_print"] == 2**31 - 1


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ({}, 0),
        ({"zero_optimization": {"stage": 3}}, 3),
        ({"zero_optimization": {"stage": "2"}}, 2),
        ({"zero_optimization": {"stage": 2.0}}, 2),
        ({"zero_optimization": True}, 1),
        ({"zero_optimization": False}, 0),
    ],
)
def test_the_stage_of_a_file(file: dict[str, Any], stage: int) -> None:
    assert zero_stage(file) == stage


def test_the_optimizer_is_the_config_s() -> None:
    adamw = owned_optimizer(config_of(betas=[0.8, 0.9], eps=1e-6, weight_decay=0.1), (0.8, 0.95))
    assert adamw == {
        "optimizer.name": "adamw",
        "rates": ["lr.reference"],
        "optimizer.weight_decay": 0.1,
        "optimizer.betas": (0.8, 0.95),
        "optimizer.eps": 1e-6,
    }
    sgd = owned_optimizer(config_of(name="sgd", weight_decay=0.1), (0.8, 0.95))
    assert list(sgd.values()) == ["sgd", ["lr.reference"], 0, None, None]


OFF: dict[str, Any] = {"enabled": False}
LEFT_OUT: tuple[dict[str, Any], ...] = (
    {"optimizer": {"type": "AdamW", "params": {"lr": 1}}},
    {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}}},
    *({name: {"enabled": True}} for name in ("tensorboard", "wandb", "comet", "csv_monitor")),
    {"amp": OFF, "elasticity": OFF, "sparse_gradients": False, "eigenvalue": {"enabled": False, "tol": 1}},
    {"compression_training": {"weight_quantization": {"shared_parameters": OFF}}},
    {"flops_profiler": {"enabled": False, "top_modules": "many"}, "comms_logger": OFF, "autotuning": None},
    {"activation_checkpointing": {"profile": True}, "checkpoint": {"load_universal": True}},
    {"data_efficiency": {"enabled": False, "data_sampling": {"curriculum_learning": OFF}}},
)


@pytest.mark.parametrize("file", LEFT_OUT, ids=lambda file: "+".join(file))
def test_what_is_off_or_not_deepspeed_s_business_is_left_out(file: dict[str, Any]) -> None:
    assert resolve_deepspeed(file, config_of(), uneven()) == resolve_deepspeed({}, config_of(), uneven())


@pytest.mark.parametrize(
    ("inside", "handed"),
    [
        ({"stage": 2, "stage3_max_live_parameters": "x", "offload_param": {"device": "cpu"}}, {"stage": 2}),
        ({"stage": 0, "offload_optimizer": {"device": "cpu"}}, {"stage": 0}),
        ({"stage": 3, "offload_param": {"device": "none", "nonsense": 1}}, {"stage": 3}),
        ({"stage": 3, "param_persistence_threshold": 5}, {"stage": 3, "param_persistence_threshold": 5}),
        ({"stage": 3, "mics_shard_size": -1, "elastic_checkpoint": True}, {"stage": 3}),
        ({"stage": 2, "cpu_offload": False, "cpu_offload_use_pin_memory": True}, {"stage": 2}),
        ({"stage": 2, "cpu_offload": True}, {"stage": 2, "offload_optimizer": {"device": "cpu"}}),
        ({"stage": 3, "cpu_offload_param": "yes"}, {"stage": 3, "offload_param": {"device": "cpu"}}),
        ({"stage": "1", "overlap_comm": "off"}, {"stage": 1, "overlap_comm": False}),
    ],
)
def test_zero_is_handed_over_in_the_words_of_today(inside: dict[str, Any], handed: dict[str, Any]) -> None:
    given = resolve_deepspeed({"zero_optimization": inside}, config_of(), uneven())
    assert without_buckets(given) == handed


@pytest.mark.parametrize(("stage", "sized"), [(0, 0), (1, 2), (2, 2), (3, 1)])
def test_buckets_are_as_large_as_what_is_trained(stage: int, sized: int) -> None:
    names = ("reduce_bucket_size", "allgather_bucket_size")
    for trained, size in ((1_000, 1_000), (999, 1_000), (10**9, LARGEST_BUCKET)):
        file = {"zero_optimization": {"stage": stage}}
        given = resolve_deepspeed(file, config_of(), uneven(), Parameters(trained, 2 * trained, 2 * trained))
        assert given["zero_optimization"] == {"stage": stage, **dict.fromkeys(names[:sized], size)}
    file = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 7}}
    given = resolve_deepspeed(file, config_of(), uneven(), Parameters(5, 5, 5))
    assert given["zero_optimization"]["reduce_bucket_size"] == 7, "what the file says holds"
    assert handed_settings(given, "float32")["zero_optimization.reduce_bucket_size"] == 7


@pytest.mark.parametrize(
    ("dtype", "asked", "handed", "sums"),
    [
        ("bfloat16", None, "fp32", "float32"),
        ("bfloat16", "BF16", "BF16", "bfloat16"),
        ("float32", None, None, "float32"),
        ("float16", None, None, "float16"),
    ],
)
def test_gradients_of_bfloat16_are_averaged_in_float32(
    dtype: str, asked: str | None, handed: str | None, sums: str
) -> None:
    file = {} if asked is None else {"communication_data_type": asked}
    given = resolve_deepspeed(file, config_of(dtype), uneven())
    assert given.get("communication_data_type") == handed
    expected = handed_settings(given, dtype)
    assert expected["communication_data_type"] == sums
    assert expected.get("data_types.grad_accum_dtype") == ("float32" if dtype == "bfloat16" else None)


def test_the_oldest_forms() -> None:
    old = {"zero_optimization": True, "allgather_size": 5}
    given = resolve_deepspeed(old, config_of(), uneven())
    assert given["zero_optimization"]["allgather_bucket_size"] == 5
    assert without_buckets(given) == {"stage": 1}
    assert resolve_deepspeed({"zero_optimization": False}, config_of(), uneven())["zero_optimization"] == {
        "stage": 0
    }
    name = "stage3_gather_fp16_weights_on_model_save"
    given = resolve_deepspeed({"zero_optimization": {"stage": 3, name: True}}, config_of(), uneven())
    assert without_buckets(given) == {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
    both = {"stage": 2, "cpu_offload": True, "offload_optimizer": {"device": "none", "pin_memory": True}}
    given = resolve_deepspeed({"zero_optimization": both}, config_of(), uneven())
    assert given["zero_optimization"]["cpu_offload"] is True, "they contradict each other: CF319"
    assert resolve_deepspeed({"bf16": True, "fp16": False}, config_of("bfloat16"), uneven())["bf16"] == {
        "enabled": True
    }
