"""A config.json that no model has is refused before anything is built of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from crossfoot.findings.finding import Refused
from crossfoot.planning.prepare import read_and_check
from crossfoot.written import model_limits
from crossfoot.written.model_facts import read_model_facts
from index_cases import GOOD, jsonl, written_run

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 55296,
    "max_position_embeddings": 4096,
}


def folder_of(tmp_path: Path, values: Any) -> str:
    text = values if isinstance(values, str) else json.dumps(values)
    (tmp_path / "config.json").write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1,000,000"),
        ({"hidden_size": 10**9}, "hidden_size is 1,000,000,000"),
        ({"intermediate_size": 1e12}, "intermediate_size is 1,000,000,000,000.0"),
        ({"n_layer": 10**4000}, "n_layer is a number of more than 18 digits"),
        ({"vocab_size": 10**12}, "vocab_size is 1,000,000,000,000"),
        ({"num_local_experts": 10**6}, "num_local_experts is 1,000,000"),
        ({"max_position_embeddings": 10**10}, "max_position_embeddings is 10,000,000,000"),
        ({"num_hidden_layers": float("nan")}, "num_hidden_layers is nan"),
        ({"hidden_size": 10**6, "num_hidden_layers": 2000}, "a model of its sizes has some"),
        ({"num_local_experts": 60_000, "num_hidden_layers": 1900}, "a model of its sizes has some"),
        ({"text_config": {"num_hidden_layers": 10**6}}, "num_hidden_layers is 1,000,000"),
    ],
)
def test_sizes_beyond_sense(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refused:
        read_model_facts(folder_of(tmp_path, {**LLAMA, **change}))
    (finding,) = refused.value.findings
    assert finding.code == "CF555" and finding.label.startswith(words)
    assert finding.place is not None and finding.place.file == str(tmp_path / "config.json")


def test_the_largest_models_are_models(tmp_path: Path) -> None:
    kimi = {"hidden_size": 7168, "num_hidden_layers": 61, "n_routed_experts": 384, "vocab_size": 163840}
    scout = {"max_position_embeddings": 10_485_760, "num_local_experts": 16}
    deep = {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126}
    for values in (LLAMA, kimi | {"moe_intermediate_size": 2048}, {**LLAMA, **scout}, {**LLAMA, **deep}):
        facts = read_model_facts(folder_of(tmp_path, values))
        assert facts is not None and facts.vocab_size == values["vocab_size"]


def test_a_file_that_is_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_limits, "LARGEST_CONFIG_BYTES", 100)
    told = {}
    for name, text in {"large": "x" * 101, "deep": "[" * 100, "zero": "", "pipe": ""}.items():
        (folder := tmp_path / name).mkdir()
        if name == "pipe":
            os.mkfifo(folder / "config.json")
        elif name == "zero":
            (folder / "config.json").symlink_to("/dev/zero")
        else:
            folder_of(folder, text)
        try:
            told[name] = read_model_facts(str(folder))
        except Refused as refused:
            told[name] = refused.findings[0].label
    assert told == {
        "large": "it has 101 bytes, and at most 100 are read",
        "deep": None,  # broken JSON like any other: loading the model says so
        "zero": "it is not an ordinary file",
        "pipe": "it is not an ordinary file",
    }


def test_deep_nesting_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="CF555"):
        read_model_facts(folder_of(tmp_path, '{"a": ' * 200_000))


def test_it_is_refused_with_everything_else_that_is_wrong(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {**LLAMA, "num_hidden_layers": 10**6})
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", GOOD), "none.jsonl"])
    found = read_and_check(run.path, [f"model.path={folder}"]).findings
    assert {"CF555", "CF501"} <= {finding.code for finding in found}
