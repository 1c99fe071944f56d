"""A config.json that no model has is refused before anything is built of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from crossfoot.checks.model_folder import model_folder_findings
from crossfoot.planning.checking import find_all
from crossfoot.written.model_facts import read_config_json, read_model_facts
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
        ({"hidden_size": 10**6, "num_hidden_layers": 2000}, "the sizes are those of a model with some"),
        (
            {"num_local_experts": 60_000, "num_hidden_layers": 1900},
            "the sizes are those of a model with some",
        ),
        ({"text_config": {"num_hidden_layers": 10**6}}, "num_hidden_layers is 1,000,000"),
    ],
)
def test_sizes_beyond_sense(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = folder_of(tmp_path, {**LLAMA, **change})
    with pytest.raises(ValueError, match=f"^in config.json {words}"):
        read_config_json(Path(folder))
    assert read_model_facts(folder) is None
    (finding,) = model_folder_findings(folder)
    assert finding.code == "CF542"


def test_the_largest_models_are_models(tmp_path: Path) -> None:
    kimi = {"hidden_size": 7168, "num_hidden_layers": 61, "n_routed_experts": 384, "vocab_size": 163840}
    scout = {"max_position_embeddings": 10_485_760, "num_local_experts": 16}
    deep = {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126}
    for values in (LLAMA, kimi | {"moe_intermediate_size": 2048}, {**LLAMA, **scout}, {**LLAMA, **deep}):
        facts = read_model_facts(folder_of(tmp_path, values))
        assert facts is not None and facts.vocab_size == values["vocab_size"]


@pytest.mark.parametrize("name", ["pipe", "device"])
def test_a_file_without_an_end_is_not_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / "config.json"
    os.mkfifo(file) if name == "pipe" else file.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is not an ordinary file"):
        read_config_json(tmp_path)
    assert [one.code for one in model_folder_findings(str(tmp_path))] == ["CF542"]


def test_check_says_it_with_everything_else(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {**LLAMA, "num_hidden_layers": 10**6})
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", GOOD), "none.jsonl"])
    found = {finding.code for finding in find_all(run.path, [f"model.path={folder}"])}
    assert {"CF542", "CF501"} <= found
