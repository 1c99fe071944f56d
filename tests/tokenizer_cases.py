"""Tokenizer folders of every kind that is read, made small from the demo's texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossfoot.data.tiny_tokenizer import SETTINGS, tiny_tokenizer
from support.launching import ROOT

TOKEN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def texts() -> list[str]:
    """The demo's texts, and ones that are made of special tokens, blanks and odd characters."""
    odd = ["", " ", "a", " a", "  b", "\n", "x\ny \t", "😀\u2028é", "[INST]", "<0x0A>", "▁", "a</s>b", "<s>"]
    specials = ["<s>", "</s>", "<unk>", "<new>", "<left>", "<right>", "[PAD]", "<word>", "<extra>", "<img>"]
    joined = [f"{a}{gap}{b}{gap}c" for a in ("a", *specials) for b in specials for gap in ("", " ", "  ")]
    return [*demo_texts(), *odd, *joined]


def demo_texts() -> list[str]:
    rows = [
        json.loads(line)
        for name in ("en", "zh")
        for line in (ROOT / "data" / "demo" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [row[name] for row in rows for name in ("instruction", "output")]


def train_sentencepiece(folder: Path) -> Path:
    """A tokenizer.model of 1500 pieces that keeps blanks and falls back to bytes, as Llama's does."""
    import sentencepiece

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(demo_texts()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "model"),
        vocab_size=1500,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.98,
        minloglevel=2,
        num_threads=1,
    )
    return folder / "model.model"


def llama_json(model: Path, *, is_old: bool) -> Any:
    """The tokenizer.json of a sentencepiece model: with a normalizer as Llama 2 came, or with Metaspace."""
    import sentencepiece
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers.tokenization_utils_base import generate_merges

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    scores = {piece: processor.get_score(number) for number, piece in enumerate(pieces)}
    merges = generate_merges(vocabulary, scores)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if is_old:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def _json(tokenizer: Any, settings: dict[str, Any], **files: dict[str, Any]) -> dict[str, str]:
    texts = {name.replace("_json", ".json"): json.dumps(value) for name, value in files.items()}
    return {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(settings), **texts}


def _template(single: str) -> Any:
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    special = [("<s>", 1), ("</s>", 2), ("<pad>", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return tokenizer


def _more(*contents: str, **flags: Any) -> Any:
    from tokenizers import AddedToken

    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(content, **{**TOKEN, **flags}) for content in contents])
    return tokenizer


def _padded() -> Any:
    tokenizer = _more("[PAD]")
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8, pad_token="[PAD]", pad_id=260)
    return tokenizer


def decoder(*tokens: dict[str, Any]) -> dict[str, Any]:
    return {str(token.pop("id")): {**TOKEN, **token} for token in map(dict, tokens)}


ADDED = decoder(
    {"id": 0, "content": "<unk>"},
    {"id": 1, "content": "<s>"},
    {"id": 2, "content": "</s>"},
    {"id": 1500, "content": "<left>", "lstrip": True},
    {"id": 1501, "content": "<right>", "rstrip": True},
    {"id": 1502, "content": "<word>", "single_word": True, "special": False},
    {"id": 1504, "content": "[PAD]"},
)
OLD_MAP = {
    "bos_token": {**TOKEN, "content": "<s>"},
    "eos_token": {**TOKEN, "content": "</s>"},
    "unk_token": "<unk>",
    "pad_token": "[PAD]",
}

JSON: dict[str, Callable[[], dict[str, str]]] = {
    "tiny": lambda: _json(tiny_tokenizer(), SETTINGS),
    "flag add_bos false": lambda: _json(tiny_tokenizer(), {**SETTINGS, "add_bos_token": False}),
    "flag add_bos without a template": lambda: _json(_template("$A"), {**SETTINGS, "add_bos_token": True}),
    "flag add_eos": lambda: _json(tiny_tokenizer(), {**SETTINGS, "add_eos_token": True}),
    "template of both ends": lambda: _json(_template("<s> $A </s>"), SETTINGS),
    "template of the end": lambda: _json(_template("$A </s>"), SETTINGS),
    "template of another token": lambda: _json(_template("<pad> $A"), SETTINGS),
    "pad added by name": lambda: _json(tiny_tokenizer(), {**SETTINGS, "pad_token": "[PAD]"}),
    "pad added in the file": lambda: _json(_padded(), {**SETTINGS, "pad_token": "[PAD]"}),
    "pad of the padding": lambda: _json(_padded(), {k: v for k, v in SETTINGS.items() if k != "pad_token"}),
    "pad is the end": lambda: _json(_more("<new>"), {**SETTINGS, "eos_token": "<new>", "pad_token": "<new>"}),
    "extra tokens": lambda: _json(
        tiny_tokenizer(),
        {
            **SETTINGS,
            "extra_special_tokens": ["<extra>", {**TOKEN, "content": "<new>", "__type": "AddedToken"}],
        },
    ),
    "named extra tokens": lambda: _json(
        tiny_tokenizer(),
        {
            **SETTINGS,
            "additional_special_tokens": ["<new>"],
            "extra_special_tokens": {"image_token": "<img>"},
        },
    ),
    "a token of the model's own": lambda: _json(tiny_tokenizer(), {**SETTINGS, "image_token": "<img>"}),
    "added tokens with flags": lambda: _json(
        _more("<left>", "<right>"),
        {
            **SETTINGS,
            "added_tokens_decoder": decoder(
                {"id": 260, "content": "<left>", "lstrip": True},
                {"id": 261, "content": "<right>", "rstrip": True},
                {"id": 262, "content": "<word>", "single_word": True, "special": False, "normalized": True},
                {"id": 300, "content": "<new>"},
            ),
        },
    ),
    "old files": lambda: _json(
        _more("<left>", lstrip=True),
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<s>"},
        special_tokens_map_json={**OLD_MAP, "additional_special_tokens": ["<extra>"]},
        added_tokens_json={"<left>": 260, "<new>": 261},
    ),
    "a map that is overruled": lambda: _json(
        tiny_tokenizer(),
        {**SETTINGS, "added_tokens_decoder": decoder({"id": 2, "content": "</s>"})},
        special_tokens_map_json={"eos_token": "<s>"},
    ),
    "special tokens are split": lambda: _json(tiny_tokenizer(), {**SETTINGS, "split_special_tokens": True}),
}
"""Folders with a tokenizer.json, by what is special about them: name to (file name to text)."""

SENTENCEPIECE: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {"tokenizer_config.json": {**LLAMA, "add_bos_token": True, "add_eos_token": False}},
    "no flag": {"tokenizer_config.json": LLAMA},
    "no begin": {"tokenizer_config.json": {**LLAMA, "add_bos_token": False}},
    "no name of a begin": {"tokenizer_config.json": {"eos_token": "</s>"}},
    "pad added by name": {"tokenizer_config.json": {**LLAMA, "pad_token": "[PAD]"}},
    "pad is unknown": {"tokenizer_config.json": {**LLAMA, "pad_token": "<unk>"}},
    "added tokens with flags": {
        "tokenizer_config.json": {
            **LLAMA,
            "pad_token": "[PAD]",
            "extra_special_tokens": ["<extra>"],
            "added_tokens_decoder": ADDED,
        }
    },
    "old files": {
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"},
        "special_tokens_map.json": OLD_MAP,
        "added_tokens.json": {"<new>": 1500, "[PAD]": 1501},
    },
    "special tokens are split": {"tokenizer_config.json": {**LLAMA, "split_special_tokens": True}},
}
"""Settings beside a tokenizer.model of 1500 pieces."""


def write(folder: Path, files: dict[str, str]) -> str:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return str(folder)


def unigram_files() -> dict[str, str]:
    """A vocabulary whose own pieces spell the end token: no way round it."""
    from tokenizers import Tokenizer, models

    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -2.0) for letter in "abc </s>")]
    unigram = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=0))
    return {
        "tokenizer.json": unigram.to_str(),
        "tokenizer_config.json": json.dumps({"eos_token": "</s>", "unk_token": "<unk>"}),
    }


def byte_level_files(**settings: Any) -> dict[str, str]:
    """vocab.json and merges.txt, as GPT-2 came before there was a tokenizer.json."""
    vocabulary = json.loads(JSON["tiny"]()["tokenizer.json"])["model"]["vocab"]
    vocabulary["<|endoftext|>"] = len(vocabulary)
    return {
        "vocab.json": json.dumps(vocabulary),
        "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "GPT2Tokenizer", **settings}),
    }
