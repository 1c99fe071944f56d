"""The lines of plain Python beside what was trained give the ids of the index, whatever the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tokenizer_cases as cases
from crossfoot.data.saved_tokenizer import save_tokenizer
from crossfoot.index.build import ensure_index
from index_cases import jsonl, written_run
from support.launching import ROOT

SHARED = ROOT.parent / "shared" / "data"
ROWS = [
    {"instruction": "介绍一下北京。", "input": "", "output": "首都"},
    {"instruction": " two  blanks", "input": "更多\n", "output": "b"},
    {"instruction": "<s> in what is </s> asked", "input": "[INST]", "output": "c"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.train_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))


def ids_by_plain_python(tmp_path: Path, tokenizer: str, rows: list[dict[str, str]], **data: Any) -> int:
    """Holds the lines against the index, record by record; returns how many were compared."""
    path = jsonl(tmp_path / "a.jsonl", *rows)
    run = written_run(tmp_path, [path], tokenizer=tokenizer, max_seq_len=4096, **data)
    index = ensure_index(run, [path], is_builder=True)
    (folder := tmp_path / "saved").mkdir()
    said = save_tokenizer(run.config, run.index_dir, str(folder))
    assert said is not None and said.eos_id == index.header.tokenizer.eos_id
    names: dict[str, Any] = {"folder": str(folder)}
    *loading, prompt, ids_of_it = said.ids
    exec("\n".join((said.imports, said.asked, *loading)), names)
    for i, row in enumerate(rows):
        here = {**names, "instruction": row["instruction"], "more": row["input"]}
        exec(f"{prompt}\n{ids_of_it}", here)
        ids, trained = index.sample(i)
        assert here["ids"] == ids[~trained].tolist(), row
        here["new"] = ids[trained].tolist()
        assert row["output"].strip() in eval(said.answer, here)
    return len(rows)


@pytest.mark.parametrize("name", sorted(cases.JSON))
def test_a_tokenizer_json(tmp_path: Path, name: str) -> None:
    assert ids_by_plain_python(tmp_path, cases.write(tmp_path / "own", cases.JSON[name]()), ROWS)


@pytest.mark.parametrize("name", sorted(cases.SENTENCEPIECE))
def test_a_tokenizer_model(tmp_path: Path, model: Path, name: str) -> None:
    files = {file: json.dumps(values) for file, values in cases.SENTENCEPIECE[name].items()}
    folder = cases.write(tmp_path / "own", files)
    Path(folder, "tokenizer.model").write_bytes(model.read_bytes())
    assert ids_by_plain_python(tmp_path, folder, ROWS)


def test_what_is_built_in(tmp_path: Path) -> None:
    assert ids_by_plain_python(tmp_path, "builtin:tiny", ROWS)


def test_what_only_transformers_reads(tmp_path: Path) -> None:
    settings = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    folder = cases.write(tmp_path / "own", cases.byte_level_files(**settings))
    assert ids_by_plain_python(tmp_path, folder, ROWS)


def test_a_template_of_special_tokens(tmp_path: Path) -> None:
    """[INST] is a token in the template's words; in what is asked nobody spells one out here."""
    tokens = {"extra_special_tokens": ["[INST]", "[/INST]"]}
    settings = json.loads(cases.JSON["tiny"]()["tokenizer_config.json"])
    files = {**cases.JSON["tiny"](), "tokenizer_config.json": json.dumps({**settings, **tokens})}
    assert ids_by_plain_python(tmp_path, cases.write(tmp_path / "own", files), ROWS[:2])


def test_pretraining(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "今天天气很好"})
    run = written_run(tmp_path, [path], task="pretrain")
    ids, _ = ensure_index(run, [path], is_builder=True).sample(0)
    said = save_tokenizer(run.config, run.index_dir, str(tmp_path))
    assert said is not None
    names: dict[str, Any] = {"folder": str(tmp_path)}
    exec("\n".join((said.imports, said.asked, *said.ids)), names)
    assert names["ids"] == ids[: len(names["ids"])].tolist() == [1, *names["ids"][1:]]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here with the Chinese-LLaMA-2 tokenizer")
def test_chinese_llama_2(tmp_path: Path) -> None:
    """AutoTokenizer of transformers 5 gives other ids for one prompt of nine."""
    records = json.loads((SHARED / "alpaca_zh_demo.json").read_text(encoding="utf-8"))
    rows = [{key: one[key] for key in ("instruction", "input", "output")} for one in records]
    assert ids_by_plain_python(tmp_path, str(SHARED / "chinese-llama-2-tokenizer"), rows) == 1000
