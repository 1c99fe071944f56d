"""CF320 to CF331: what in a DeepSpeed file would change the run, and what would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossfoot.findings.finding import Finding
from deepspeed_checking import Look, deepspeed_findings, fixed

ZERO_1: dict[str, Any] = {"zero_optimization": {"stage": 1}}


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    return deepspeed_findings(tmp_path, monkeypatch)


def told(findings: tuple[Finding, ...]) -> list[str]:
    return [f"{finding.severity} {finding.code}" for finding in findings]


# ---- the scale of the gradient


def test_a_sum_of_gradients(look: Look) -> None:
    (finding,) = look({**ZERO_1, "gradient_allreduce_op": "Sum"})
    assert (finding.code, finding.notes) == ("CF320", ("every gradient would be 4 times as large",))
    assert look(fixed(finding)) == ()
    assert look({**ZERO_1, "gradient_allreduce_op": "MEAN"}) == ()
    (finding,) = look({"zero_optimization": {"stage": 3}, "gradient_allreduce_op": "sum"})
    assert finding.notes == ("with ZeRO stage 3 DeepSpeed stops at it",)


@pytest.mark.parametrize("key", ["gradient_predivide_factor", "prescale_gradients"])
@pytest.mark.parametrize(
    ("stage", "scatters", "severity"),
    [
        (0, True, "warning"),
        (1, True, "warning"),
        (1, False, "warning"),
        (2, True, "error"),
        (2, False, "warning"),
        (3, True, "error"),
        (3, False, "warning"),
    ],
)
def test_prescaled_gradients(look: Look, key: str, stage: int, scatters: bool, severity: str) -> None:
    """As tried on 2 ranks with DeepSpeed 0.19.8."""
    value: Any = 2.0 if key == "gradient_predivide_factor" else True
    values = {"zero_optimization": {"stage": stage, "reduce_scatter": scatters}, key: value}
    (finding,) = look(values, *(["model.dtype=float32"] if not stage else []))
    assert told((finding,)) == [f"{severity} CF321"]
    assert look(fixed(finding), *(["model.dtype=float32"] if not stage else [])) == ()


def test_the_factor_that_stage_3_divides_by_twice(look: Look) -> None:
    stage_3 = {"zero_optimization": {"stage": 3, "reduce_scatter": False}}
    (finding,) = look({**stage_3, "gradient_predivide_factor": 4})
    assert finding.severity == "error"
    assert finding.notes == ("on 4 ranks DeepSpeed would divide twice: gradients 4 times too small",)
    assert look({**stage_3, "gradient_predivide_factor": 1.0}) == ()


# ---- precision


@pytest.mark.parametrize(
    ("block", "dtype", "expected"),
    [
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "bfloat16", ["error CF322"]),
        ({"data_types": {"grad_accum_dtype": None}}, "bfloat16", ["error CF322"]),
        ({"data_types": {"grad_accum_dtype": None}}, "float32", []),
        ({"data_types": {"grad_accum_dtype": "half"}}, "float32", ["error CF322"]),
        ({"data_types": {"grad_accum_dtype": "torch.float32"}}, "bfloat16", []),
        ({"data_types": {"param_dtype": "bfloat16", "buffer_dtype": "fp32"}}, "bfloat16", []),
        ({"data_types": {"param_dtype": "bfloat16"}}, "float32", ["error CF322"]),
        ({"data_types": {"buffer_dtype": "bf16"}}, "bfloat16", ["warning CF322"]),
        ({"communication_data_type": "FP16"}, "bfloat16", ["warning CF322"]),
        ({"communication_data_type": "bf16"}, "bfloat16", []),
        ({"communication_data_type": "bf16"}, "float32", ["warning CF322"]),
        ({"communication_data_type": "fp32"}, "bfloat16", []),
        ({"bf16": {"bf16_optimizer_states": True}}, "bfloat16", ["error CF322"]),
        ({"bf16": {"bf16_optimizer_states": True}}, "float32", []),
        ({"torch_autocast": {"enabled": True}}, "float32", ["error CF322"]),
        ({"torch_autocast": {"dtype": "bf16"}}, "float32", []),
    ],
)
def test_precision(look: Look, block: dict[str, Any], dtype: str, expected: list[str]) -> None:
    found = look({**ZERO_1, **block}, f"model.dtype={dtype}")
    assert told(found) == expected
    for finding in found:
        assert look(fixed(finding), f"model.dtype={dtype}") == ()


def test_both_precisions_are_said_to_stop_deepspeed(look: Look) -> None:
    (finding,) = look({**ZERO_1, "fp16": {"enabled": True}, "bf16": {"enabled": True}})
    assert (finding.code, finding.notes) == ("CF305", ("DeepSpeed stops when both precisions are on",))


# ---- taken over, shared, ignored


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"autotuning": {"enabled": True}}, ["error CF323"]),
        ({"autotuning": {"enabled": False, "fast": True}}, []),
        ({"data_efficiency": {"enabled": True}}, ["error CF323"]),
        ({"data_efficiency": {"data_routing": {"random_ltd": {"enabled": True}}}}, ["error CF323"]),
        (
            {"data_efficiency": {"enabled": True, "data_sampling": {"dynamic_batching": {"enabled": True}}}},
            ["error CF323"],
        ),
        ({"hybrid_engine": {"enabled": True}}, ["error CF323"]),
        ({"managed_gradient_accumulation": False}, ["error CF323"]),
        ({"managed_gradient_accumulation": True}, []),
        ({"weight_quantization": {"quantized_initialization": {"num_bits": 8}}}, ["error CF323"]),
        ({"weight_quantization": {}}, []),
        ({"zero_optimization": {"stage": 2, "zenflow": {}}}, ["error CF323"]),
        ({"zero_optimization": {"stage": 2, "zenflow": None}}, []),
        ({"tensor_parallel": {"autotp_size": 2}}, ["error CF324"]),
        ({"tensor_parallel": {"tp": {"tp_size": 2}}}, ["error CF324"]),
        ({"tensor_parallel": {"autotp_size": 1}}, []),
        ({"sequence_parallel_size": 4}, ["error CF324"]),
        ({"expert_parallel": {"enabled": True}}, ["error CF324"]),
        ({"expert_parallel": {"enabled": False}}, []),
        ({"activation_checkpointing": {"partition_activations": True}}, ["warning CF328"]),
        ({"activation_checkpointing": {"partition_activations": False}}, []),
        ({"dataloader_drop_last": True}, ["warning CF328"]),
        ({"compile": {"deepcompile": True}}, ["warning CF328"]),
        ({"pipeline": {"stages": "auto"}}, []),
        ({"checkpoint": {"writer": {"type": "nonsense"}}}, ["note CF309"]),
        ({"flops_profiler": {"enabled": True}, "comms_logger": {"enabled": True}}, []),
        ({"data_efficiency": {"enabled": "yes", "data_sampling": {}}}, ["error CF323"]),
    ],
)
def test_features(look: Look, block: dict[str, Any], expected: list[str]) -> None:
    assert told(look({**ZERO_1, **block})) == expected


def test_checkpointing_that_the_config_asks_for(look: Look) -> None:
    block = {"activation_checkpointing": {"cpu_checkpointing": True}}
    assert look({**ZERO_1, **block}, "model.gradient_checkpointing=true") == ()


def test_parallelism_that_does_not_divide(look: Look) -> None:
    (finding,) = look({**ZERO_1, "sequence_parallel_size": 3})
    assert finding.notes == ("3 ranks would share each sample: the batch would be x 4 / 3, not x 4",)


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ({"stage": 2, "stage3_max_live_parameters": 5}, ["note CF325"]),
        ({"stage": 2, "max_live_parameters": 5}, ["note CF325"]),
        ({"stage": 2, "stage3_max_live_parameters": 1e9}, []),
        ({"stage": 2, "zero_quantized_gradients": True}, ["note CF325"]),
        ({"stage": 3, "stage3_max_live_parameters": 5}, []),
        ({"stage": "auto", "stage3_max_live_parameters": 5}, ["error CF308"]),
        ({"stage": 2, "compute_grad_norm": False}, ["error CF326"]),
        ({"stage": 1, "legacy_stage1": True}, ["error CF326"]),
        ({"stage": 2, "elastic_checkpoint": True}, ["warning CF328"]),
        ({"stage": 3, "elastic_checkpoint": True}, ["warning CF328"]),
        ({"stage": 3, "zero_hpz_partition_size": 3}, ["error CF326"]),
        ({"stage": 3, "zero_hpz_partition_size": 2}, []),
        ({"stage": 3, "zero_hpz_partition_size": 8}, []),
        ({"stage": 3, "zero_quantized_weights": True}, ["error CF329"]),
        ({"stage": 3, "zero_quantized_weights": False}, []),
    ],
)
def test_zero(look: Look, inside: dict[str, Any], expected: list[str]) -> None:
    assert told(look({"zero_optimization": inside})) == expected


def test_frozen_weights_in_8_bits(look: Look) -> None:
    values = {"zero_optimization": {"stage": 3, "zero_quantized_nontrainable_weights": True}}
    (finding,) = look(values)
    assert finding.notes == ("this run trains all weights, so there are no frozen ones",)
    (finding,) = look(values, "lora.r=8")
    assert finding.notes == ("model.dtype says bfloat16",)


def test_clipping_that_is_left_out(look: Look) -> None:
    assert look(ZERO_1) == ()
    (finding,) = look(ZERO_1, "optimizer.max_grad_norm=0")
    assert told((finding,)) == ["note CF327"]
    assert finding.title.endswith("DeepSpeed alone would clip at 1; this run does not clip")
    assert look({**ZERO_1, "gradient_clipping": "auto"}, "optimizer.max_grad_norm=0.5") == ()
    assert told(look({**ZERO_1, "gradient_clipping": 1}, "optimizer.max_grad_norm=0.5")) == ["error CF304"]


MONITORS = ("tensorboard", "wandb", "comet", "csv_monitor")


@pytest.mark.parametrize("name", MONITORS)
def test_a_second_tracker(look: Look, name: str) -> None:
    (finding,) = look({**ZERO_1, name: {"enabled": True}})
    assert told((finding,)) == ["warning CF331"]
    assert finding.helps[-1] == "for Weights & Biases set tracking.wandb to online or offline"
    assert look(fixed(finding)) == ()
    assert look({**ZERO_1, name: {"enabled": False, "project": 3}})[0].severity == "note"
    (finding,) = look({**ZERO_1, name: {"enabled": "true"}}, "tracking.wandb=offline")[1:]
    assert finding.code == "CF331" and len(finding.helps) == 1
    (finding,) = look({**ZERO_1, "monitor_config": {name: {"enabled": True}}})
    assert finding.title.startswith(f"monitor_config.{name} is on")
    assert look({**ZERO_1, "monitor_config": {name: {"enabled": False}}}) == ()
