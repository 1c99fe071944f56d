"""The adapter that a run starts from: what is read of its folder, and what is said where that fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from crossfoot.checks.registry import Facts
from crossfoot.checks.rules import run_static_rules
from crossfoot.findings.finding import Refused
from crossfoot.planning.prepare import start_adapter
from crossfoot.written.adapter_folder import open_adapter
from crossfoot.written.model_facts import TINY_SIZES, ModelFacts, read_model_facts
from crossfoot.written.run_file import load_run
from support.model_folders import write_adapter_weights

CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny, dtype: float32, adapter: made}
data: {train: [a.json]}
batch: {micro_batch_size: 4, grad_accum_steps: 8}
lr: {reference: 1e-4}
lora: {r: 4, alpha: 8, target_modules: all-linear}
train: {epochs: 1}
"""
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VALUES = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ALL}
TABLES = ["embed_tokens", "lm_head"]


@pytest.fixture
def codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The codes of what is said of an adapter with these values under CONFIG with overrides."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)

    def _codes(values: Mapping[str, object], *words: str, model: ModelFacts | None = None) -> list[str]:
        write(Path("made"), {**VALUES, **values})
        run = load_run("run.yaml", words)
        facts = model or read_model_facts("builtin:tiny")
        found = run_static_rules(Facts(run, model=facts, adapter=start_adapter(run)))
        return [finding.code for finding in found]

    return _codes


def write(folder: Path, values: Mapping[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(values))
    write_adapter_weights(folder)
    return folder


def test_the_adapter_that_the_section_describes(codes) -> None:
    assert codes({}) == []
    assert codes({"lora_dropout": 0.5, "init_lora_weights": "gaussian", "rank_pattern": {}}) == []
    assert codes({"modules_to_save": TABLES}, "lora.modules_to_save=[lm_head, embed_tokens]") == []


def test_what_a_continued_adapter_has_already(codes) -> None:
    begun, rows = ("lora.init=pissa", "lora.r=4", "lora.alpha=4"), "lora.trainable_token_indices=[5]"
    assert codes({"lora_alpha": 4}, *begun) == ["CF077"]
    assert codes({"lora_alpha": 4}, *begun, "model.adapter_use=merge") == []
    assert codes({}, rows) == ["CF072"]
    assert codes({}, rows, "model.adapter_use=merge") == []


@pytest.mark.parametrize(
    ("values", "times"),
    [
        ({"r": 8}, 1),
        ({"lora_alpha": 16, "use_rslora": True}, 2),
        ({"use_dora": True, "modules_to_save": TABLES}, 2),
        ({"target_modules": ["q_proj"]}, 1),
    ],
)
def test_another_one_is_not_continued_and_can_be_merged(codes, values: dict[str, object], times: int) -> None:
    assert codes(values) == ["CF072"] * times
    assert codes(values, "model.adapter_use=merge") == []
    assert codes(values, "model.adapter_use=merge", "lora=null") == []


@pytest.mark.parametrize(
    "values",
    [
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "olora"},
        {"bias": "all"},
        {"trainable_token_indices": [1]},
    ],
)
def test_kinds_that_no_run_starts_from(codes, values: dict[str, object]) -> None:
    assert codes(values, "model.adapter_use=merge") == ["CF071"]


def test_ranks_that_differ_can_only_be_merged(codes) -> None:
    values = {"rank_pattern": {"q_proj": 4}}
    assert codes(values) == ["CF071"]
    assert codes(values, "model.adapter_use=merge") == []


def test_an_adapter_of_another_model(codes) -> None:
    sizes = {**TINY_SIZES, "hidden_size": 32}
    assert codes({}, model=ModelFacts(260, False, 2048, "llama", sizes=sizes)) == ["CF073"]
    assert codes(
        {}, model=ModelFacts(260, False, 2048, "llama", sizes={**sizes, "num_hidden_layers": 1})
    ) == ["CF073"]


def test_tied_tables_are_one_whichever_name_they_have(codes) -> None:
    tied = ModelFacts(260, True, 2048, "llama")
    saved = "lora.modules_to_save=[embed_tokens, lm_head]"
    assert codes({"modules_to_save": ["lm_head"]}, saved, model=tied) == []
    assert codes({"modules_to_save": ["lm_head"]}, saved) == ["CF072"]


def test_one_on_a_merged_base_needs_that_base(codes, tmp_path: Path) -> None:
    write(tmp_path / "made", VALUES)
    (tmp_path / "made" / "base.json").write_text(json.dumps({"merged_adapter": "/runs/pt/adapter"}))
    assert codes({}) == ["CF071"]


def test_a_folder_of_a_run_stands_for_its_adapter(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "adapter", {**VALUES, "modules_to_save": TABLES})
    adapter = open_adapter(str(tmp_path / "run"))
    assert adapter.folder == str(tmp_path / "run" / "adapter")
    assert (adapter.rows, len(adapter.modules)) == (260, 14)
    copy = open_adapter(str(write(tmp_path / "copy", {**VALUES, "modules_to_save": TABLES})))
    assert copy.identity == adapter.identity
    other = open_adapter(str(write(tmp_path / "other", {**VALUES, "modules_to_save": TABLES, "x": 1})))
    assert other.identity != adapter.identity


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda made: (made / "adapter_config.json").unlink(), "there is no adapter_config.json"),
        (lambda made: (made / "adapter_config.json").write_text("{"), "adapter_config.json: "),
        (lambda made: (made / "adapter_config.json").write_text("[]"), "is not an object"),
        (lambda made: (made / "adapter_model.safetensors").unlink(), "neither adapter_model.safetensors"),
        (lambda made: (made / "adapter_model.safetensors").write_bytes(b"12"), "damaged or cut off"),
        (lambda made: made.rename(made.with_name("gone")), "there is no such folder"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, break_it, said: str) -> None:
    made = write(tmp_path / "made", VALUES)
    break_it(made)
    with pytest.raises(Refused) as refused:
        open_adapter(str(made))
    (finding,) = refused.value.findings
    assert (finding.code, finding.unreadable) == ("CF070", True)
    assert said in finding.notes[0]
