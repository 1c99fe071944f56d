"""What is said about a model from its config.json alone, held against the models that transformers builds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossfoot.checks.registry import Facts
from crossfoot.checks.rules import run_static_rules
from crossfoot.data.look import DataLook
from crossfoot.findings.finding import Finding
from crossfoot.written.model_facts import ModelFacts, read_model_facts
from crossfoot.written.model_modules import FAMILIES, causal_families, is_known_family
from crossfoot.written.run_file import load_run

CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny, dtype: float32}
data: {train: [a.json]}
batch: {micro_batch_size: 4, grad_accum_steps: 8}
lr: {reference: 1e-4}
train: {epochs: 1}
"""
LLAMA = ModelFacts(32000, False, 4096, "llama")
TIED = ModelFacts(49152, True, 8192, "llama")
GPT2 = ModelFacts(50257, True, 1024, "gpt2")


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The findings about a model under CONFIG with overrides."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)

    def _found(
        model: ModelFacts, *overrides: str, targets: str = "", saved: str = "", data: DataLook | None = None
    ) -> tuple[Finding, ...]:
        words = list(overrides)
        if targets or saved:
            words.append(f"lora.modules_to_save=[{saved}]")
            words.extend([f"lora.target_modules=[{targets}]"] if targets else [])
        return run_static_rules(Facts(load_run("run.yaml", words), model=model, data=data))

    return _found


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("model", "targets", "saved"),
    [
        (LLAMA, "q_proj, v_proj", ""),
        (LLAMA, "q_proj", "embed_tokens, lm_head"),
        (LLAMA, "self_attn.q_proj, model.layers.1.mlp.up_proj", "norm, model.layers.0"),
        (LLAMA, "q_proj, lm_head", "embed_tokens"),
        (TIED, "q_proj", ""),
        (TIED, "q_proj", "embed_tokens, lm_head"),
        (GPT2, "c_attn", "lm_head, wte"),
        (GPT2, "c_attn", "wpe, ln_f"),
        (ModelFacts(9, False, 9, "family_of_tomorrow"), "anything", "at_all"),
    ],
)
def test_nothing_is_said_about_names_that_are_right(
    found, model: ModelFacts, targets: str, saved: str
) -> None:
    assert found(model, "data.max_seq_len=8", targets=targets, saved=saved) == ()


def test_names_that_match_nothing(found) -> None:
    (finding,) = found(GPT2, targets="q_proj, v_proj, c_attn")
    assert (finding.code, finding.severity) == ("CF546", "error")
    assert finding.title.endswith(": q_proj, v_proj")
    assert finding.helps[0].startswith("set lora.target_modules to [c_attn, c_proj, c_fc]")
    assert found(LLAMA, targets="qproj")[0].helps == ("write q_proj",)
    assert codes(found(LLAMA, targets="all-linear, q_proj")) == ["CF546"], "the one word is for all"
    assert codes(found(LLAMA, targets="norm")) == ["CF546"], "a norm takes no adapter"
    (finding,) = found(LLAMA, targets="q_proj", saved="wte, lm_head")
    assert (finding.code, finding.title.endswith(": wte")) == ("CF547", True)
    assert codes(found(GPT2)) == [] != codes(found(GPT2, "lora={}")), "the default names are llama's"


@pytest.mark.parametrize("model", [LLAMA, TIED, GPT2, ModelFacts(9, False, 9, "family_of_tomorrow")])
def test_all_linear_modules_are_no_mistake(found, model: ModelFacts) -> None:
    assert found(model, "lora.target_modules=all-linear", "data.max_seq_len=8") == ()
    assert found(model, "lora.target_modules=[all-linear]", "data.max_seq_len=8") == ()


def test_trained_in_full_and_by_an_adapter(found) -> None:
    assert codes(found(GPT2, "lora.target_modules=all-linear", saved="c_attn")) == ["CF548"]
    assert codes(found(LLAMA, targets="q_proj, lm_head", saved="lm_head")) == ["CF548"]
    assert codes(found(LLAMA, targets="self_attn.q_proj", saved="q_proj")) == ["CF548"]


def test_tied_tables(found) -> None:
    (finding,) = found(TIED, targets="q_proj", saved="lm_head")
    assert (finding.code, finding.severity) == ("CF534", "note")
    assert found(TIED, targets="q_proj", saved="embed_tokens")[0].title.startswith("embed_tokens is trained")
    assert codes(found(TIED, targets="q_proj, lm_head")) == ["CF549"]
    assert codes(found(LLAMA, targets="q_proj, lm_head")) == [], "its tables are two"
    assert codes(found(GPT2, targets="c_attn", saved="wte")) == ["CF549"], "peft would copy it"
    assert codes(found(GPT2, targets="c_attn", saved="lm_head")) == ["CF534"]
    assert codes(found(TIED, targets="q_proj, lm_head", saved="lm_head")) == ["CF534", "CF548"]


def test_positions(found) -> None:
    assert found(LLAMA, "data.max_seq_len=4096") == ()
    (finding,) = found(LLAMA, "data.max_seq_len=4097")
    assert (finding.code, finding.severity) == ("CF533", "warning")
    (finding,) = found(GPT2, "data.max_seq_len=1025")
    assert (finding.code, finding.severity) == ("CF533", "error")
    stretched = ModelFacts(9, False, 4096, "llama", stretched_positions=16384)
    assert found(stretched, "data.max_seq_len=16384") == ()
    assert "4,096 before rope scaling" in found(stretched, "data.max_seq_len=16385")[0].notes[0]
    assert found(ModelFacts(9, False, None, "llama"), "data.max_seq_len=99999") == ()


def test_an_index_knows_that_no_sample_is_so_long(found) -> None:
    look = DataLook(is_indexed=True, is_whole=True, is_counted=True, records=1, samples=1)
    short = DataLook(**{**vars(look), "longest_kept_tokens": 4096})
    assert found(LLAMA, "data.max_seq_len=9999", data=short) == ()
    long = DataLook(**{**vars(look), "longest_kept_tokens": 4097})
    assert "the longest sample" in found(LLAMA, "data.max_seq_len=9999", data=long)[0].title


@pytest.mark.parametrize(
    ("values", "reach"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 8192),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}},
            16384,
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 512}},
            4096,
        ),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, 4096),
        ({"rope_scaling": None}, 4096),
        ({"rope_scaling": {"factor": "4"}}, 4096),
        ({"rope_scaling": {"factor": float("inf")}}, 4096),
        ({"rope_scaling": [4]}, 4096),
    ],
)
def test_rope_scaling(tmp_path: Path, values: dict[str, object], reach: int) -> None:
    config = {"model_type": "llama", "vocab_size": 9, "max_position_embeddings": 4096, **values}
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = read_model_facts(str(tmp_path))
    assert facts is not None and facts.positions == reach


def test_a_vocabulary_that_is_larger(found) -> None:
    look = DataLook(is_indexed=False, is_whole=True, is_counted=True, records=9, samples=9, vocabulary=55296)
    (finding,) = found(LLAMA, targets="q_proj", data=look)
    assert (finding.code, finding.severity) == ("CF540", "error")
    assert str(finding.place) == "command line"
    assert found(LLAMA, targets="q_proj", saved="embed_tokens, lm_head", data=look) == ()
    assert found(LLAMA, data=look) == (), "full fine-tuning"
    assert found(ModelFacts(55296, False, 4096, "llama"), targets="q_proj", data=look) == ()


def test_a_model_that_is_not_causal(found) -> None:
    t5 = ModelFacts(32128, True, 512, "t5")
    assert codes(found(t5)) == ["CF543"]
    assert found(ModelFacts(9, True, 512, "t5", has_own_code=True)) == ()
    assert found(ModelFacts(9, True, 512, "")) == ()
    assert found(ModelFacts(9, True, 512, "../../etc")) == ()


def test_the_families_are_those_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_families() == frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert is_known_family("t5") and is_known_family("blenderbot-small")
    assert not is_known_family("nothing") and not is_known_family("")


@pytest.mark.parametrize("family", FAMILIES)
def test_module_names_are_those_that_transformers_builds(family: str) -> None:
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    config = AutoConfig.for_model(family)
    for key in ("num_hidden_layers", "n_layer"):
        if hasattr(config, key):
            setattr(config, key, 1)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    adaptable, parts = {}, {}
    for name, module in model.named_modules():
        is_adaptable = isinstance(module, (nn.Linear, nn.Embedding, Conv1D))
        word = name.rsplit(".", 1)[-1]
        if word and not word.isdecimal():
            (adaptable if is_adaptable else parts)[word] = None
    names = FAMILIES[family]
    assert set(names.adaptable) == set(adaptable)
    assert set(names.parts) == set(parts)
    tables = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    assert set(names.tables) == {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if id(module) in tables
    }
