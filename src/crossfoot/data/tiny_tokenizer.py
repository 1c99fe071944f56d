"""The tokenizer of builtin:tiny: bytes. 260 tokens, no merges: <unk> <s> </s> <pad>, then the 256 bytes.

It is written once as an ordinary Hugging Face folder, so that nothing after it knows that it was built in.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import Any

from crossfoot import durable

SPECIALS = ("<unk>", "<s>", "</s>", "<pad>")
FINGERPRINT = sha256(b"crossfoot builtin:tiny tokenizer 1").hexdigest()
"""Stands for the files below; its number goes up when they change."""
SETTINGS: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    **dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIALS, strict=True)),
    "clean_up_tokenization_spaces": False,
}
"""Its tokenizer_config.json."""


def tiny_folder(index_dir: str) -> str:
    """Where builtin:tiny lies once it is written; model files go into the same folder."""
    return os.path.join(index_dir, "builtin-tiny")


def write_tiny_tokenizer(index_dir: str) -> str:
    """Write the tokenizer files unless they are there; returns the folder. Several processes may do so at
    once.
    """
    folder = tiny_folder(index_dir)
    names = ("tokenizer.json", "tokenizer_config.json")
    if not all(os.path.exists(os.path.join(folder, name)) for name in names):
        os.makedirs(folder, exist_ok=True)
        texts = (str(tiny_tokenizer().to_str(pretty=True)), json.dumps(SETTINGS, indent=1) + "\n")
        for name, text in zip(names, texts, strict=True):
            durable.replace(os.path.join(folder, name), text)
    return folder


def tiny_tokenizer() -> Any:
    """The tokenizer of the `tokenizers` library that tokenizer.json holds."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    tokens = list(SPECIALS) + sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIALS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    begin = SPECIALS[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, vocabulary[begin])]
    )
    return tokenizer
