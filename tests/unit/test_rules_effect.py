"""CF030: every key of the schema either always has an effect, or is asked whether it has one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from crossfoot.checks.rules_effect import WISHES
from crossfoot.findings.finding import Finding
from crossfoot.planning.checking import find_all
from crossfoot.planning.prepare import read_and_check
from crossfoot.written.config import Config, TokenizerSection
from crossfoot.written.lora_section import LoraSection
from crossfoot.written.resolved import dump_config
from crossfoot.written.run_file import load_run
from support.launching import write_samples

CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny, dtype: float32}
data: {train: [a.jsonl]}
batch: {micro_batch_size: 2, grad_accum_steps: 2}
cluster: {num_nodes: 1, gpus_per_node: 1}
lr: {reference: 1e-4}
train: {epochs: 1}
"""
ALWAYS = {
    "run": {"name", "dir", "seed"},
    "model": {"path", "adapter", "dtype", "attention", "kernels", "quantization"}
    | {"gradient_checkpointing"},
    "tokenizer": {"path"},
    "data": {"train", "validation", "task", "max_seq_len", "layout", "bad_samples", "index_dir"}
    | {"special_text", "ignored_fields", "columns"},
    "batch": {"micro_batch_size", "micro_batch_tokens", "grad_accum_steps", "global_batch_size"}
    | {"target_trained_tokens"},
    "cluster": {"num_nodes", "gpus_per_node"},
    "lr": {"reference", "rule", "warmup_steps", "warmup_fraction", "warmup_samples", "groups"},
    "optimizer": {"name", "max_grad_norm"},
    "lora": {"r", "alpha", "scaling", "dora", "init", "dropout", "target_modules", "modules_to_save"}
    | {"trainable_token_indices"},
    "train": {"epochs", "max_steps", "noise_scale_every_steps"},
    "evaluation": {"tasks"},
    "checkpoint": {"every_steps", "keep"},
    "faults": {"nonfinite", "timeout_seconds", "disk_full", "grace_seconds"},
    "tracking": {"wandb", "tensorboard"},
    "checks": {"accept"},
}
"""Keys that something follows from whatever the others say (a rate's rule and its warm-up have rules of their
own)."""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    write_samples(Path("a.jsonl"), 40)
    write_samples(Path("v.jsonl"), 4, seed=1)

    def _found(*words: str) -> list[Finding]:
        return [finding for finding in find_all("run.yaml", words) if finding.code == "CF030"]

    return _found


def test_every_key_of_the_schema_is_thought_of() -> None:
    sections: dict[str, type[BaseModel]] = {"tokenizer": TokenizerSection, "lora": LoraSection}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections[name] = field.annotation
    keys = {f"{section}.{key}" for section, kind in sections.items() for key in kind.model_fields}
    wishes = {wish.key for wish in WISHES}
    always = {f"{section}.{key}" for section, names in ALWAYS.items() for key in names}
    assert not wishes & always
    assert keys == wishes | always, "a new key: does it always have an effect?"


def test_a_use_of_no_adapter_has_no_effect(found) -> None:
    (finding,) = found("model.adapter_use=merge")
    assert finding.title == 'model.adapter_use "merge" has no effect: there is no model.adapter to use'
    assert found("model.adapter_use=merge", "model.adapter=made") == [], "that is CF070"


WSD = ("lr.schedule=wsd",)
ASKED = "evaluation.tasks=[exam]"
VALIDATED = ("data.validation=[v.jsonl]", "validation.every_steps=2")


@pytest.mark.parametrize(
    ("key", "words", "repair"),
    [
        ("lr.reference_batch", ("lr.reference_batch=4",), "lr.rule=sqrt"),
        ("model.matmul", ("model.matmul=highest", "model.dtype=bfloat16"), "model.dtype=float32"),
        ("lr.min_ratio", ("lr.min_ratio=0.1", "lr.schedule=constant"), "lr.schedule=linear"),
        ("lr.min_ratio", ("lr.min_ratio=0.1", *WSD, "lr.decay_fraction=0"), "lr.decay_fraction=0.2"),
        ("lr.cycles", ("lr.cycles=3",), "lr.schedule=cosine_with_restarts"),
        ("lr.decay_fraction", ("lr.decay_fraction=0.2",), WSD[0]),
        ("lr.decay_shape", ("lr.decay_shape=sqrt",), WSD[0]),
        ("lr.decay_shape", ("lr.decay_shape=sqrt", *WSD, "lr.decay_fraction=0"), "lr.decay_fraction=0.2"),
        (
            "optimizer.beta2_reference_batch",
            ("optimizer.beta2_reference_batch=8", "optimizer.name=sgd"),
            "optimizer.name=adamw",
        ),
        ("lr.schedule", ("lr.min_ratio=1", "lr.schedule=linear"), "lr.min_ratio=0.5"),
        ("optimizer.betas", ("optimizer.betas=[0.9, 0.95]", "optimizer.name=sgd"), "optimizer.name=adamw"),
        ("optimizer.eps", ("optimizer.eps=1e-6", "optimizer.name=sgd"), "optimizer.name=adamw"),
        (
            "optimizer.weight_decay",
            ("optimizer.weight_decay=0.1", "optimizer.name=sgd"),
            "optimizer.name=adamw",
        ),
        ("validation.every_steps", ("validation.every_steps=2",), "data.validation=[v.jsonl]"),
        ("validation.every_steps", ("validation.every_steps=2",), "data.validation=0.1"),
        ("validation.every_steps", (*VALIDATED, "validation.every_steps=10"), "validation.every_steps=9"),
        ("evaluation.every_steps", ("evaluation.every_steps=2",), ASKED),
        ("evaluation.every_steps", (ASKED, "evaluation.every_steps=10"), "evaluation.every_steps=9"),
        ("evaluation.shots", ("evaluation.shots=2",), ASKED),
        ("evaluation.scorer", ("evaluation.scorer=alpaca2",), ASKED),
        ("evaluation.subjects", ("evaluation.subjects=[china_geography]",), ASKED),
        ("validation.patience", ("validation.patience=2",), "validation.patience=null"),
        ("validation.patience", (*VALIDATED, "validation.patience=4"), "validation.patience=3"),
        (
            "validation.min_improvement",
            (*VALIDATED, "validation.min_improvement=0.1"),
            "validation.patience=2",
        ),
        ("checkpoint.best", ("checkpoint.best=true",), "checkpoint.best=false"),
        (
            "checkpoint.best",
            (*VALIDATED, "checkpoint.best=true", "checkpoint.every_steps=5"),
            "checkpoint.every_steps=4",
        ),
        (
            "checkpoint.best",
            (*VALIDATED, "checkpoint.best=true", "checkpoint.every_steps=null"),
            "checkpoint.every_steps=2",
        ),
        ("faults.overflow", ("faults.overflow=skip",), "model.dtype=float16"),
        ("tracking.project", ("tracking.project=mine",), "tracking.wandb=offline"),
        ("data.template", ("data.template=alpaca2", "data.task=pretrain"), "data.task=sft"),
        ("data.system_prompt", ("data.system_prompt=x", "data.task=pretrain"), "data.task=sft"),
        ("data.train_on", ("data.train_on=last", "data.task=pretrain"), "data.task=sft"),
        ("data.over_long", ("data.over_long=split", "data.task=pretrain"), "data.task=sft"),
        ("data.last_step", ("data.last_step=carry",), "train.epochs=2"),
    ],
)
def test_a_wish_without_effect(found, key: str, words: tuple[str, ...], repair: str) -> None:
    (finding,) = found(*words)
    assert finding.title.startswith(f"{key} ") and " has no effect: " in finding.title
    assert finding.severity == ("note" if key == "lr.reference_batch" else "warning")
    assert finding.helps[0] == f"remove {key}"
    assert found(*words, repair) == []


def test_what_is_no_wish(found) -> None:
    assert found() == []
    assert found("lr.min_ratio=0", "lr.schedule=constant") == []
    assert found("optimizer.weight_decay=0", "optimizer.name=sgd") == []
    assert found("lr.reference_batch=8") == [], "another batch: CF204"


def test_a_resolved_config_wishes_for_no_default(found) -> None:
    Path("resolved.yaml").write_text(dump_config(load_run("run.yaml").config))
    assert [one.code for one in read_and_check("resolved.yaml", []).findings] == []
    words = ("optimizer.betas=[0.9, 0.95]", "optimizer.name=sgd")
    assert [one.code for one in read_and_check("resolved.yaml", words).findings] == ["CF030"]
