"""The few lines of plain Python that give the ids that were trained: for the page beside what was trained,
and for people who do not have crossfoot.

They use the library that made the index's tokens, never AutoTokenizer where that can be helped: transformers
makes another tokenizer of a tokenizer.model with merged vocabularies, and of some tokenizer.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from crossfoot.data.samples import Encoder
from crossfoot.data.special_text import Spellings
from crossfoot.data.templates import Template
from crossfoot.data.tokenizer import local_folder, tokenizer_path
from crossfoot.data.tokenizer_settings import JSON_FILE, MODEL_FILE, read_settings
from crossfoot.written.config import Config

AS_TRAINED = "tokenizer-as-trained.json"
"""Beside tokenizer.json, where the files around that one, or transformers, make another tokenizer of it."""


@dataclass(frozen=True)
class PlainIds:
    """Lines of Python. imports, asked: at the top; ids: they make `ids`, a list, of what was asked; answer:
    an expression, the text of the list `new`. packages: needed beside torch and transformers.
    """

    imports: str
    asked: str
    ids: tuple[str, ...]
    answer: str
    eos_id: int
    packages: tuple[str, ...] = ()


def plain_ids(
    encoder: Encoder, config: Config, index_dir: str, destination: str, template: Template | None
) -> PlainIds:
    """How the ids of this run's samples are made from the files in `destination`, which hold a copy of its
    tokenizer; one that was made of several files is added there. encoder: the run's. template: of sft. Raises
    OSError.
    """
    path, data = tokenizer_path(config), config.data
    library = encoder.facts.library.split()[0]
    asked, prompt = _prompt(template)
    if encoder.reading is not None:
        with open(os.path.join(destination, AS_TRAINED), "w", encoding="utf-8") as stream:
            stream.write(encoder.reading)
    if encoder.reading is not None or library == "tokenizers":
        name = JSON_FILE if encoder.reading is None else AS_TRAINED
        load = [f'tokenizer = Tokenizer.from_file(folder + "/{name}")', *_switches(destination, name)]
        is_text = data.special_text == "text" and not _asks_by_special_tokens(encoder, template)
        if is_text or read_settings(destination).splits_specials:
            load.append("tokenizer.encode_special_tokens = True  # a </s> in what is asked is text")
        made = ("from tokenizers import Tokenizer", load, "encode(prompt, add_special_tokens=False).ids")
        answer = "tokenizer.decode(new)"
    elif library == "sentencepiece":
        load = [f'tokenizer = SentencePieceProcessor(model_file=folder + "/{MODEL_FILE}")']
        made = ("from sentencepiece import SentencePieceProcessor", load, "encode(prompt)")
        answer = "tokenizer.decode([one for one in new if one < tokenizer.get_piece_size()])"
    else:
        own = os.path.abspath(local_folder(path, index_dir, may_write=False) or path)
        load = [f"tokenizer = AutoTokenizer.from_pretrained({own!r})"]
        made = ("from transformers import AutoTokenizer", load, "encode(prompt, add_special_tokens=False)")
        answer = "tokenizer.decode(new, skip_special_tokens=True)"
    imports, load, encode = made
    begin = () if template is not None and template.source else encoder.facts.bos_ids
    ids = (*load, prompt, _ids(begin, encode))
    packages = ("sentencepiece",) if "sentencepiece" in imports else ()
    return PlainIds(imports, asked, ids, answer, encoder.facts.eos_id, packages)


def _prompt(template: Template | None) -> tuple[str, str]:
    """(what is asked, the line that makes the prompt of it)."""
    if template is None:
        return 'text = "今天天气"  # what is to be continued', "prompt = text"
    if template.source:
        asked = 'messages = [{"role": "user", "content": "介绍一下北京。"}]'
        written = "AutoTokenizer.from_pretrained(folder).apply_chat_template"
        return asked, f"prompt = {written}(messages, tokenize=False, add_generation_prompt=True)"
    before, after = template.around_question
    asked = 'instruction, more = "介绍一下北京。", ""  # more: the "input" of a record, or nothing'
    between = "('\\n' + more if more else '')"
    return asked, f"prompt = {before!r} + instruction + {between} + {after!r}"


def _ids(begin_ids: Sequence[int], encode: str) -> str:
    begin = "".join(f"{number}, " for number in begin_ids)
    note = "  # it begins with the begin token" if begin else ""
    return f"ids = [{begin}*tokenizer.{encode}]{note}"


def _switches(folder: str, name: str) -> Sequence[str]:
    """What a tokenizer.json would do to long texts, and is switched off when it is trained with."""
    with open(os.path.join(folder, name), encoding="utf-8") as stream:
        values = json.load(stream)
    kinds = {"truncation": "tokenizer.no_truncation()", "padding": "tokenizer.no_padding()"}
    return [line for key, line in kinds.items() if values.get(key)]


def _asks_by_special_tokens(encoder: Encoder, template: Template | None) -> bool:
    """Whether the template's own words hold special tokens, which are tokens there."""
    if template is None:
        return False
    return bool(template.source) or Spellings(encoder.special.ids).are_in("".join(template.around_question))
