"""Every help that names a change is followed: its finding goes, and no other mistake takes its place."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from crossfoot.findings.finding import Finding
from finding_cases import FindingCase, check_case, read_case, write_files
from support.followed_helps import apply, follow

FAMILIES = ("CF0", "CF1", "CF2", "CF3", "CF5")
"""Of mistakes in the run config, in the DeepSpeed file and in the data; launch files are other languages."""
PAGES = [page for page in sorted(Path(__file__).parent.glob("CF*.md")) if page.stem[:3] in FAMILIES]

SMALL = """\
run: {name: t}
model: {path: "builtin:tiny", dtype: float32}
data: {task: sft, train: [data/demo/zh.jsonl], max_seq_len: 256}
batch: {micro_batch_size: 2, grad_accum_steps: 2}
cluster: {num_nodes: 1, gpus_per_node: 2}
lr: {reference: 1.0e-3}
lora: {r: 4, alpha: 8}
deepspeed: ds.json
train: {epochs: 2}
"""
STAGE_2 = '{"zero_optimization": {"stage": 2}'
MORE: tuple[tuple[str, str], ...] = (
    ("batch.global_batch_size=16", '{%s, "train_micro_batch_size_per_gpu": 2}'),
    ("batch.global_batch_size=16", '{%s, "gradient_accumulation_steps": 2}'),
    ("batch.global_batch_size=16", '{%s, "train_batch_size": 16}'),
    ("batch.global_batch_size=3", "{%s}"),
    ("cluster.gpus_per_node=1", '{%s, "train_batch_size": 8, "gradient_accumulation_steps": 2}'),
    ("", '{%s, "train_batch_size": 32, "train_micro_batch_size_per_gpu": 4}'),
    ("", '{%s, "train_batch_size": 32}'),
    ("", '{%s, "gradient_accumulation_steps": 8}'),
    ("", '{"bf16": {"enabled": true}}'),
    ("", '{%s, "bf16": {"enabled": true}}'),
    ("model.dtype=float16", "{}"),
    ("model.dtype=float16", '{"fp16": {"enabled": true}}'),
    ("lr.rule=linear", "{%s}"),
    ("lr.rule=linear lr.reference_batch=64", "{%s}"),
    ("lr.rule=sqrt lr.reference_batch=64 optimizer.name=sgd", "{%s}"),
    ("lr.reference_batch=64", "{%s}"),
    ("lr.reference_batch=8", "{%s}"),
    ("lr.warmup_steps=100000", "{%s}"),
    ("lr.warmup_samples=10000000", "{%s}"),
    ("lr.warmup_fraction=1", "{%s}"),
    ("lr.schedule=constant lr.min_ratio=1", "{%s}"),
    ("lr.schedule=constant lr.min_ratio=0.1", "{%s}"),
    ("train.max_steps=5", "{%s}"),
    ("data.last_step=drop batch.global_batch_size=4000 batch.grad_accum_steps=null", "{%s}"),
    ("data.last_step=drop batch.micro_batch_size=4000", "{%s}"),
    ("data.last_step=carry train.epochs=1", "{%s}"),
    ("optimizer.name=sgd optimizer.weight_decay=0.1", "{%s}"),
    ("tracking.project=x", "{%s}"),
    ("lora.target_modules=[c_attn]", "{%s}"),
    ("validation.every_steps=5", "{%s}"),
    ('run.dir="runs/x "', "{%s}"),
    (r"data.train=[data\demo\zh.jsonl]", "{%s}"),
    ("data.train=[file:data/demo/zh.jsonl]", "{%s}"),
)
"""(overrides, DeepSpeed file) that make one mistake in SMALL."""


def small_case(number: int) -> FindingCase:
    overrides, text = MORE[number]
    config = {"config.yaml": SMALL, "ds.json": text.replace("%s", STAGE_2[1:])}
    return FindingCase(overrides or text, {**config, "overrides": overrides}, {}, "")


CASES = [*(read_case(page) for page in PAGES), *(small_case(number) for number in range(len(MORE)))]


def restore(case: FindingCase, folder: Path) -> list[str]:
    """The files of a case as they are in it; returns the words behind the config."""
    for name, text in case.bad.items():
        if name not in ("arguments", "overrides") and not name.endswith(".raw"):
            (folder / name).write_text(text, encoding="utf-8")
    return shlex.split(case.bad.get("arguments", "")) + case.bad.get("overrides", "").split()


HIDDEN = {"CF007": "CF501"}
"""A page whose one mistake hides another one, as in a file that is named as a text, and is not there."""


def key_of(finding: Finding) -> tuple[str, str]:
    return finding.code, finding.title


def leads_on(finding: Finding, before: Sequence[Finding], after: Sequence[Finding]) -> list[str]:
    """What is wrong after a help was followed: its finding is still there, or another error has come."""
    codes = {one.code for one in before} | {HIDDEN.get(finding.code, "")}
    return [
        f"{one.code}: {one.title}"
        for one in after
        if key_of(one) == key_of(finding) or (one.severity == "error" and one.code not in codes)
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_a_help_that_is_followed_helps(
    case: FindingCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {name: text for name, text in case.bad.items() if name != "overrides"})
    words = restore(case, tmp_path)
    before = check_case(words)
    assert before
    wrong = {}
    for finding in before:
        for help_ in finding.helps:
            words = restore(case, tmp_path)
            changed = follow(finding, help_, words)
            if changed is not None:
                wrong[help_] = leads_on(finding, before, check_case(changed))
        if finding.fix:
            words = restore(case, tmp_path)
            apply(finding.fix)
            wrong[f"--fix of {finding.title}"] = leads_on(finding, before, check_case(words))
    assert not {help_: found for help_, found in wrong.items() if found}
