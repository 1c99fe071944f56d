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

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version

from crossfoot.data.encoders import NoEndToken, Source, by_tokenizers, by_transformers
from crossfoot.data.findings import no_end_token, tokenizer_unusable
from crossfoot.data.samples import Encoder
from crossfoot.data.sentencepiece_encoder import by_sentencepiece
from crossfoot.data.special_text import SpecialText
from crossfoot.data.tiny_tokenizer import (
    FINGERPRINT,
    SETTINGS,
    tiny_folder,
    tiny_tokenizer,
    write_tiny_tokenizer,
)
from crossfoot.data.tokenizer_limits import refuse_unreadable
from crossfoot.data.tokenizer_settings import Settings, read_settings
from crossfoot.digests import sha256_of_file
from crossfoot.findings.finding import Place, Refused
from crossfoot.written.config import Config
from crossfoot.written.git_lfs import fetching, is_pointer
from crossfoot.written.hub import hub_model
from crossfoot.written.model_facts import BUILTIN_TINY, model_folder

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
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""A folder with one of them has a tokenizer."""
CHAT_TEMPLATE = "chat_template.jinja"
"""No part of what makes tokens: it is not in the fingerprint, and is written anew beside what was trained."""
LARGEST_JSON_BYTES = 6 << 20
"""A tokenizer.json loads at about 35 MB a second; a larger one is not at hand."""


def tokenizer_path(config: Config) -> str:
    """The tokenizer that the config names: its own, else the model's."""
    return config.tokenizer.path if config.tokenizer is not None else config.model.path


def local_folder(path: str, index_dir: str, *, may_write: bool) -> str | None:
    """The folder of a tokenizer: given, built in, or that of a hub's id in the cache. None: it is not on this
    machine.

    may_write: builtin:tiny is written if need be. Raises OSError or ValueError when that fails, and
    FileNotFoundError for what is no folder and no hub's id.
    """
    if path == BUILTIN_TINY:
        return write_tiny_tokenizer(index_dir) if may_write else tiny_folder(index_dir)
    if not os.path.isdir(path) and hub_model(path) is None:
        raise FileNotFoundError(f"no folder {path}")
    folder = model_folder(path)
    return None if folder is None else str(folder)


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


def identity(path: str, folder: str) -> str:
    """What decides the ids of a text: the fingerprint, and what reads these files. Raises as
    `fingerprint`.
    """
    return f"{fingerprint(path, folder)} {reader(path, folder)}"


def reader(path: str, folder: str) -> str:
    """The library that reads a tokenizer's files, with its version."""
    files = {"tokenizer.json": "tokenizers", "tokenizer.model": "sentencepiece"}
    names = (library for name, library in files.items() if os.path.isfile(os.path.join(folder, name)))
    library = "tokenizers" if path == BUILTIN_TINY else next(names, "transformers")
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library


def copy_tokenizer(path: str, index_dir: str, destination: str) -> None:
    """Put the tokenizer's own files, byte for byte, into a folder (beside an adapter, for example).

    Not save_pretrained: of a sentencepiece folder it writes a class that adds no begin token and that only
    transformers 5 knows. Raises OSError when the tokenizer is gone or the folder cannot be written.
    """
    folder = local_folder(path, index_dir, may_write=True) or path
    for name in TOKENIZER_FILES:
        if os.path.isfile(os.path.join(folder, name)):
            shutil.copyfile(os.path.join(folder, name), os.path.join(destination, name))


def load_encoder(
    path: str, index_dir: str, *, place: Place | None = None, special_text: SpecialText = "text"
) -> Encoder:
    """What tokenises the data, with its facts. Writes builtin:tiny if need be.

    Raises Refused: CF520 (cannot be loaded), CF521 (no end token).
    """
    with _refusing(path, place or Place(path)):
        folder = local_folder(path, index_dir, may_write=True) or path
        source = Source(path, fingerprint(path, folder), special_text)
        return _light(source, folder) or by_transformers(source, folder)


def load_at_hand(
    path: str, index_dir: str, *, place: Place | None = None, special_text: SpecialText = "text"
) -> Encoder | None:
    """The same encoder, if it is on this machine and loads at once and without transformers; writes nothing.

    Raises Refused as `load_encoder`; of a large tokenizer.json only that it is cut off.
    """
    with _refusing(path, place or Place(path)):
        folder = local_folder(path, index_dir, may_write=False)
        file = os.path.join(folder or "", "tokenizer.json")
        if folder is None or (os.path.isfile(file) and os.path.getsize(file) > LARGEST_JSON_BYTES):
            if folder is not None and not _ends_as_json(file):
                raise ValueError(f"{file} is cut off")
            return None
        return _light(Source(path, fingerprint(path, folder), special_text), folder)


def encoder_at_hand(path: str, index_dir: str, special_text: SpecialText = "text") -> Encoder | None:
    """The same; None too when it cannot be used: what is wrong with it is said elsewhere."""
    try:
        return load_at_hand(path, index_dir, special_text=special_text)
    except Refused:
        return None


@contextmanager
def _refusing(path: str, spot: Place) -> Iterator[None]:
    """Whatever the libraries raise on a tokenizer's files becomes Refused."""
    try:
        yield
    except NoEndToken as error:
        raise Refused(no_end_token(spot, path)) from error
    except Exception as error:  # the libraries raise bare Exception for a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Refused(tokenizer_unusable(spot, reason[0])) from error


def _ends_as_json(file: str) -> bool:
    with open(file, "rb") as stream:
        stream.seek(-min(64, os.path.getsize(file)), os.SEEK_END)
        return stream.read().rstrip().endswith(b"}")


def _light(source: Source, folder: str) -> Encoder | None:
    """The encoder by its own library; None: only transformers can read these files, or names their tokens."""
    if source.path == BUILTIN_TINY:
        return by_tokenizers(source, tiny_tokenizer(), Settings(SETTINGS))
    settings = read_settings(folder)
    if os.path.isfile(file := os.path.join(folder, "tokenizer.json")):
        from tokenizers import Tokenizer

        return by_tokenizers(source, Tokenizer.from_file(file), settings)
    if os.path.isfile(file := os.path.join(folder, "tokenizer.model")):
        return by_sentencepiece(source, file, settings)
    return None
