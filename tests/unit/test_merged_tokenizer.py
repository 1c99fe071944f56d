"""AutoTokenizer of a merged folder makes the ids of the index, whatever the tokenizer; or says where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer

import tokenizer_cases as cases
from crossfoot.data.encoders import LibraryEncoder
from crossfoot.data.saved_tokenizer import save_tokenizer
from crossfoot.data.tokenizer import load_encoder, tokenizer_path
from crossfoot.index.build import ensure_index
from crossfoot.index.store import DataIndex
from crossfoot.merging.token_proof import TokenProof, prove_tokenizer
from index_cases import jsonl, written_run
from support.launching import ROOT

SHARED = ROOT.parent / "shared" / "data"
TURNS = [
    {"role": "user", "content": "介绍一下北京。"},
    {"role": "assistant", "content": "首都"},
    {"role": "user", "content": "and the weather?"},
    {"role": "assistant", "content": "今天天气很好"},
]
SPLIT = "special tokens are split"
"""No text holds a special token then, and a conversation as a whole is one text."""
ROWS: list[dict[str, Any]] = [
    {"instruction": "介绍一下北京。", "input": "", "output": "首都"},
    {"instruction": " two  blanks", "input": "更多\n", "output": "b"},
    {"messages": TURNS},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.train_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))


def proven(
    tmp_path: Path, tokenizer: str, rows: list[dict[str, Any]], **data: Any
) -> tuple[TokenProof, DataIndex]:
    """What is shown of the folder `saved`, and the index that it was held against."""
    path = jsonl(tmp_path / "a.jsonl", *rows)
    run = written_run(tmp_path, [path], tokenizer=tokenizer, **{"max_seq_len": 4096, **data})
    index = ensure_index(run, [path], is_builder=True)
    (folder := tmp_path / "saved").mkdir()
    save_tokenizer(run.config, run.index_dir, str(folder))
    encoder = load_encoder(tokenizer_path(run.config), run.index_dir)
    return prove_tokenizer(str(folder), index, cast(LibraryEncoder, encoder)), index


@pytest.mark.parametrize("name", sorted(cases.JSON))
def test_a_tokenizer_json(tmp_path: Path, name: str) -> None:
    found, index = proven(tmp_path, cases.write(tmp_path / "own", cases.JSON[name]()), ROWS)
    assert found.texts == found.conversations == index.num_samples == len(ROWS)
    assert found.differing == 0 and found.holds is (name != SPLIT)


@pytest.mark.parametrize("name", sorted(cases.SENTENCEPIECE))
def test_a_tokenizer_model(tmp_path: Path, model: Path, name: str) -> None:
    files = {file: json.dumps(values) for file, values in cases.SENTENCEPIECE[name].items()}
    folder = cases.write(tmp_path / "own", files)
    Path(folder, "tokenizer.model").write_bytes(model.read_bytes())
    found, _ = proven(tmp_path, folder, ROWS)
    assert found.differing == 0 and found.conversations == len(ROWS) and found.holds is (name != SPLIT)


def test_pieces_of_one_score(tmp_path: Path, model: Path) -> None:
    """As Chinese-LLaMA-2 added them: sentencepiece takes the leftmost, ranked merges cannot."""
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    proto = pb2.ModelProto.FromString(model.read_bytes())
    known = {piece.piece for piece in proto.pieces}
    for piece in ("北京", "京北", "天气", "气天", "天天"):
        if piece not in known:
            proto.pieces.add(piece=piece, score=0.0)
    folder = cases.write(tmp_path / "own", {"tokenizer_config.json": json.dumps(cases.LLAMA)})
    Path(folder, "tokenizer.model").write_bytes(proto.SerializeToString())
    rows = [
        {"instruction": "北京北京", "input": "", "output": text}
        for text in ("天气天气", "京北京北", "天天气天")
    ]
    found, index = proven(tmp_path, folder, rows)
    assert found.holds and found.tokenizer_class == "SentencePieceBackend"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer("a").input_ids[0] == index.header.tokenizer.bos_ids[0], "a begin token is put in front"


def test_documents(tmp_path: Path) -> None:
    rows = [{"text": text * 5} for text in ("今天天气很好", "red river. ", "月山水。")]
    found, _ = proven(tmp_path, "builtin:tiny", rows, task="pretrain", max_seq_len=32)
    assert found.holds and found.texts == 3 and found.conversations == 0


def test_a_text_that_spells_out_a_token_is_told(tmp_path: Path) -> None:
    """It was trained as text, and every AutoTokenizer makes the token of it."""
    row = {"instruction": "what is </s>?", "input": "", "output": "an end"}
    found, _ = proven(tmp_path, "builtin:tiny", [*ROWS, row])
    assert (found.texts, found.differing, found.holds) == (4, 1, False)
    ((where, trained, other),) = found.first
    assert where.startswith(f"{tmp_path}/a.jsonl:4, from token ") and other[0] == 2 != trained[0]


def test_files_that_have_changed_are_not_compared(tmp_path: Path) -> None:
    _, index = proven(tmp_path, "builtin:tiny", ROWS)
    Path(index.files[0]).write_text("{}\n")
    encoder = cast(LibraryEncoder, load_encoder("builtin:tiny", str(tmp_path)))
    assert "is not what was tokenised" in prove_tokenizer(str(tmp_path / "saved"), index, encoder).why
    Path(index.files[0]).unlink()
    assert "is not there, seen from" in prove_tokenizer(str(tmp_path / "saved"), index, encoder).why


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here with the Chinese-LLaMA-2 tokenizer")
def test_chinese_llama_2(tmp_path: Path) -> None:
    records = json.loads((SHARED / "alpaca_zh_demo.json").read_text(encoding="utf-8"))
    rows = [{key: one[key] for key in ("instruction", "input", "output")} for one in records]
    found, index = proven(tmp_path, str(SHARED / "chinese-llama-2-tokenizer"), rows)
    assert found.holds and found.texts == index.num_samples == len(rows) and found.conversations == 32
