"""LoRA's batches and rates, the schedule wsd, groups with a rate of their own; silence where all is well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crossfoot.arithmetic.batch import Topology, solve_batch
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.checks.registry import Facts
from crossfoot.checks.rules import run_static_rules
from crossfoot.findings.finding import Finding
from crossfoot.planning.plan import run_rate
from crossfoot.planning.prepare import read_and_check
from crossfoot.written.model_facts import read_model_facts
from crossfoot.written.run_file import load_run
from support.launching import ROOT

CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny, dtype: float32}
data: {train: [a.json]}
batch: {micro_batch_size: 8, grad_accum_steps: 8}
cluster: {num_nodes: 1, gpus_per_node: 2}
lr: {reference: 1e-4, groups: {}}
lora: {r: 64, alpha: 128, modules_to_save: [embed_tokens, lm_head]}
train: {max_steps: 100}
"""
CODES = {f"CF{number}" for number in range(210, 217)}


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The findings of CONFIG, 128 samples a step over 100 steps, with overrides."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)

    def _found(*words: str, tied: bool = False) -> dict[str, Finding]:
        run = load_run("run.yaml", words)
        topology = Topology(run.config.cluster.gpus_per_node or 1, run.config.cluster.num_nodes or 1)
        batch = solve_batch(topology, **run.config.batch_numbers)
        model = read_model_facts(run.config.model.path)
        assert model is not None
        size = batch.global_batch_size
        rate = run_rate(run, Schedule(100 * size, size, 0, "short", epochs=1))
        facts = Facts(run, batch=batch, rate=rate, model=replace(model, tied=tied))
        return {one.code: one for one in run_static_rules(facts) if one.code in CODES}

    return _found


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        ((), set()),
        (("batch.grad_accum_steps=9",), {"CF211"}),
        (("batch.grad_accum_steps=9", "lora=null"), set()),
        (("lr.reference=2e-5",), {"CF212"}),
        (("lr.reference=2.1e-5",), set()),
        (("lr.reference=2e-5", "lora=null"), set()),
        (("lr.reference=2e-5", "optimizer.name=sgd"), set()),
        (("lr.reference=1e-5", "lr.reference_batch=8", "lr.rule=sqrt"), set()),
        (("lora.r=8",), {"CF213"}),
        (("lora.r=8", "lora.alpha=16"), set()),
        (("lora.r=64",), set()),
        (("lora.alpha=64",), set()),
        (("lr.schedule=wsd",), set()),
        (("lr.schedule=wsd", "lr.decay_fraction=0.9", "lr.warmup_fraction=0.1"), {"CF214"}),
        (("lr.schedule=wsd", "lr.decay_fraction=0.89", "lr.warmup_fraction=0.1"), set()),
        (("lr.schedule=wsd", "lr.decay_fraction=0"), set()),
        (("lr.groups={lora_B: 16, embed_tokens: 0.1}",), set()),
        (("lr.groups.lora_B=16",), set()),
        (("lr.groups.lora_B=101",), {"CF210"}),
        (("lr.groups={other: 2}",), {"CF215"}),
        (("lr.groups={lora_C: 2}",), {"CF215"}),
        (("lr.groups={lora_B: 2}", "lora=null"), {"CF215"}),
        (("lr.groups={other: 2}", "lora=null"), set()),
        (("lr.groups={other: 2}", "lora.modules_to_save=[norm]"), set()),
        (("lr.groups={lora_A: 1, lora_B: 16, embed_tokens: 1, lm_head: 1}",), {"CF216"}),
        (("lr.groups={lora_A: 1, lora_B: 16}", "lora.modules_to_save=[]"), {"CF216"}),
        (("lr.groups={lora_A: 1, lora_B: 16}",), set()),
    ],
)
def test_what_is_said(found, words: tuple[str, ...], codes: set[str]) -> None:
    assert set(found(*words)) == codes


def test_another_case_is_what_is_meant(found) -> None:
    assert found("lr.groups={lora_b: 16}")["CF215"].helps == ("write lora_B",)


def test_a_tied_output_layer_has_the_rate_of_the_embedding(found) -> None:
    finding = found("lr.groups={lm_head: 0.5}", tied=True)["CF215"]
    assert finding.title.endswith("lm_head is tied to embed_tokens, and one tensor has one rate")
    assert finding.notes == ("trained here: lora_A, lora_B and embed_tokens",)
    assert "CF215" not in found("lr.groups={embed_tokens: 0.5}", tied=True)
    assert "CF216" in found("lr.groups={embed_tokens: 0.5, other: 2}", "lora=null", tied=True)


def test_the_repair_of_groups_without_a_base_keeps_every_rate(found) -> None:
    finding = found("lr.groups={lora_A: 4, lora_B: 64}", "lora.modules_to_save=[]")["CF216"]
    assert finding.helps[0].startswith("write reference: 0.0004 and groups: {lora_B: 16} below lr: lora_A")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_configs_that_ship_are_not_warned_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert not CODES & {finding.code for finding in read_and_check(str(path), []).findings}
