"""CF309 and CF314 to CF319: a slip in a DeepSpeed file gives one finding, and its fix repairs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossfoot.checks.deepspeed.vocabulary import entries, vocabulary
from crossfoot.findings.finding import Finding
from deepspeed_checking import Look, deepspeed_findings, fixed
from public_deepspeed_files import PUBLISHED

SHIPPED = sorted((Path(__file__).parents[2] / "ds_configs").glob("*.json"))


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    return deepspeed_findings(tmp_path, monkeypatch)


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("zero_optimisation", "zero_optimization"),
        ("zeroOptimization", "zero_optimization"),
        ("Zero_Optimization", "zero_optimization"),
        ("gradient_acumulation_steps", "gradient_accumulation_steps"),
        ("gradientAccumulationSteps", "gradient_accumulation_steps"),
        ("gradient_clip", "gradient_clipping"),
        ("bf_16", "bf16"),
        ("BF16", "bf16"),
        ("train_batchsize", "train_batch_size"),
        ("wall_clock_breakdwon", "wall_clock_breakdown"),
        ("activation-checkpointing", "activation_checkpointing"),
    ],
)
def test_a_misspelt_key_at_the_top(look: Look, written: str, meant: str) -> None:
    values = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}, "train_batch_size": 32}
    values |= {"wall_clock_breakdown": False, "gradient_clipping": 1.0, "gradient_accumulation_steps": 2}
    values |= {"activation_checkpointing": {}}
    values[written] = values.pop(meant)
    (finding,) = look(values)
    severity = "error" if meant == "zero_optimization" else "warning"  # bfloat16 on stage 0 stops
    assert (finding.code, finding.severity, finding.helps) == ("CF314", severity, (f"write {meant}",))
    assert look(fixed(finding)) == ()


def test_without_zero_float32_trains(look: Look) -> None:
    (finding,) = look({"zero_optimisation": {"stage": 2}}, "model.dtype=float32")
    assert finding.severity == "warning" and finding.notes[0].endswith("ZeRO stage 0, without sharding")
    (finding,) = look({"zeroOptimization": {"stage": 2}, "zero_optimization": {"stage": 1}})
    assert finding.notes == ("DeepSpeed passes over it without a word",), (
        "nothing about a key that is written"
    )


@pytest.mark.parametrize(
    ("name", "value", "code", "help_"),
    [
        ("memory_optimization", {"enable_memory_logging": True}, "CF314", "remove memory_optimization"),
        ("communication", {"prescale_gradients": True}, "CF314", "move prescale_gradients out of it"),
        ("data_parallel", {"enabled": True}, "CF314", "remove data_parallel"),
        ("train_batch_sizes", True, "CF314", "remove train_batch_sizes"),
        ("wall_clock", {"breakdown": True}, "CF314", "remove wall_clock"),
        ("deepspeed", {"zero_optimization": {"stage": 3}, "train_batch_size": 32}, "CF314", "move zero"),
        ("config", {"train_batch_size": 32, "bf16": {}}, "CF314", "move train_batch_size and bf16 out of it"),
        ("offload_optimiser", {"device": "cpu"}, "CF314", "remove offload_optimiser"),
        ("offload_optimizer", {"device": "cpu"}, "CF315", "move it: "),
        ("overlap_comm", True, "CF315", "move it: "),
        ("pipeline_parallel_size", 2, "CF314", "remove pipeline_parallel_size"),
        ("sequence_paralel_size", 1, "CF314", "write sequence_parallel_size"),
        (
            "zero_optimiser",
            {"stage": 2, "overlap_comm": True},
            "CF314",
            "the nearest key is zero_optimization",
        ),
    ],
)
def test_a_suggestion_takes_this_kind_of_value(
    look: Look, name: str, value: object, code: str, help_: str
) -> None:
    (finding,) = look({"zero_optimization": {"stage": 2}, name: value})
    assert finding.code == code and finding.helps[0].startswith(help_)
    assert finding.severity == "warning" and bool(finding.fix) == (name == "sequence_paralel_size")


def test_a_key_whose_place_counts_as_little_goes(look: Look) -> None:
    (finding,) = look({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True, "loss_scale": 0}})
    assert (finding.code, finding.severity, finding.helps) == ("CF315", "error", ("remove loss_scale",))
    assert look(fixed(finding)) == ()
    for zero in ({}, {"zero_optimization": True}):
        found = look(
            {**zero, "offload_optimizer": {"device": "cpu"}, "stage3_bogus": 1}, "model.dtype=float32"
        )
        assert "CF315" in codes(found)
    (finding,) = look({"zero_optimization": {"stage": 1}, "tensor_parallel": {"enabled": False}})
    assert finding.severity == "note"


@pytest.mark.parametrize(
    ("block", "written", "meant", "severity"),
    [
        ("zero_optimization", "overlap_com", "overlap_comm", "error"),
        ("zero_optimization", "reduceBucketSize", "reduce_bucket_size", "error"),
        ("bf16", "enable", "enabled", "error"),
        ("fp16", "enable", "enabled", "warning"),
        ("wandb", "enable", "enabled", "note"),
        ("activation_checkpointing", "partitioned_activations", "partition_activations", "note"),
        ("checkpoint", "load_univerasl", "load_universal", "note"),
        ("data_types", "grad_acum_dtype", "grad_accum_dtype", "warning"),
        ("flops_profiler", "profile_steps", "profile_step", "note"),
        ("flops_profiler", "enable", "enabled", "warning"),
    ],
)
def test_a_misspelt_key_inside(look: Look, block: str, written: str, meant: str, severity: str) -> None:
    value = {"reduce_bucket_size": 5, "grad_accum_dtype": "fp32", "profile_step": 1}.get(
        meant, block != "activation_checkpointing"
    )
    inside = {**({"stage": 1} if block == "zero_optimization" else {}), written: value}
    (finding,) = look({"zero_optimization": {"stage": 1}, block: inside})
    assert (finding.code, finding.severity, finding.helps) == ("CF314", severity, (f"write {meant}",))
    assert ("stops" in finding.notes[0]) == (severity == "error")
    assert finding.fix


def test_a_fix_only_when_there_is_one_answer(look: Look) -> None:
    (finding,) = look({"zero_optimization": {"stage": 1}, "train_batch": 32})
    assert finding.helps == ("write train_batch_size",) and not finding.fix, "too far to be sure"
    (finding,) = look({"zero_optimization": {"stage": 1}, "bf_16": {}, "bf16": {"enabled": True}})
    assert "which is written too" in finding.helps[0] and not finding.fix
    (finding,) = look({"zero_optimization": {"stage": 1}, "train_micro_batch_size": 4})
    assert finding.helps == ("write train_micro_batch_size_per_gpu",)
    assert look(fixed(finding)) == ()


@pytest.mark.parametrize("name", ["lr_scheduler", "optimiser", "Optimizer"])
def test_a_misspelt_block_that_crossfoot_owns(look: Look, name: str) -> None:
    (finding,) = look({"zero_optimization": {"stage": 1}, name: {"type": "x", "params": {"lr": 1}}})
    assert finding.code == "CF314" and "remove it: crossfoot owns" in finding.helps[0] and not finding.fix


def test_a_key_like_nothing(look: Look) -> None:
    (finding,) = look({"zero_optimization": {"stage": 1}, "xylophone": 1})
    assert (finding.severity, finding.helps) == ("warning", ("remove xylophone",))
    (finding,) = look({"zero_optimization": {"stage": 1, "xylophone": 1}})
    assert finding.severity == "error", "DeepSpeed stops at it"


@pytest.mark.parametrize("name", ["_comment", "//", "#", "comment", "$schema", "description"])
def test_a_comment_at_the_top_is_nobody_s_mistake(look: Look, name: str) -> None:
    assert look({name: "ZeRO-1", "zero_optimization": {"stage": 1}}) == ()
    assert codes(look({"zero_optimization": {"stage": 1, name: "ZeRO-1"}})) == ["CF314"]


def test_one_mistake_is_one_finding(look: Look) -> None:
    assert codes(look({"zero_optimisation": {"stage": 2, "nonsense": 1}})) == ["CF314"], "no stage 0 (CF311)"
    assert codes(look({"stage": 2})) == ["CF315"]
    assert codes(look({"zero_stage": 2})) == ["CF315"]
    ok = {"zero_optimization": {"stage": 1}}
    assert codes(look({**ok, "optimizer": {"typ": 1, "params": {"lr": "x"}}})) == ["CF306", "CF314"]
    assert codes(look({**ok, "autotuning": {"enabled": True, "fats": 1, "metric": 3}})) == ["CF323"]
    assert codes(look({**ok, "gradient_clip": 0.3}, "optimizer.max_grad_norm=0.3")) == ["CF314"], "no CF327"


@pytest.mark.parametrize(
    ("values", "title"),
    [
        (
            {"stage": 2, "zero_optimization": {"stage": 2}},
            "stage belongs inside zero_optimization, not at the top",
        ),
        (
            {"zero_optimization": {"stage": 1, "train_batch_size": 1}},
            "train_batch_size belongs at the top of the",
        ),
        ({"bf16": {"stage": 1}}, "stage belongs inside zero_optimization, not inside bf16"),
        ({"grad_accum_dtype": "fp32"}, "grad_accum_dtype belongs inside data_types, not at the top"),
        ({"offload_optimizer_device": "none"}, "offload_optimizer_device is accelerate's word for"),
    ],
)
def test_a_key_in_the_wrong_place(look: Look, values: dict[str, Any], title: str) -> None:
    findings = look({"zero_optimization": {"stage": 1}, **values})
    (finding,) = [found for found in findings if found.code == "CF315"]
    assert finding.title.startswith(title)
    assert bool(finding.fix) == title.startswith("stage "), "removed where the right place says the same"


def test_foreign_words(look: Look) -> None:
    ok = {"zero_optimization": {"stage": 1}}
    (finding,) = look({**ok, "per_device_train_batch_size": 4})
    assert (finding.code, finding.severity) == ("CF316", "warning")
    assert look(fixed(finding)) == ()
    (finding,) = look({**ok, "max_grad_norm": 0.3})
    assert finding.severity == "error" and not finding.fix
    assert finding.notes == (
        "DeepSpeed passes over it without a word; the run config says optimizer.max_grad_norm: 1.0",
    )
    (finding,) = look({**ok, "batch": {"micro_batch_size": 4}})
    assert finding.title == "batch is a section of the run config, and not a key of DeepSpeed"
    assert finding.severity == "warning"
    assert codes(look({**ok, "lr": 1e-4, "num_train_epochs": 1})) == ["CF316", "CF316"]
    for same in ({"lr": "1e-4"}, {"mixed_precision": "bf16"}, {"learning_rate": "auto"}, {"output_dir": "x"}):
        assert [found.severity for found in look({**ok, **same})] == ["warning"]
    assert look({**ok, "mixed_precision": "fp16"})[0].severity == "error"


def test_former_keys(look: Look) -> None:
    for name in vocabulary().refused[""]:
        (finding,) = look({"zero_optimization": {"stage": 1}, name: {"enabled": False}})
        assert (finding.code, finding.severity) == ("CF317", "note")
        assert look(fixed(finding)) == ()
        for value in (True, {"enabled": True}, {"method": {"enabled": True}}, {"mode": "fixed"}):
            (finding,) = look({"zero_optimization": {"stage": 1}, name: value})
            assert finding.severity == "error"
            assert not finding.fix, "what was switched on is for its author to give up"
    for value, severity in ((False, "note"), (True, "warning")):
        (finding,) = look({"zero_optimization": {"stage": 1}, "fp32_allreduce": value})
        assert finding.severity == severity
    (finding,) = look({"zero_optimization": {"stage": 3, "mics_shard_size": -1}})
    assert finding.severity == "note"


def test_old_names(look: Look) -> None:
    old = "stage3_gather_fp16_weights_on_model_save"
    (finding,) = look({"zero_optimization": {"stage": 3, old: True}})
    assert (finding.code, finding.severity) == ("CF319", "warning")
    assert look(fixed(finding)) == ()
    for old in ("cpu_offload", "cpu_offload_param"):
        for value in (True, "true", 1):
            found = look({"zero_optimization": {"stage": 3, old: value}})
            assert {finding.severity for finding in found} == {"warning"}
            assert look(fixed(found[-1])) == ()
    none, cpu = {"device": "none"}, {"device": "cpu"}
    for value, block, severity in ((False, none, "warning"), (True, none, "error"), (True, cpu, "error")):
        (finding,) = look(
            {"zero_optimization": {"stage": 3, "cpu_offload": value, "offload_optimizer": block}}
        )
        assert (finding.code, finding.severity) == ("CF319", severity)
        assert look(fixed(finding)) == ()
    found = look({"zero_optimization": {"stage": 2, "cpu_offload_param": True}})
    assert codes(found) == ["CF319", "CF330"]
    assert look({"zero_optimization": {"stage": 3, "prefetch_bucket_size": 5}}) == ()


BAD: tuple[tuple[str, object, str, str | None], ...] = (
    # where, value, severity, what the fix writes
    ("train_batch_size", 2.5, "error", None),
    ("gradient_clipping", "0x1", "warning", "1"),
    ("train_batch_size", "32", "warning", "32"),
    ("train_batch_size", 32.0, "warning", "32"),
    ("zero_optimization.stage", "1", "warning", "1"),
    ("gradient_clipping", "one", "error", None),
    ("gradient_clipping", 10**400, "nothing of it", None),
    ("steps_per_print", "10", "error", "10"),
    ("steps_per_print", 0.5, "error", None),
    ("wall_clock_breakdown", 1, "warning", "true"),
    ("dump_state", "False", "error", "false"),
    ("gradient_predivide_factor", 0, "error", None),
    ("gradient_predivide_factor", True, "error", None),
    ("gradient_allreduce_op", "men", "error", None),
    ("communication_data_type", 32, "error", None),
    ("zero_optimization.reduce_bucket_size", "500_000", "warning", "500000"),
    ("zero_optimization.reduce_bucket_size", "5,000", "error", "5000"),
    ("zero_optimization.reduce_bucket_size", 0, "error", None),
    ("zero_optimization.reduce_bucket_size", -1, "error", None),
    ("zero_optimization.reduce_bucket_size", True, "error", None),
    ("zero_optimization.reduce_bucket_size", 1.5, "error", None),
    ("zero_optimization.reduce_bucket_size", [1], "error", None),
    ("zero_optimization.overlap_comm", "yes", "warning", "true"),
    ("zero_optimization.overlap_comm", 2, "error", None),
    ("zero_optimization.contiguous_gradients", {}, "error", None),
    ("zero_optimization.leaf_module", "all", "note", None),
    ("zero_optimization.offload_param", False, "note", None),
    ("activation_checkpointing.profile", "true", "note", "true"),
    ("torch_autocast.enabled", "maybe", "error", None),
    ("activation_checkpointing", True, "note", None),
    ("checkpoint.tag_validation", "none", "note", None),
    ("flops_profiler", False, "note", '{"enabled": false}'),
    ("flops_profiler", None, "note", None),
    ("data_types.grad_accum_dtype", "fp8", "error", None),
    ("comms_logger.prof_ops", "all_reduce", "note", None),
    ("comms_logger", True, "error", '{"enabled": true}'),
    ("wandb.project", 7, "note", None),
    ("fp16.loss_scale_window", 0.5, "note", None),
    ("fp16", False, "note", '{"enabled": false}'),
    ("bf16", True, "warning", '{"enabled": true}'),
)


@pytest.mark.parametrize(("where", "value", "severity", "text"), BAD)
def test_wrong_types(look: Look, where: str, value: object, severity: str, text: str | None) -> None:
    values: dict[str, Any] = {"zero_optimization": {"stage": 1}}
    *path, name = where.split(".")
    inside = values
    for key in path:
        inside = inside.setdefault(key, {})
    inside[name] = value
    findings = look(values)
    if severity == "nothing of it":
        assert codes(findings) == ["CF304"], "a number too large for a float is one all the same"
        return
    (finding,) = findings
    assert (finding.code, finding.severity) == ("CF309", severity)
    if text is not None:
        assert [edit.text for edit in finding.fix] == [text]
        assert "CF309" not in codes(look(fixed(finding)))
    elif where not in ("train_batch_size", "gradient_clipping"):
        assert finding.fix == ()


def test_an_old_form_of_the_stage(look: Look) -> None:
    for value, stage, severity in ((True, 1, "warning"), (2, 2, "error"), (False, 0, "warning")):
        (finding,) = look({"zero_optimization": value}, "model.dtype=float32")
        assert (finding.severity, finding.helps) == (severity, (f'write {{"stage": {stage}}}',))
        assert look(fixed(finding), "model.dtype=float32") == ()
    assert codes(look({"zero_optimization": False})) == ["CF309", "CF311"], "bfloat16 on stage 0"


@pytest.mark.parametrize("block", [path for path in vocabulary().blocks if path])
def test_no_default_of_deepspeed_is_a_mistake(look: Look, block: str) -> None:
    """Every key with its own default: nothing of the wrong type, nothing unknown."""
    keys = {
        name: key.default
        for name, key in vocabulary().blocks[block].keys.items()
        if key.has_default and key.same_as is None and key.deprecated is None
    }
    values: Any = keys
    for name in reversed(block.split(".")):
        values = {name: values}
    found = look({"zero_optimization": {"stage": 1}, **values})
    assert not {"CF309", "CF314", "CF315", "CF318", "CF319"} & set(codes(found)), found
    assert all(entry.key for entry in entries(values))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_nobody_s_mistake(look: Look, path: Path) -> None:
    dtype = "float32" if path.stem == "zero0" else "bfloat16"
    assert look(json.loads(path.read_text()), f"model.dtype={dtype}") == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alpaca2_zero2_no_offload", ["note CF309"]),
        ("transformers_zero2", []),
        ("common_zero3", ["note CF318"]),
        ("explicit_zero3", []),
    ],
)
def test_published_files(look: Look, name: str, expected: list[str]) -> None:
    found = look(PUBLISHED[name])
    assert [f"{finding.severity} {finding.code}" for finding in found] == expected


def test_auto(look: Look) -> None:
    assert look({"zero_optimization": {"stage": 1, "reduce_bucket_size": "auto"}}) == ()
    (finding,) = look({"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": "auto"}})
    assert (finding.code, finding.severity, finding.label) == ("CF318", "note", "50,000,000")
    (finding,) = look({"zero_optimization": {"stage": 1}, "steps_per_print": "auto"})
    assert finding.title == 'steps_per_print is "auto", and nobody fills it in: DeepSpeed\'s default holds'
    assert look({"zero_optimization": {"stage": 2, "stage3_prefetch_bucket_size": "auto"}}) == ()
    assert codes(look({"zero_optimization": "auto"})) == ["CF309"]
    (finding,) = look({"zero_optimization": {"stage": 1, "sub_group_size": "AUTO"}})
    assert finding.helps == ('write "auto"',)
    everything = {"train_batch_size": "auto", "gradient_clipping": "auto", "bf16": {"enabled": "auto"}}
    assert look({**everything, "zero_optimization": {"stage": 1}}) == ()


def test_a_thousand_unknown_keys_take_no_time(look: Look) -> None:
    values: dict[str, Any] = {f"gradient_acumulation_step_{n}": n for n in range(20_000)}
    assert len(look({"zero_optimization": {"stage": 1}, **values})) == 50


def test_the_fixture_can_fail(look: Callable[..., tuple[Finding, ...]]) -> None:
    assert look({"zero_optimization": {"stage": 1}}) == ()
    assert codes(look({"zero_optimization": {"stage": 0}})) == ["CF311"]


def test_former_spellings_lead_to_the_words_of_today(look: Look) -> None:
    (finding,) = look({"zero_optimization": {"stage": 3, "cpu_offload_params": True}})
    assert finding.helps == ('write "offload_param": {"device": "cpu"}',)
    (finding,) = look({"zero_optimization": {"stage": 2, "allgather_size": 5e8}})
    assert finding.helps == ("write allgather_bucket_size",)


def test_a_number_in_quotes_that_differs_is_one_finding(look: Look) -> None:
    ok = {"zero_optimization": {"stage": 1}}
    assert codes(look({**ok, "train_batch_size": "16"})) == ["CF101"]
    assert codes(look({**ok, "gradient_clipping": "0.5"})) == ["CF304"]
    assert codes(look({**ok, "gradient_clipping": "1.0", "train_batch_size": "32"})) == ["CF309", "CF309"]
