"""Finding the tokenizer, loading it as an encoder, and copying it.

A tokenizer is read by the library that its file was made for: tokenizer.json by `tokenizers`, tokenizer.model
without one by sentencepiece; by transformers (and so torch) only where neither is there, or where the files
do not name the tokens that begin and end a text. transformers 5 would convert tokenizer.model into a list of
ranked merges, which cannot say that two tokens rank equally; a merged vocabulary such as Chinese-LLaMA-2's
gives 23,000 Chinese tokens the same score, and more than a third of real texts come out as other tokens than
the model was trained on. And a tokenizer.json whose class is LlamaTokenizer it builds anew from vocabulary
and merges, which loses a blank at the start of a text. test_index.py and test_tokenizer.py hold it to that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from crossfoot.data.findings import no_end_token, tokenizer_unusable
from crossfoot.data.samples import Encoder, TokenizerFacts
from crossfoot.data.tiny_tokenizer import (
    FINGERPRINT,
    SETTINGS,
    tiny_folder,
    tiny_tokenizer,
    write_tiny_tokenizer,
)
from crossfoot.data.tokenizer_limits import refuse_unreadable
from crossfoot.digests import sha256_of_file
from crossfoot.extras import install_command
from crossfoot.findings.finding import Place, Refused
from crossfoot.written.config import Config
from crossfoot.written.git_lfs import fetching, is_pointer
from crossfoot.written.model_facts import BUILTIN_TINY

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens in the order in which transformers gives ids to those that have none."""
TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
LARGEST_JSON_BYTES = 6 << 20
"""A tokenizer.json loads at about 35 MB a second; a larger one is not at hand."""
FEW_CHARACTERS = 1 << 18
"""Up to so many, texts are encoded one by one: a batch starts a thread for each core."""


class _NoEndToken(ValueError):
    """The tokenizer has no token that ends a text."""


def tokenizer_path(config: Config) -> str:
    """The tokenizer that the config names: its own, else the model's."""
    return config.tokenizer.path if config.tokenizer is not None else config.model.path


def local_folder(path: str, index_dir: str, *, may_fetch: bool) -> str | None:
    """The folder of a tokenizer: given, built in, or a hub id's snapshot. None: a hub id that is not on this
    machine.

    may_fetch: builtin:tiny is written and a hub id downloaded if need be. Raises OSError or ValueError when
    that fails.
    """
    if path == BUILTIN_TINY:
        return write_tiny_tokenizer(index_dir) if may_fetch else tiny_folder(index_dir)
    if os.path.isdir(folder := os.path.expanduser(path)):
        return folder
    if os.path.exists(path) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path):
        raise FileNotFoundError(f"no folder {path}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = [*TOKENIZER_FILES, "config.json"]
    try:
        return str(snapshot_download(path, allow_patterns=wanted, local_files_only=not may_fetch))
    except LocalEntryNotFoundError as error:
        if may_fetch:
            raise FileNotFoundError(f"no folder {path}, and it cannot be fetched from the hub") from error
        return None


def fingerprint(path: str, folder: str) -> str:
    """sha256 over the tokenizer's files, names and bytes. Raises FileNotFoundError or ValueError when the
    folder has no vocabulary, a file that cannot be read, or a git-lfs pointer.
    """
    if path == BUILTIN_TINY:
        return FINGERPRINT
    whole = sha256()
    names = [name for name in TOKENIZER_FILES if os.path.exists(os.path.join(folder, name))]
    refuse_unreadable(folder, names)
    for name in names:
        if is_pointer(file := os.path.join(folder, name)):
            raise ValueError(f"{file} is a git-lfs pointer, not the file itself; {fetching(file)}")
        whole.update(f"{name}\0{sha256_of_file(file)}\n".encode())
    return whole.hexdigest()


def copy_tokenizer(path: str, index_dir: str, destination: str) -> None:
    """Put the tokenizer's own files, byte for byte, into a folder (beside an adapter, for example).

    Not save_pretrained: of a sentencepiece folder it writes a class that adds no begin token and that only
    transformers 5 knows. Raises OSError when the tokenizer is gone or the folder cannot be written.
    """
    folder = local_folder(path, index_dir, may_fetch=True) or path
    for name in TOKENIZER_FILES:
        if os.path.isfile(os.path.join(folder, name)):
            shutil.copyfile(os.path.join(folder, name), os.path.join(destination, name))


def load_encoder(path: str, index_dir: str, *, place: Place | None = None) -> Encoder:
    """What tokenises the data, with its facts. Fetches the tokenizer if need be.

    Raises Refused: CF520 (cannot be loaded), CF521 (no end token).
    """
    with _refusing(path, place or Place(path)):
        folder = local_folder(path, index_dir, may_fetch=True) or path
        return _light(path, folder) or _by_transformers(path, folder)


def load_at_hand(path: str, index_dir: str, *, place: Place | None = None) -> Encoder | None:
    """The same encoder, if it is on this machine and loads at once and without transformers; writes nothing.

    Raises Refused as `load_encoder`; of a large tokenizer.json only that it is cut off.
    """
    with _refusing(path, place or Place(path)):
        folder = local_folder(path, index_dir, may_fetch=False)
        file = os.path.join(folder or "", "tokenizer.json")
        if folder is None or (os.path.isfile(file) and os.path.getsize(file) > LARGEST_JSON_BYTES):
            if folder is not None and not _ends_as_json(file):
                raise ValueError(f"{file} is cut off")
            return None
        return _light(path, folder)


def encoder_at_hand(path: str, index_dir: str) -> Encoder | None:
    """The same; None too when it cannot be used: what is wrong with it is said elsewhere."""
    try:
        return load_at_hand(path, index_dir)
    except Refused:
        return None


@contextmanager
def _refusing(path: str, spot: Place) -> Iterator[None]:
    """Whatever the libraries raise on a tokenizer's files becomes Refused."""
    try:
        yield
    except _NoEndToken as error:
        raise Refused(no_end_token(spot, path)) from error
    except Exception as error:  # the libraries raise bare Exception for a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Refused(tokenizer_unusable(spot, reason[0])) from error


def _ends_as_json(file: str) -> bool:
    with open(file, "rb") as stream:
        stream.seek(-min(64, os.path.getsize(file)), os.SEEK_END)
        return stream.read().rstrip().endswith(b"}")


def _light(path: str, folder: str) -> Encoder | None:
    """The encoder by its own library; None: only transformers can read these files, or names their tokens."""
    mark = fingerprint(path, folder)
    if path == BUILTIN_TINY:
        return _by_tokenizers(path, mark, tiny_tokenizer(), _Settings(SETTINGS))
    settings = _read_settings(folder)
    if os.path.isfile(file := os.path.join(folder, "tokenizer.json")):
        from tokenizers import Tokenizer

        return _by_tokenizers(path, mark, Tokenizer.from_file(file), settings)
    if os.path.isfile(file := os.path.join(folder, "tokenizer.model")):
        return _by_sentencepiece(path, mark, file, settings)
    return None


@dataclass(frozen=True)
class _Encoder:
    facts: TokenizerFacts
    to_ids: Callable[[Sequence[str]], list[list[int]]]
    reading: str | None = None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.to_ids(texts)


def _by_tokenizers(path: str, mark: str, tokenizer: Any, settings: _Settings) -> Encoder | None:
    """tokenizer.json as it is, with the tokens that the files beside it add. None: they do not name the token
    that ends a text, or begins it; then it is one that the tokenizer's class in transformers has.
    """
    from tokenizers import AddedToken

    if tokenizer.padding and "pad_token" not in settings.values:
        values = {**settings.values, "pad_token": tokenizer.padding["pad_token"]}
        settings = replace(settings, values=values)
    # A tokenizer.json may carry them, and every text would be cut or padded without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    plain = tokenizer.to_str()
    have = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    added = list(settings.added.values())
    known = have | {token["content"] for token in added}
    if settings.is_old:
        added = [token for token in added if token["content"] not in have]
    added += [token for token in settings.specials() if token["content"] not in known]
    tokenizer.add_tokens([AddedToken(**token) for token in added])
    tokenizer.encode_special_tokens = settings.splits_specials
    bare, whole = (tokenizer.encode("a", add_special_tokens=special).ids[:1] for special in (False, True))
    named = {name: tokenizer.token_to_id(token["content"]) for name, token in settings.named.items()}
    if "eos_token" not in named or ("bos_token" not in named and whole != bare):
        return None
    base = tokenizer.get_vocab_size(with_added_tokens=False)
    rows = vocabulary_rows(tokenizer.get_vocab().values(), base, named)
    begins = bare != whole == [named.get("bos_token")]

    def encode(texts: Sequence[str]) -> list[list[int]]:
        if sum(map(len, texts)) <= FEW_CHARACTERS:
            return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        return [e.ids for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    reading = tokenizer.to_str()
    facts = _facts(path, mark, "tokenizers", named, rows, begins=begins)
    return _Encoder(facts, encode, None if reading == plain else reading)


def _by_sentencepiece(path: str, mark: str, file: str, settings: _Settings) -> Encoder:
    """tokenizer.model with the tokens that the files beside it add; it adds no begin token by itself."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=file)
    base = processor.get_piece_size()
    ids = {token["content"]: number for number, token in settings.added.items()}
    free = base + sum(number >= base for number in settings.added)
    for content in (token["content"] for token in settings.specials()):
        if content not in ids:
            number = processor.piece_to_id(content)
            is_piece = processor.id_to_piece(number) == content
            ids[content] = number if is_piece else free
            free += not is_piece
    splitter = _Splitter(ids, {token["content"]: token for token in settings.added.values()})

    def encode(texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = processor.encode(list(texts))
        if not settings.splits_specials:
            for place, text in enumerate(texts):
                if splitter.has_special(text):
                    parts = splitter.split(text)
                    found[place] = [
                        number
                        for part in parts
                        for number in ([ids[part]] if part in ids else processor.encode(part))
                    ]
        return found

    named = {name: ids[token["content"]] for name, token in settings.named.items()}
    begins = bool(settings.values.get("add_bos_token", True))
    rows = vocabulary_rows((*range(base), *ids.values()), base, named)
    return _Encoder(_facts(path, mark, "sentencepiece", named, rows, begins=begins), encode)


class _Splitter:
    """Cuts a text where it spells out a special token, as transformers does for sentencepiece."""

    def __init__(self, ids: Mapping[str, int], added: Mapping[str, Mapping[str, Any]]) -> None:
        longest_first = sorted(filter(None, ids), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._added = added

    def has_special(self, text: str) -> bool:
        return self._special.search(text) is not None

    def split(self, text: str) -> list[str]:
        """The parts, none empty. A token may take the blanks beside it, or want to be a word of its own."""
        parts = [part for part in self._special.split(text) if part]
        last = len(parts) - 1
        for place, part in enumerate(parts):
            token = self._added.get(part, {})
            if token.get("rstrip") and place < last:
                parts[place + 1] = parts[place + 1].lstrip()
            if token.get("lstrip") and place:
                parts[place - 1] = parts[place - 1].rstrip()
            if token.get("single_word"):
                if place and parts[place - 1] and parts[place - 1][-1] != " ":
                    parts[place - 1] += part
                    parts[place] = ""
                elif place < last and parts[place + 1] and parts[place + 1][0] != " ":
                    parts[place + 1] = part + parts[place + 1]
                    parts[place] = ""
        return [part for part in parts if part]


def _by_transformers(path: str, folder: str) -> Encoder:
    """What transformers makes of the folder. Imports torch; code that lies in the folder is never run."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(f"only transformers can read it: {install_command('train')}") from error

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    names = {name: getattr(tokenizer, f"{name}_id") for name in NAMES}
    named = {name: number for name, number in names.items() if number is not None}
    bare, whole = (tokenizer.encode("a", add_special_tokens=special)[:1] for special in (False, True))
    rows = vocabulary_rows(tokenizer.get_vocab().values(), tokenizer.vocab_size, named)
    begins = bare != whole == [named.get("bos_token")]

    def encode(texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return found

    facts = _facts(path, fingerprint(path, folder), "transformers", named, rows, begins=begins)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return _Encoder(facts, encode, None if backend is None else backend.to_str())


def _facts(
    path: str, mark: str, library: str, named: Mapping[str, int], rows: int, *, begins: bool
) -> TokenizerFacts:
    if "eos_token" not in named:
        raise _NoEndToken(path)
    return TokenizerFacts(
        path=path,
        fingerprint=mark,
        vocabulary=rows,
        eos_id=named["eos_token"],
        bos_ids=(named["bos_token"],) if begins and "bos_token" in named else (),
        library=f"{library} {version(library)}",
    )


def vocabulary_rows(ids: Iterable[int], base: int, named: Mapping[str, int]) -> int:
    """Rows that the model's table needs: the highest id that text can give, plus one. base: the ids below it
    are the vocabulary's own; named: ids of the special tokens.

    A pad token that was added beyond the real vocabulary is no row: padding is masked, never looked up for a
    target, and must not grow the table.
    """
    others = {named.get(name) for name in ("bos_token", "eos_token", "unk_token")}
    padding = {named.get("pad_token")} - others
    return 1 + max(number for number in ids if number < base or number not in padding)


@dataclass(frozen=True)
class _Settings:
    """What the files beside a vocabulary say, read as transformers reads them.

    values: of tokenizer_config.json. added: tokens by id. is_old: without added_tokens_decoder, from the time
    when special_tokens_map.json and added_tokens.json were files of their own, and overruled it.
    """

    values: Mapping[str, Any]
    added: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    is_old: bool = False

    @property
    def splits_specials(self) -> bool:
        """Whether a special token that a text spells out is tokenised as text."""
        return bool(self.values.get("split_special_tokens", False))

    @property
    def named(self) -> dict[str, dict[str, Any]]:
        """Special tokens by name (eos_token, image_token), in the order in which they get ids."""
        more = self.values.get("extra_special_tokens")
        values = {**dict.fromkeys(NAMES), **self.values, **(more if isinstance(more, dict) else {})}
        tokens = {name: _token(value) for name, value in values.items() if name.endswith("_token")}
        return {name: {**token, "special": True} for name, token in tokens.items() if token}

    def specials(self) -> list[dict[str, Any]]:
        """All special tokens, the nameless ones last; none twice."""
        more = self.values.get("extra_special_tokens")
        if not more or isinstance(more, dict):
            more = self.values.get("additional_special_tokens") or ()
        tokens = [*self.named.values(), *filter(None, map(_token, more))]
        return list({token["content"]: token for token in reversed(tokens)}.values())[::-1]


def _read_settings(folder: str) -> _Settings:
    values = _read(folder, "tokenizer_config.json")
    if "added_tokens_decoder" in values:
        tokens = {int(number): _token(token) for number, token in values["added_tokens_decoder"].items()}
        return _Settings(values, {number: token for number, token in sorted(tokens.items()) if token})
    settings = _Settings({**values, **_read(folder, "special_tokens_map.json")}, is_old=True)
    special = {token["content"] for token in settings.specials()}
    added = {
        int(number): {"content": text, "special": text in special, "normalized": text not in special}
        for text, number in _read(folder, "added_tokens.json").items()
    }
    return _Settings(settings.values, dict(sorted(added.items())), is_old=True)


def _token(value: Any) -> dict[str, Any] | None:
    """A token as the fields of an AddedToken; None when the value is none."""
    fields = {"content": value, "special": True} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(content := fields.get("content"), str) or not content:
        return None
    return {name: fields[name] for name in TOKEN_FIELDS if name in fields}


def _read(folder: str, name: str) -> dict[str, Any]:
    """A JSON object in the folder; {} when the file is not there. Raises ValueError for anything else."""
    file = os.path.join(folder, name)
    if not os.path.isfile(file):
        return {}
    with open(file, encoding="utf-8") as stream:
        values = json.load(stream)
    if not isinstance(values, dict):
        raise ValueError(f"{name} is no object")
    return values
