"""The plan that the end of a run proposes to look at holds, for whatever was planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossfoot.cli import main
from crossfoot.planning.another_plan import another_plan
from crossfoot.planning.prepare import plan_written
from support.launching import ROOT, write_samples

SMALL = """\
run: {name: t}
model: {path: "builtin:tiny", dtype: float32}
data: {train: [x.jsonl], max_seq_len: 64}
batch: {micro_batch_size: 2, grad_accum_steps: 2}
cluster: {num_nodes: 1, gpus_per_node: 2}
lr: {reference: 1.0e-3}
lora: {r: 4, alpha: 8}
deepspeed: ds.json
train: {epochs: 1}
"""
STAGE = {"zero_optimization": {"stage": 2}}
PLANS: tuple[tuple[str, dict[str, object]], ...] = (
    ("", {}),
    ("batch.grad_accum_steps=null batch.global_batch_size=5", {}),
    ("batch.micro_batch_size=null batch.global_batch_size=30 batch.grad_accum_steps=3", {}),
    ("batch.global_batch_size=7", {}),
    ("cluster.gpus_per_node=[2,1] cluster.num_nodes=null", {}),
    ("cluster.gpus_per_node=1 cluster.num_nodes=3", {}),
    ("", {"train_batch_size": 8}),
    ("", {"train_micro_batch_size_per_gpu": 2}),
    ("", {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2}),
    ("lr.rule=sqrt lr.reference_batch=8", {}),
    ("lr.warmup_steps=5", {}),
    ("lr.warmup_steps=5 data.last_step=drop", {}),
    ("train.epochs=null train.max_steps=3 lr.warmup_steps=3", {}),
    ("batch.micro_batch_size=20 data.last_step=drop", {}),
    ("deepspeed=null cluster.gpus_per_node=1", {}),
)


@pytest.mark.parametrize(("words", "deepspeed"), PLANS)
def test_it_holds(
    words: str, deepspeed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(SMALL)
    Path("ds.json").write_text(json.dumps({**STAGE, **deepspeed}))
    write_samples(Path("x.jsonl"), 80)
    changes = another_plan(plan_written("c.yaml", words.split())[0])
    assert changes
    assert main(["plan", "c.yaml", *words.split(), *changes]) == 0


def test_nothing_is_proposed_where_nothing_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(SMALL)
    fixed = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2}
    Path("ds.json").write_text(json.dumps({**STAGE, **fixed}))
    write_samples(Path("x.jsonl"), 80)
    assert another_plan(plan_written("c.yaml", [])[0]) == ()


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_it_holds_for_what_is_shipped(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    write_samples(tmp_path / "x.jsonl", 3000)
    texts = "".join(f'{{"text": "{number:5} {"word " * 300}"}}\n' for number in range(1000))
    (tmp_path / "texts.jsonl").write_text(texts)
    data = tmp_path / ("texts.jsonl" if "task: pretrain" in config.read_text() else "x.jsonl")
    words = [f"data.train=[{data}]", f"run.dir={tmp_path / 'run'}"]
    words += ["model.path=builtin:tiny", "tokenizer=null", "data.validation=[]"]
    changes = another_plan(plan_written(str(config), words)[0])
    assert changes
    assert main(["plan", str(config), *words, *changes]) == 0
