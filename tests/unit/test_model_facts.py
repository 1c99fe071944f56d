"""The facts of config.json and the rule against untrained rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from crossfoot.written.config import Config
from crossfoot.written.model_facts import ModelFacts, needs_trained_embeddings, read_model_facts


def config_with(lora: dict[str, object] | None) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "t"},
            "model": {"path": "m"},
            "data": {"train": ["a.jsonl"]},
            "batch": {},
            "lr": {"reference": 1e-4},
            "lora": lora,
            "train": {"epochs": 1},
        }
    )


def write(folder: Path, **values: object) -> str:
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


def test_facts_of_a_folder(tmp_path: Path) -> None:
    path = write(
        tmp_path, model_type="llama", vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192
    )
    assert read_model_facts(path) == ModelFacts(49152, True, 8192, "llama")


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("gemma", True), ("gpt2", True)])
def test_what_a_file_without_the_key_means(tmp_path: Path, family: str, tied: bool) -> None:
    facts = read_model_facts(write(tmp_path, model_type=family, vocab_size=8))
    assert facts is not None
    assert facts.tied is tied
    assert facts.max_position_embeddings is None


def test_the_text_part_of_a_larger_model(tmp_path: Path) -> None:
    facts = read_model_facts(write(tmp_path, model_type="x", text_config={"vocab_size": 7, "n_positions": 5}))
    assert facts == ModelFacts(7, True, 5, "x")


def test_builtin_tiny() -> None:
    assert read_model_facts("builtin:tiny") == ModelFacts(260, False, 2048, "llama", work_per_token=914)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"vocab_size": "many"}', '{"vocab_size": true}'])
def test_no_facts_in_a_file_that_is_no_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert read_model_facts(str(tmp_path)) is None


@pytest.mark.parametrize("path", ["nobody/nothing-of-this-name", "/no/such/folder", "a b/../c"])
def test_no_facts_where_nothing_is(path: str) -> None:
    assert read_model_facts(path) is None


@pytest.mark.parametrize(
    ("saved", "tied", "lacking"),
    [
        ([], False, "embed_tokens and lm_head are"),
        (["embed_tokens"], False, "lm_head is"),
        (["lm_head"], False, "embed_tokens is"),
        ([], True, "embed_tokens and lm_head are"),
        (["norm"], True, "embed_tokens and lm_head are"),
    ],
)
def test_new_rows_that_nobody_trains_are_refused(saved: list[str], tied: bool, lacking: str) -> None:
    finding = needs_trained_embeddings(config_with({"modules_to_save": saved}), 32000, 55296, tied)
    assert finding is not None
    assert (finding.code, finding.severity) == ("CF540", "error")
    assert f"55,296 tokens, the model 32,000 rows, and {lacking} not trained" in finding.title
    assert "23,296" in finding.notes[0]
    assert any("lora.modules_to_save" in text for text in finding.helps)


@pytest.mark.parametrize(
    ("lora", "rows", "tied"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, 32000, False),
        ({"modules_to_save": ["model.embed_tokens", "lm_head"]}, 32000, False),
        ({"modules_to_save": ["wte"]}, 32000, True),
        ({"modules_to_save": ["lm_head"]}, 32000, True),
        ({}, 55296, False),
        ({}, 60000, False),
        (None, 32000, False),
    ],
)
def test_trained_or_absent_new_rows_pass(lora: dict[str, object] | None, rows: int, tied: bool) -> None:
    assert needs_trained_embeddings(config_with(lora), rows, 55296, tied) is None


def test_no_torch() -> None:
    code = (
        "import sys; from crossfoot.written.model_facts import read_model_facts as r;"
        "r('builtin:tiny'); r('a/b'); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
    )
