"""A tokenizer that is read by its own library gives the tokens and the facts that transformers gives."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import tokenizer_cases as cases
from crossfoot.data import encoders
from crossfoot.data.samples import Encoder, Placed
from crossfoot.data.tokenizer import encoder_at_hand, load_encoder
from crossfoot.findings.finding import Refused
from crossfoot.index.reference_tokenizers import (
    NotComparable,
    Piece,
    fast_reference,
    load_reference,
    settings_of,
)
from index_cases import written_run
from support.launching import ROOT

CHINESE = ROOT.parent / "shared" / "data" / "chinese-llama-2-tokenizer"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.train_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))


def oracle(folder: str) -> Any:
    """The tokenizer of transformers; of a tokenizer.model, the class that leaves it to sentencepiece."""
    from transformers import AutoTokenizer
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    if os.path.isfile(os.path.join(folder, "tokenizer.model")):
        return SentencePieceBackend.from_pretrained(folder, legacy=True)
    return AutoTokenizer.from_pretrained(folder)


def rows_of(tokenizer: Any) -> int:
    """The highest id that is no padding token behind the vocabulary, plus one."""
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    padding = {tokenizer.pad_token_id} - others
    ids = tokenizer.get_vocab().values()
    return 1 + max(number for number in ids if number < tokenizer.vocab_size or number not in padding)


def assert_same(encoder: Encoder, tokenizer: Any, texts: list[str]) -> None:
    facts = encoder.facts
    assert (facts.eos_id, facts.vocabulary) == (tokenizer.eos_token_id, rows_of(tokenizer))
    bare = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    found = encoder.encode(texts)
    assert {text: ids for text, ids in zip(texts, found, strict=True)} == dict(zip(texts, bare, strict=True))


@pytest.mark.parametrize("name", cases.JSON)
def test_tokenizer_json_is_what_transformers_makes_of_it(tmp_path: Path, name: str) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.JSON[name]())
    encoder, tokenizer = load_encoder(folder, str(tmp_path), special_text="tokens"), oracle(folder)
    assert_same(encoder, tokenizer, cases.texts())
    assert encoder.facts.library == f"tokenizers {version('tokenizers')}"
    begins = tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
    assert encoder.facts.bos_ids == ((tokenizer.bos_token_id,) if begins else ())


@pytest.mark.parametrize("name", cases.SENTENCEPIECE)
def test_tokenizer_model_is_what_transformers_makes_of_it(tmp_path: Path, model: Path, name: str) -> None:
    settings = cases.SENTENCEPIECE[name]
    folder = cases.write(tmp_path / "tokenizer", {file: json.dumps(text) for file, text in settings.items()})
    shutil.copy(model, os.path.join(folder, "tokenizer.model"))
    encoder, tokenizer = load_encoder(folder, str(tmp_path), special_text="tokens"), oracle(folder)
    assert_same(encoder, tokenizer, cases.texts())
    assert encoder.facts.library == f"sentencepiece {version('sentencepiece')}"
    begins = (
        settings["tokenizer_config.json"].get("add_bos_token", True) and tokenizer.bos_token_id is not None
    )
    assert encoder.facts.bos_ids == ((1,) if begins else ())


def llama_folder(tmp_path: Path, model: Path, *, is_old: bool, name: str) -> str:
    files = {
        "tokenizer.json": cases.llama_json(model, is_old=is_old).to_str(),
        "tokenizer_config.json": json.dumps({**cases.LLAMA, "tokenizer_class": name, "legacy": is_old}),
    }
    return cases.write(tmp_path / "tokenizer", files)


@pytest.mark.parametrize(
    ("is_old", "name"),
    [(True, "PreTrainedTokenizerFast"), (False, "PreTrainedTokenizerFast"), (False, "LlamaTokenizer")],
)
def test_a_llama_tokenizer_json(tmp_path: Path, model: Path, is_old: bool, name: str) -> None:
    folder = llama_folder(tmp_path, model, is_old=is_old, name=name)
    encoder = load_encoder(folder, str(tmp_path), special_text="tokens")
    assert_same(encoder, oracle(folder), cases.texts())
    assert encoder.facts.bos_ids == (1,)


def test_an_old_llama_tokenizer_json_is_read_as_it_is(tmp_path: Path, model: Path) -> None:
    """It says what sentencepiece does. transformers 5 builds another one from its vocabulary and merges."""
    folder = llama_folder(tmp_path, model, is_old=True, name="LlamaTokenizer")
    beside = cases.write(tmp_path / "beside", {"tokenizer_config.json": json.dumps(cases.LLAMA)})
    shutil.copy(model, os.path.join(beside, "tokenizer.model"))
    encoder, texts = load_encoder(folder, str(tmp_path), special_text="tokens"), cases.texts()
    assert encoder.encode(texts) == load_encoder(beside, str(tmp_path), special_text="tokens").encode(texts)
    built_anew = oracle(folder)
    differ = [
        text
        for text, ids in zip(texts, encoder.encode(texts), strict=True)
        if built_anew.encode(text, add_special_tokens=False) != ids
    ]
    assert " a" in differ
    blank_at_a_start = re.compile("(^|<s>|</s>|<unk>)[ ▁]")
    assert all(blank_at_a_start.search(text) for text in differ)


@pytest.mark.parametrize("name", ["tiny", "pad added by name", "added tokens with flags"])
def test_many_texts_are_encoded_as_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.JSON[name]())
    encoder, texts = load_encoder(folder, str(tmp_path), special_text="tokens"), cases.texts()
    few = encoder.encode(texts)
    monkeypatch.setattr(encoders, "FEW_CHARACTERS", 0)
    assert encoder.encode(texts) == few


@pytest.mark.skipif(not CHINESE.is_dir(), reason="../shared is not beside this repository")
def test_chinese_llama_2(tmp_path: Path) -> None:
    encoder = load_encoder(str(CHINESE), str(tmp_path), special_text="tokens")
    assert_same(encoder, oracle(str(CHINESE)), cases.texts())
    assert (encoder.facts.bos_ids, encoder.facts.eos_id, encoder.facts.vocabulary) == ((1,), 2, 55296)


def test_what_only_transformers_reads(tmp_path: Path) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.byte_level_files())
    encoder = load_encoder(folder, str(tmp_path), special_text="tokens")
    assert_same(encoder, oracle(folder), cases.texts())
    assert encoder.facts.library == f"transformers {version('transformers')}"
    assert encoder_at_hand(folder, str(tmp_path)) is None


def test_an_end_token_that_only_the_class_names(tmp_path: Path) -> None:
    """GPT-2's files do not name it: its class in transformers does."""
    files = cases.byte_level_files()
    folder = cases.write(tmp_path / "tokenizer", files)
    oracle(folder).save_pretrained(str(tmp_path / "saved"))
    shutil.copy(tmp_path / "saved" / "tokenizer.json", folder)
    assert encoder_at_hand(folder, str(tmp_path)) is None
    encoder = load_encoder(folder, str(tmp_path), special_text="tokens")
    assert (encoder.facts.eos_id, encoder.facts.library.split()[0]) == (260, "transformers")
    assert_same(encoder, oracle(folder), cases.texts())


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    files = {
        "tokenizer_config.json": json.dumps(settings),
        "own.py": f"open({str(mark)!r}, 'w')\nclass Own: pass\n",
        "vocab.txt": "a\n",
    }
    folder = cases.write(tmp_path / "tokenizer", files)
    with pytest.raises(Refused, match="CF520"):
        load_encoder(folder, str(tmp_path))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["tiny", "old files", "pad added in the file"])
def test_the_encoder_at_hand_is_the_encoder(tmp_path: Path, name: str) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.JSON[name]())
    light, texts = encoder_at_hand(folder, str(tmp_path)), cases.texts()
    encoder = load_encoder(folder, str(tmp_path))
    assert light is not None and light.facts == encoder.facts
    assert light.encode(texts) == encoder.encode(texts)


def test_the_built_in_one_is_at_hand_without_a_trace(tmp_path: Path) -> None:
    light = encoder_at_hand("builtin:tiny", str(tmp_path / "index"))
    assert light is not None and not (tmp_path / "index").exists()
    assert light.facts == load_encoder("builtin:tiny", str(tmp_path)).facts
    assert light.encode(["</s>é"]) == load_encoder("builtin:tiny", str(tmp_path)).encode(["</s>é"])


INDEX = """
import sys
from crossfoot.written.run_file import load_run
from crossfoot.index.build import ensure_index
run = load_run(sys.argv[1], [])
index = ensure_index(run, list(run.config.data.train), is_builder=True)
print(index.num_samples, {"torch", "transformers", "datasets", "pandas"} & set(sys.modules))
"""


@pytest.mark.parametrize("kind", ["json", "model"])
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "txt"])
def test_indexing_brings_no_torch(tmp_path: Path, model: Path, kind: str, ending: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = str(tmp_path / "tokenizer")
    if kind == "json":
        cases.write(Path(folder), cases.JSON["added tokens with flags"]())
    else:
        cases.write(Path(folder), {"tokenizer_config.json": json.dumps(cases.LLAMA)})
        shutil.copy(model, os.path.join(folder, "tokenizer.model"))
    rows = [{"text": f"document {number}", "instruction": "a", "output": "b"} for number in range(8)]
    file = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif ending == "json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("\n".join(row["text"] if ending == "txt" else json.dumps(row) for row in rows))
    task = "pretrain" if ending == "txt" else "sft"
    run = written_run(tmp_path, [str(file)], tokenizer=folder, task=task)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", INDEX, run.path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split(maxsplit=1)[1:] == ["set()\n"], done.stdout + done.stderr


def test_transformers_is_asked_for_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = cases.write(tmp_path / "tokenizer", cases.byte_level_files())
    with pytest.raises(Refused) as caught:
        load_encoder(folder, str(tmp_path))
    assert "pip install" in caught.value.findings[0].label


SPELLED = [
    "<s>",
    "</s>",
    "<unk>",
    "<new>",
    "<left>",
    "<right>",
    "[PAD]",
    "<word>",
    "<extra>",
    "<img>",
    "</S>",
]
TEXTS = 120
AROUND = ["", " ", "a", " b", "c ", "字\n", "<0x0A>", "[INST]"]


def spoken(seed: int, words: list[str]) -> list[Piece]:
    """Template and data in turn, both with special tokens and blanks in them."""
    draw = random.Random(seed)
    return [
        Piece(
            "".join(draw.choice(words) + draw.choice(AROUND) for _ in range(draw.randint(0, 3))),
            bool(part % 2),
        )
        for part in range(draw.randint(1, 5))
    ]


def encoded(encoder: Encoder, pieces: list[Piece]) -> Placed:
    own, at = [], 0
    for text, is_template in pieces:
        own += [(at, at + len(text))] if is_template else []
        at += len(text)
    whole = "".join(text for text, _ in pieces)
    (ids,) = encoder.encode([whole], [own])
    ((again, places),) = encoder.encode_placed([whole], [own])
    assert again == ids and len(places) == len(ids)
    return ids, places


def hold_against_reference(
    folder: str, encoder: Encoder, words: list[str], special_text: str = "text"
) -> int:
    """How many of many texts the witness, which shares no code with the encoder, could encode: all to the
    same.
    """
    reading = Path(folder, "reading.json")
    if encoder.reading is not None:
        reading.write_text(encoder.reading, encoding="utf-8")
        reference = fast_reference(str(reading), settings_of(folder), encoder.facts, special_text)
    else:
        reference = load_reference(folder, encoder.facts, special_text)
    compared = 0
    for seed in range(TEXTS):
        pieces = spoken(seed, words)
        try:
            tokens = reference.encode(pieces)
        except NotComparable:
            continue
        compared += 1
        ids, places = encoded(encoder, pieces)
        assert ids == [one.id for one in tokens], pieces
        assert places == [(one.begin, one.end) for one in tokens], pieces
    return compared


@pytest.mark.parametrize("name", cases.JSON)
def test_only_the_templates_words_make_special_tokens(tmp_path: Path, name: str) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.JSON[name]())
    encoder = load_encoder(folder, str(tmp_path))
    assert hold_against_reference(folder, encoder, SPELLED) > TEXTS // 3
    splits = name == "special tokens are split"
    for token, number in encoder.special.ids.items():
        assert (number in encoded(encoder, [Piece(f"a{token}b", False)])[0]) is False
        assert (number in encoded(encoder, [Piece(f"a {token} b", True)])[0]) is not splits
        both = encoded(encoder, [Piece("x", False), Piece(f" {token} ", True), Piece(f"y{token}", False)])[0]
        assert both.count(number) == (0 if splits else 1)


@pytest.mark.parametrize("is_old", [True, False])
def test_the_template_of_a_llama_tokenizer_json(tmp_path: Path, model: Path, is_old: bool) -> None:
    """A blank is put before a text's first word alone (Metaspace) or before each part (a normalizer)."""
    folder = llama_folder(tmp_path, model, is_old=is_old, name="PreTrainedTokenizerFast")
    assert hold_against_reference(folder, load_encoder(folder, str(tmp_path)), SPELLED) == TEXTS


@pytest.mark.parametrize("name", cases.SENTENCEPIECE)
def test_special_tokens_that_data_spells_to_sentencepiece(tmp_path: Path, model: Path, name: str) -> None:
    import sentencepiece

    files = {file: json.dumps(text) for file, text in cases.SENTENCEPIECE[name].items()}
    folder = cases.write(tmp_path / "tokenizer", files)
    shutil.copy(model, os.path.join(folder, "tokenizer.model"))
    encoder = load_encoder(folder, str(tmp_path))
    for special_text in ("text", "tokens"):
        other = load_encoder(folder, str(tmp_path), special_text=special_text)  # type: ignore[arg-type]
        assert hold_against_reference(folder, other, SPELLED, special_text) > TEXTS // 15
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for token, number in encoder.special.ids.items():
        assert encoder.encode([f"a{token}b"]) == [processor.encode(f"a{token}b")]
        if name == "added tokens with flags":
            continue
        parts = [Piece("x ", False), Piece(f"{token}", True), Piece(f"y{token}", False)]
        cut = [*processor.encode("x "), number, *processor.encode(f"y{token}")]
        whole = processor.encode(f"x {token}y{token}")
        assert encoded(encoder, parts)[0] == (whole if name == "special tokens are split" else cut)


@pytest.mark.parametrize("name", cases.JSON)
def test_text_without_special_tokens_has_the_tokens_of_before(tmp_path: Path, name: str) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.JSON[name]())
    as_text = load_encoder(folder, str(tmp_path))
    as_tokens = load_encoder(folder, str(tmp_path), special_text="tokens")
    texts = [text for text in cases.texts() if not as_text.special.spellings.in_data(text)]
    assert len(texts) > 100 and as_text.encode(texts) == as_tokens.encode(texts)


def test_what_only_transformers_reads_is_text_too(tmp_path: Path) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.byte_level_files())
    encoder = load_encoder(folder, str(tmp_path))
    assert encoder.special.ids == {"<|endoftext|>": 260}
    assert hold_against_reference(folder, encoder, ["<|endoftext|>", "x"]) == TEXTS
    assert 260 in encoded(encoder, [Piece("<|endoftext|>", True)])[0]
    assert 260 not in encoded(encoder, [Piece("a<|endoftext|>b", False)])[0]


def test_an_end_token_that_is_no_special_token_of_its_file(tmp_path: Path) -> None:
    tokens = {"id": 260, "content": "<|im_end|>", "special": False}
    settings = {**cases.SETTINGS, "eos_token": "<|im_end|>", "added_tokens_decoder": cases.decoder(tokens)}
    files = {
        "tokenizer.json": cases.JSON["tiny"]()["tokenizer.json"],
        "tokenizer_config.json": json.dumps(settings),
    }
    folder = cases.write(tmp_path / "tokenizer", files)
    encoder = load_encoder(folder, str(tmp_path))
    assert encoder.facts.eos_id == 260 and 260 not in encoder.encode(["a<|im_end|>b"])[0]
    assert load_encoder(folder, str(tmp_path), special_text="tokens").encode(["a<|im_end|>b"])[0][1] == 260


def test_an_added_token_that_is_not_special_is_a_token_everywhere(tmp_path: Path) -> None:
    """`<think>` of a model that thinks: part of what it writes."""
    folder = cases.write(tmp_path / "tokenizer", cases.JSON["added tokens with flags"]())
    encoder = load_encoder(folder, str(tmp_path))
    assert encoder.encode(["a <word> b"]) == load_encoder(
        folder, str(tmp_path), special_text="tokens"
    ).encode(["a <word> b"])
    assert 262 in encoder.encode(["a <word> b"])[0]


def test_a_vocabulary_that_has_no_other_tokens_for_it(tmp_path: Path) -> None:
    folder = cases.write(tmp_path / "tokenizer", cases.unigram_files())
    encoder = load_encoder(folder, str(tmp_path))
    (ids,) = encoder.encode(["a</s>b"])
    assert encoder.special.surviving("a</s>b", (), ids) == "</s>"
    (ids,) = encoder.encode(["abc"])
    assert encoder.special.surviving("abc", (), ids) is None
