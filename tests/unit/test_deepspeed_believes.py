"""What the findings say about DeepSpeed, asked of DeepSpeed itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossfoot.arithmetic.batch import Topology, solve_batch
from crossfoot.checks.deepspeed.vocabulary import vocabulary
from crossfoot.planning.deepspeed_config import resolve_deepspeed
from crossfoot.written.config import Config
from public_deepspeed_files import PUBLISHED

SHIPPED = sorted((Path(__file__).parents[2] / "ds_configs").glob("*.json"))


def believed(**values: Any) -> Any:
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig({"train_batch_size": 1, **values})


def zero(**values: Any) -> Any:
    return believed(zero_optimization=values).zero_config


def test_unknown_keys_pass_at_the_top_and_their_default_holds() -> None:
    """CF314, CF315, CF316."""
    config = believed(
        zero_optimisation={"stage": 2},
        gradient_acumulation_steps=4,
        gradient_clip=0.3,
        bf_16={"enabled": True},
        lr_scheduler={"type": "WarmupLR"},
        stage=3,
        per_device_train_batch_size=8,
    )
    assert (config.zero_optimization_stage, config.gradient_accumulation_steps) == (0, 1)
    assert (config.gradient_clipping, config.bfloat16_config.enabled) == (1.0, False)
    assert (config.scheduler_name, config.train_micro_batch_size_per_gpu) == (None, 1)


@pytest.mark.parametrize("block", [p for p, b in vocabulary().blocks.items() if b.reader == "plain" and p])
def test_unknown_keys_pass_inside_plain_objects(block: str) -> None:
    if block in ("checkpoint.writer", "expert_parallel"):
        pytest.skip("is read only when it is in use")
    inside: Any = {"no_such_key": 1}
    for name in reversed(block.split(".")):
        inside = {name: inside}
    believed(**inside)


@pytest.mark.parametrize("block", [p for p, b in vocabulary().blocks.items() if b.reader == "model"])
def test_unknown_keys_stop_inside_models(block: str) -> None:
    inside: Any = {"no_such_key": 1}
    for name in reversed(block.split(".")):
        inside = {name: inside}
    with pytest.raises(ValueError, match="no_such_key"):
        believed(**inside)


@pytest.mark.parametrize(
    ("block", "key"), [(block, key) for block, keys in vocabulary().refused.items() for key in keys]
)
@pytest.mark.parametrize("value", [False, {"enabled": False}])
def test_former_keys_stop_even_when_off(block: str, key: str, value: object) -> None:
    """CF317."""
    from deepspeed.runtime.config import DeepSpeedConfigError

    with pytest.raises(DeepSpeedConfigError):
        believed(**({block: {key: value}} if block else {key: value}))


def test_old_names_work_and_two_names_do_not() -> None:
    """CF319."""
    old, new = "stage3_gather_fp16_weights_on_model_save", "stage3_gather_16bit_weights_on_model_save"
    assert zero(**{old: True}).gather_16bit_weights_on_model_save is True
    with pytest.raises(AssertionError):
        zero(**{old: True, new: True})
    with pytest.raises(AssertionError):
        zero(cpu_offload=False, offload_optimizer={"device": "none"})
    with pytest.raises(ValueError, match="prefetch_bucket_size"):
        zero(stage3_prefetch_bucket_size=1, prefetch_bucket_size=1)
    assert zero(cpu_offload_use_pin_memory=True).offload_optimizer is None
    assert believed(bf16={"enabled": False}, bfloat16={"enabled": True}).bfloat16_config.enabled is False
    assert believed(bfloat16={"enabled": True}).bfloat16_config.enabled is True


def test_wrong_types() -> None:
    """CF308, CF309, CF318."""
    assert believed(gradient_accumulation_steps=2.5, train_batch_size=5).gradient_accumulation_steps == 2.5
    assert believed(gradient_clipping="1.0").gradient_clipping == "1.0"
    assert zero(reduce_bucket_size="5000").reduce_bucket_size == 5000
    assert zero(reduce_bucket_size=5e8).reduce_bucket_size == 500_000_000
    assert zero(overlap_comm=1).overlap_comm is True and zero(overlap_comm="off").overlap_comm is False
    assert zero(stage="auto").stage == 0 and zero(reduce_bucket_size="auto").reduce_bucket_size == 500_000_000
    assert believed(zero_optimization=True).zero_optimization_stage == 1
    assert bool(believed(memory_breakdown="false").memory_breakdown) is True
    with pytest.raises(TypeError):
        believed(wall_clock_breakdown="false")
    for block in (
        {"reduce_bucket_size": "5e8"},
        {"reduce_bucket_size": None},
        {"stage": 4},
        {"sub_group_size": -1},
    ):
        with pytest.raises(ValueError):
            zero(**block)
    for top in ({"bf16": True}, {"zero_optimization": "auto"}, {"gradient_accumulation_steps": "auto"}):
        with pytest.raises(TypeError):
            believed(**top)
    with pytest.raises(ValueError, match="fractional"):
        believed(fp16={"enabled": False, "min_loss_scale": 1e-10})


def test_what_is_refused_together() -> None:
    """CF305, CF320, CF326."""
    with pytest.raises(AssertionError, match="simultaneously"):
        believed(fp16={"enabled": True}, bf16={"enabled": True})
    with pytest.raises(ValueError, match="stage 3"):
        believed(gradient_allreduce_op="SUM", zero_optimization={"stage": 3})
    assert believed(gradient_allreduce_op="SUM").gradient_allreduce_op == "sum"
    for stage in (0, 3):
        with pytest.raises(ValueError, match="compute_grad_norm"):
            zero(stage=stage, compute_grad_norm=False)


def test_defaults_that_overrule() -> None:
    """CF304, CF327, CF322, CF324."""
    config = believed()
    assert config.gradient_clipping == vocabulary().blocks[""].keys["gradient_clipping"].default == 1.0
    assert config.grad_accum_dtype is None, "then the gradients are added up in the model's precision"
    assert config.tensor_parallel_config.autotp_size == 0


def resolved(values: dict[str, Any], dtype: str = "bfloat16") -> dict[str, Any]:
    config = Config.model_validate(
        {
            "run": {"name": "x"},
            "model": {"path": "builtin:tiny", "dtype": dtype},
            "data": {"train": ["a.json"]},
            "batch": {"micro_batch_size": 4, "grad_accum_steps": 8},
            "lr": {"reference": 1e-4},
            "train": {"epochs": 1},
        }
    )
    return resolve_deepspeed(
        values, config, solve_batch(Topology(1, 1), micro_batch_size=4, grad_accum_steps=8)
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_files_are_accepted_as_crossfoot_hands_them_over(name: str, dtype: str) -> None:
    given = resolved(PUBLISHED[name], dtype)
    assert '"auto"' not in json.dumps(
        {key: given[key] for key in given if key not in ("optimizer", "scheduler")}
    )
    config = believed(**given)
    assert config.train_batch_size == 32
    assert config.bfloat16_config.enabled is (dtype == "bfloat16")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_accepted(path: Path) -> None:
    assert believed(**resolved(json.loads(path.read_text()))).gradient_clipping == 1.0


def test_nothing_of_an_unused_precision_is_handed_over() -> None:
    given = resolved(PUBLISHED["alpaca2_zero2_no_offload"])
    assert given["fp16"] == {"enabled": False}
    given = resolved({"bf16": {"check_grad_overflow": False}, "bfloat16": {"enabled": True}})
    assert given["bf16"] == {"check_grad_overflow": False, "enabled": True} and "bfloat16" not in given
