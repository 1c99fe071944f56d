"""Tokenizer and model held against each other, from their files alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import tokenizer_cases as cases
from crossfoot.data.tokenizer import load_encoder
from crossfoot.data.tokenizer_files import TokenizerFiles, read_tokenizer_files
from crossfoot.findings.finding import Finding
from crossfoot.planning.checking import find_all
from index_cases import GOOD, jsonl
from support.launching import ROOT

CHINESE = ROOT.parent / "shared" / "data" / "chinese-llama-2-tokenizer"
MODEL = {"model_type": "llama", "vocab_size": 260, "eos_token_id": 2, "bos_token_id": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.train_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))


def assert_same(folder: str, files: TokenizerFiles) -> None:
    encoder = load_encoder(folder, folder)
    facts = encoder.facts
    assert files.end is not None
    assert (files.rows, files.end.id) == (facts.vocabulary, facts.eos_id)
    assert ((files.begin.id,) if files.begin else ()) == facts.bos_ids
    assert files.special == frozenset(encoder.special.ids)


@pytest.mark.parametrize("name", cases.JSON)
def test_the_files_say_what_the_encoder_says(tmp_path: Path, name: str) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.JSON[name]())
    assert_same(folder, read_tokenizer_files(folder))


@pytest.mark.parametrize("name", cases.SENTENCEPIECE)
def test_the_files_say_what_sentencepiece_says(tmp_path: Path, model: Path, name: str) -> None:
    files = {file: json.dumps(text) for file, text in cases.SENTENCEPIECE[name].items()}
    folder = cases.write(tmp_path / "tokenizer", files)
    shutil.copy(model, os.path.join(folder, "tokenizer.model"))
    assert_same(folder, read_tokenizer_files(folder))


@pytest.mark.skipif(not CHINESE.is_dir(), reason="../shared is not beside this repository")
def test_chinese_llama_2() -> None:
    files = read_tokenizer_files(str(CHINESE))
    assert (files.rows, files.end and files.end.id, files.begin and files.begin.id) == (55296, 2, 1)
    assert files.special == {"<s>", "</s>", "<unk>", "<pad>"} and files.chat_template is None


def found(tmp_path: Path, config: dict[str, Any] | None = None, **files: Any) -> dict[str, Finding]:
    """The findings of a model with the tiny tokenizer, whose files are changed: name to what it then says. A
    generation_config is written where it is given."""
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    written = {name: json.loads(text) for name, text in cases.JSON["tiny"]().items()}
    written["config.json"] = {**MODEL, **(config or {})}
    for key, change in files.items():
        name = f"{key}.json"
        written[name] = {**written.get(name, {}), **change}
    for name, values in written.items():
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return checked(tmp_path)


def checked(tmp_path: Path, **data: Any) -> dict[str, Finding]:
    rows = [{**GOOD, "output": str(n), "text": str(n)} for n in range(4)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    values = {
        "run": {"name": "t", "dir": str(tmp_path / "runs" / "t")},
        "model": {"path": str(tmp_path / "m")},
        "data": {"train": [path], "max_seq_len": 128, **data},
        "batch": {"micro_batch_size": 1, "grad_accum_steps": 1},
        "cluster": {"num_nodes": 1, "gpus_per_node": 1},
        "lr": {"reference": 0.0001},
        "train": {"max_steps": 2},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(values), encoding="utf-8")
    return {one.code: one for one in find_all(str(tmp_path / "c.yaml"))}


OURS = {f"CF{number}" for number in (520, 521, 540, *range(586, 595))}


def test_what_agrees_is_not_spoken_of(tmp_path: Path) -> None:
    assert not OURS & set(found(tmp_path))
    many = {"eos_token_id": [7, 2]}
    assert not OURS & set(found(tmp_path, many, generation_config={"eos_token_id": [2, 8]}))
    assert not OURS & set(found(tmp_path, {"eos_token_id": None, "bos_token_id": None}))


@pytest.mark.parametrize(
    ("rows", "is_said"), [(260, False), (320, False), (388, False), (389, True), (512, True), (32000, True)]
)
def test_rows_without_tokens(tmp_path: Path, rows: int, is_said: bool) -> None:
    assert ("CF588" in found(tmp_path, {"vocab_size": rows})) is is_said


def test_padding_of_published_models_is_passed_over() -> None:
    """(tokens, rows) of phi-2, Qwen2.5-7B, Qwen2.5-0.5B, DeepSeek-V3, Command-R, pythia-12b, OLMo."""
    from crossfoot.checks.rules_tokenizer import PADDED_ROWS, PADDED_SHARE

    padded = [(50295, 51200), (151665, 152064), (151665, 151936), (128815, 129280), (255029, 256000)]
    for tokens, rows in [*padded, (50277, 50688), (50280, 50304)]:
        assert rows - tokens <= max(PADDED_ROWS, PADDED_SHARE * rows)
    for tokens, rows in [(32000, 55296), (32000, 32768), (49953, 55296), (32000, 128256)]:
        assert rows - tokens > max(PADDED_ROWS, PADDED_SHARE * rows)


def test_more_tokens_than_rows_is_said_of_the_models_own_tokenizer_too(tmp_path: Path) -> None:
    found(tmp_path, {"vocab_size": 200})
    values = json.loads((tmp_path / "c.yaml").read_text())
    (tmp_path / "c.yaml").write_text(json.dumps({**values, "lora": {}}))
    assert "CF540" in {one.code for one in find_all(str(tmp_path / "c.yaml"))}


@pytest.mark.parametrize(
    ("config", "generation", "severity"),
    [
        ({"eos_token_id": 99}, None, "warning"),
        ({"eos_token_id": [98, 99]}, None, "warning"),
        ({}, {"eos_token_id": 99}, "warning"),
        ({"eos_token_id": 99}, {"eos_token_id": [99]}, "warning"),
        ({"eos_token_id": 99}, {"eos_token_id": [2, 99]}, "note"),
        ({"eos_token_id": 99}, {}, "warning"),
        ({"text_config": {"eos_token_id": 99, "vocab_size": 260}, "eos_token_id": None}, None, "warning"),
    ],
)
def test_end_tokens(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, severity: str
) -> None:
    files = {} if generation is None else {"generation_config": generation}
    finding = found(tmp_path, config, **files)["CF589"]
    assert finding.severity == severity and "</s> (2)" in finding.title and "99" in finding.title


def test_begin_tokens(tmp_path: Path) -> None:
    assert "<s> (1), and the model with 5" in found(tmp_path, {"bos_token_id": 5})["CF590"].title
    bare = json.loads(cases.JSON["template of the end"]()["tokenizer.json"])
    assert "CF590" not in found(tmp_path, {"bos_token_id": 5}, tokenizer=bare)  # none is put before a text


def test_the_unknown_token_as_end(tmp_path: Path) -> None:
    said = {"eos_token": "<unk>"}
    assert "CF592" in found(tmp_path, tokenizer_config=said)
    old = found(tmp_path, special_tokens_map=said)  # which overrules the other, as for transformers
    assert "CF592" in old and "CF589" in old
    gpt2 = json.loads(cases.JSON["tiny"]()["tokenizer.json"])
    gpt2["model"]["unk_token"] = None  # knows every byte: GPT-2 names one token for both
    both = {"eos_token": "</s>", "unk_token": "</s>"}
    assert "CF592" not in found(tmp_path, tokenizer=gpt2, tokenizer_config=both)


def test_a_stale_tokenizer_json(tmp_path: Path, model: Path) -> None:
    found(tmp_path)
    shutil.copy(model, tmp_path / "m" / "tokenizer.model")
    finding = checked(tmp_path)["CF591"]
    assert "tokenizer.json has 260 tokens, and tokenizer.model beside it 1,500" in finding.title
    (tmp_path / "m" / "tokenizer.json").write_text(cases.llama_json(model, is_old=True).to_str())
    settings = {**cases.LLAMA, "add_bos_token": True}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "CF591" not in checked(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"chat_template": "<|im_start|>"}},
        {"tokenizer_config": {"chat_template": [{"name": "default", "template": "<|im_start|>"}]}},
        {"tokenizer_config": {"chat_template": "[INST] [/INST]"}},  # Mistral's
    ],
)
def test_another_chat_template(tmp_path: Path, files: dict[str, Any]) -> None:
    assert found(tmp_path, **files)["CF593"].label == "chat_template in tokenizer_config.json"
    assert "CF593" not in checked(tmp_path, task="pretrain")
    (tmp_path / "m" / "chat_template.jinja").write_text("<|im_start|>")
    assert checked(tmp_path)["CF593"].label == "chat_template in chat_template.jinja"
    (tmp_path / "m" / "chat_template.jinja").write_text("[INST] <<SYS>> <</SYS>> [/INST]")
    assert "CF593" not in checked(tmp_path)


def test_a_chat_template_that_only_the_models_folder_has(tmp_path: Path) -> None:
    found(tmp_path, tokenizer_config={"chat_template": "<|im_start|>"})
    values = json.loads((tmp_path / "c.yaml").read_text())
    (tmp_path / "c.yaml").write_text(json.dumps({**values, "tokenizer": {"path": "builtin:tiny"}}))
    finding = next(one for one in find_all(str(tmp_path / "c.yaml")) if one.code == "CF593")
    assert "model" in finding.title


def own_tokenizer(tmp_path: Path, folder: str) -> dict[str, Finding]:
    """The findings when the run has this tokenizer, and the model's folder its own."""
    values = json.loads((tmp_path / "c.yaml").read_text())
    (tmp_path / "c.yaml").write_text(json.dumps({**values, "tokenizer": {"path": folder}}))
    return {one.code: one for one in find_all(str(tmp_path / "c.yaml"))}


def test_a_tokenizer_of_the_same_size_with_other_ids(tmp_path: Path) -> None:
    found(tmp_path)
    other = json.loads(cases.JSON["tiny"]()["tokenizer.json"])
    ids = other["model"]["vocab"]
    letters = [piece for piece in ids if ids[piece] > 3]
    other["model"]["vocab"] = {**ids, **dict(zip(letters, reversed(range(4, 260)), strict=True))}
    files = {**cases.JSON["tiny"](), "tokenizer.json": json.dumps(other)}
    finding = own_tokenizer(tmp_path, cases.write(tmp_path / "other", files))["CF588"]
    assert finding.title.startswith("256 of 260 tokens of the model's own tokenizer have another id")


def test_a_tokenizer_that_was_extended_keeps_the_ids(tmp_path: Path) -> None:
    found(tmp_path)
    more = json.loads(cases.JSON["tiny"]()["tokenizer.json"])
    more["model"]["vocab"] |= {f"word{n}": 260 + n for n in range(100)}
    files = {**cases.JSON["tiny"](), "tokenizer.json": json.dumps(more)}
    assert "CF588" not in own_tokenizer(tmp_path, cases.write(tmp_path / "more", files))


def test_code_of_its_own(tmp_path: Path) -> None:
    own = {"auto_map": {"AutoTokenizer": ["own.Own", None]}}
    assert found(tmp_path, tokenizer_config=own)["CF594"].severity == "warning"
    assert found(tmp_path, own)["CF594"].severity == "warning"  # config.json names it
    (tmp_path / "m" / "tokenizer.json").unlink()
    (tmp_path / "m" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    finding = checked(tmp_path)["CF594"]
    assert finding.severity == "error" and "own.Own" in finding.title
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"),
        ("tokenizer.json", '{"model": {"type": "BPE", "voc'),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": 3}'),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}, "merges": []}}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("tokenizer.model", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"),
        ("tokenizer.model", ""),
    ],
)
def test_a_broken_tokenizer_is_said_by_check(tmp_path: Path, name: str, content: str) -> None:
    found(tmp_path)
    (tmp_path / "m" / name).write_text(content)
    if name == "tokenizer.model":
        (tmp_path / "m" / "tokenizer.json").unlink()
    finding = checked(tmp_path)["CF520"]
    assert finding.severity == "error" and finding.label


def test_a_tokenizer_model_without_an_end_token(tmp_path: Path, model: Path) -> None:
    found(tmp_path)
    (tmp_path / "m" / "tokenizer.json").unlink()
    (tmp_path / "m" / "tokenizer_config.json").write_text("{}")
    shutil.copy(model, tmp_path / "m" / "tokenizer.model")
    assert "CF521" in checked(tmp_path)


def test_a_vocabulary_that_only_transformers_reads(tmp_path: Path) -> None:
    named = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    folder = cases.write(tmp_path / "tokenizer", cases.byte_level_files(**named))
    files = read_tokenizer_files(folder)
    assert (files.rows, files.end and files.end.id, dict(files.sizes)) == (261, 260, {"vocab.json": 261})
    assert_same(folder, files)
