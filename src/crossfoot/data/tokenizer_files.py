"""What a tokenizer's files say about it, without an encoder: how many tokens, which ones are special,
what lies beside the vocabulary. Fast and torch-free; the encoder of the same folder comes to the same
numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from crossfoot.data.encoders import vocabulary_rows
from crossfoot.data.findings import no_end_token, tokenizer_unusable
from crossfoot.data.sentencepiece_encoder import sentencepiece_ids
from crossfoot.data.tiny_tokenizer import SPECIALS
from crossfoot.data.tokenizer import CHAT_TEMPLATE, local_folder, tokenizer_path
from crossfoot.data.tokenizer_settings import (
    JSON_FILE,
    MODEL_FILE,
    VOCAB_FILE,
    Settings,
    read_object,
    read_settings,
)
from crossfoot.findings.finding import Refused
from crossfoot.written.model_facts import BUILTIN_TINY, TINY_VOCABULARY
from crossfoot.written.run_file import RunFile


@dataclass(frozen=True)
class NamedToken:
    """A special token: its text and id."""

    text: str
    id: int


@dataclass(frozen=True)
class ChatTemplate:
    """What a model is asked by. text: Jinja. owner: whose folder has it, the tokenizer's or the model's."""

    file: str
    text: str
    owner: str = "tokenizer"


@dataclass(frozen=True)
class TokenizerFiles:
    """rows: of the table that the tokens need; None where only transformers can tell. end, begin: the tokens
    around a text; begin is None where none is put before it. unknown_id: what the vocabulary has for
    characters that it lacks. special: texts of all special tokens. sizes: tokens of each vocabulary file,
    added ones apart. differing: tokens that two such files do not share. unlike_model: of how many tokens of
    the model's own tokenizer the ids are others here, and how many it has. chat_template: the tokenizer's,
    else the model's. own_code: the class that lies beside it.
    """

    folder: str
    rows: int | None = None
    end: NamedToken | None = None
    begin: NamedToken | None = None
    unknown_id: int | None = None
    special: frozenset[str] = frozenset()
    sizes: Mapping[str, int] = field(default_factory=dict)
    differing: int = 0
    unlike_model: tuple[int, int] | None = None
    chat_template: ChatTemplate | None = None
    own_code: str | None = None


_TINY = TokenizerFiles(
    BUILTIN_TINY,
    TINY_VOCABULARY,
    NamedToken(SPECIALS[2], 2),
    NamedToken(SPECIALS[1], 1),
    0,
    frozenset(SPECIALS),
)


@dataclass(frozen=True)
class _Vocabulary:
    """pieces: the vocabulary itself. ids: of the special and added tokens. named: the special ones by name.
    begins: whether a text is begun with the begin token.
    """

    pieces: Mapping[str, int]
    ids: Mapping[str, int]
    named: Mapping[str, NamedToken]
    special: frozenset[str]
    unknown_id: int | None
    begins: bool


def tokenizer_files_of(run: RunFile) -> TokenizerFiles | None:
    """Of the run's tokenizer; None while it is not on this machine. Raises Refused: CF520, CF521."""
    config, index_dir = run.config, run.index_dir
    path, place = tokenizer_path(config), run.tokenizer_place
    try:
        folder = local_folder(path, index_dir, may_write=False)
        is_tiny = path == BUILTIN_TINY
        found = _TINY if is_tiny else read_tokenizer_files(folder) if folder is not None else None
    except Exception as error:  # sentencepiece raises bare exceptions for a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Refused(tokenizer_unusable(place, reason[0])) from error
    if found is not None and config.tokenizer is not None and config.model.path != BUILTIN_TINY:
        found = _beside_models_own(found, config.model.path, index_dir)
    if found is not None and found.end is None and set(found.sizes) == {MODEL_FILE}:
        raise Refused(no_end_token(place, path))
    return found


def read_tokenizer_files(folder: str) -> TokenizerFiles:
    """Raises OSError, ValueError, KeyError, TypeError, and what sentencepiece raises, for a damaged file."""
    settings = read_settings(folder)
    found = {
        name: read(os.path.join(folder, name), settings)
        for name, read in _READERS.items()
        if os.path.isfile(os.path.join(folder, name))
    }
    known = TokenizerFiles(
        folder,
        special=frozenset(token["content"] for token in settings.specials()),
        sizes={name: len(one.pieces) for name, one in found.items()},
        chat_template=_chat_template(folder, settings.values),
        own_code=_own_code(folder, settings.values),
    )
    if not found:
        return known
    used = next(iter(found.values()))
    ids = (*used.pieces.values(), *used.ids.values())
    if not used.pieces:
        raise ValueError(f"{next(iter(found))} has an empty vocabulary")
    return replace(
        known,
        rows=vocabulary_rows(ids, len(used.pieces), {name: one.id for name, one in used.named.items()}),
        end=used.named.get("eos_token"),
        begin=used.named.get("bos_token") if used.begins else None,
        unknown_id=used.unknown_id,
        special=used.special,
        differing=len(used.pieces.items() ^ found.get(MODEL_FILE, used).pieces.items()),
    )


def _of_json(file: str, settings: Settings) -> _Vocabulary:
    with open(file, encoding="utf-8") as stream:
        values = json.load(stream)
    model = values["model"]
    listed = model["vocab"]
    pieces: dict[str, int] = (
        listed if isinstance(listed, dict) else {piece: number for number, (piece, *_) in enumerate(listed)}
    )
    settings = settings.padded_with((values.get("padding") or {}).get("pad_token"))
    there = values.get("added_tokens") or []
    ids = _with_added({str(token["content"]): int(token["id"]) for token in there}, pieces, settings)
    special = _special(settings) | {str(token["content"]) for token in there if token.get("special")}
    unknown = model.get("unk_id", pieces.get(model.get("unk_token") or ""))
    begin = settings.named.get("bos_token", {}).get("content")
    begins = begin is not None and _first_of(values.get("post_processor")) == begin
    return _Vocabulary(pieces, ids, _named(settings, ids), special, unknown, begins)


def _of_vocab_json(file: str, settings: Settings) -> _Vocabulary:
    """What transformers makes a tokenizer of; begin and unknown token depend on the class."""
    pieces = read_object(*os.path.split(file))
    ids = _with_added({}, pieces, settings)
    return _Vocabulary(pieces, ids, _named(settings, ids), _special(settings), None, begins=False)


def _with_added(ids: dict[str, int], pieces: Mapping[str, int], settings: Settings) -> dict[str, int]:
    """`ids` and those of the tokens that the settings add: the vocabulary's own, else the next free ones."""
    free = max((len(pieces), *(number + 1 for number in ids.values())))
    for token in settings.to_add(ids):
        text = token["content"]
        if text not in ids:
            ids[text] = pieces.get(text, free)
            free += text not in pieces
    return ids


def _special(settings: Settings) -> frozenset[str]:
    return settings.declared() | {token["content"] for token in settings.specials()}


def _first_of(processor: Any) -> str | None:
    """The special token that a post-processor puts before a text."""
    if not isinstance(processor, dict):
        return None
    found = [_first_of(one) for one in processor.get("processors", ())]
    first = (processor.get("single") or [{}])[0].get("SpecialToken", {}).get("id")
    return next((one for one in (first, *found) if one is not None), None)


def _of_model(file: str, settings: Settings) -> _Vocabulary:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=file)
    pieces = {processor.id_to_piece(number): number for number in range(processor.get_piece_size())}
    begins = bool(settings.values.get("add_bos_token", True))
    ids = sentencepiece_ids(processor, settings)
    named = _named(settings, ids)
    return _Vocabulary(pieces, ids, named, _special(settings), processor.unk_id(), begins)


_READERS = {JSON_FILE: _of_json, MODEL_FILE: _of_model, VOCAB_FILE: _of_vocab_json}
"""The files that are read, the first of them by the encoder."""


def _named(settings: Settings, ids: Mapping[str, int]) -> dict[str, NamedToken]:
    texts = {name: token["content"] for name, token in settings.named.items()}
    return {name: NamedToken(text, ids[text]) for name, text in texts.items()}


def _chat_template(folder: str, values: Mapping[str, Any]) -> ChatTemplate | None:
    """The file that transformers takes it from, and its text; of several the default one."""
    if os.path.isfile(file := os.path.join(folder, CHAT_TEMPLATE)):
        with open(file, encoding="utf-8") as stream:
            return ChatTemplate(CHAT_TEMPLATE, stream.read())
    written = values.get("chat_template")
    if isinstance(written, list):
        written = {one.get("name"): one.get("template") for one in written if isinstance(one, dict)}
    if isinstance(written, dict):
        written = written.get("default", next(iter(written.values()), None))
    is_text = isinstance(written, str) and written.strip()
    return ChatTemplate("tokenizer_config.json", str(written)) if is_text else None


def _beside_models_own(found: TokenizerFiles, model: str, index_dir: str) -> TokenizerFiles:
    """With what the tokenizer in the model's folder says, where the run has another one."""
    try:
        folder = local_folder(model, index_dir, may_write=False)
        if folder is None:
            return found
        template = _chat_template(folder, read_object(folder, "tokenizer_config.json"))
        own, ours = (None if one == BUILTIN_TINY else _vocabulary(one) for one in (folder, found.folder))
    except Exception:  # sentencepiece raises bare exceptions; that folder's own tokenizer is not the run's
        return found
    if template is not None and found.chat_template is None:
        found = replace(found, chat_template=replace(template, owner="model"))
    if own is None or ours is None:
        return found
    return replace(found, unlike_model=(len(own.pieces.items() - ours.pieces.items()), len(own.pieces)))


def _vocabulary(folder: str) -> _Vocabulary | None:
    """Of the file that the encoder reads."""
    settings = read_settings(folder)
    files = ((os.path.join(folder, name), read) for name, read in _READERS.items())
    return next((read(file, settings) for file, read in files if os.path.isfile(file)), None)


def _own_code(folder: str, values: Mapping[str, Any]) -> str | None:
    """The tokenizer's class that lies in the folder: transformers would run it if it were allowed to."""
    try:
        model = read_object(folder, "config.json")
    except ValueError:
        model = {}  # which is said of the model
    for said in (values.get("auto_map"), model.get("auto_map")):
        named = said.get("AutoTokenizer") if isinstance(said, dict) else said
        names = named if isinstance(named, list) else [named]
        if found := [name for name in names if isinstance(name, str)]:
            return found[0]
    return None
