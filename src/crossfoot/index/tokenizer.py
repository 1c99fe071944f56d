"""Finding, loading and using the tokenizer.

A folder that has tokenizer.model and no tokenizer.json is tokenised by sentencepiece itself. transformers 5
would convert it into a list of ranked merges, which cannot say that two pieces rank equally; a merged
vocabulary such as Chinese-LLaMA-2's gives 23,000 Chinese pieces the same score, and more than a third of real
texts come out as other tokens than the model was trained on (tests/unit/test_index.py compares both).

Only load_tokenizer and load_encoder import transformers, and so torch; the rest is light.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from crossfoot.finding import Place, Refused
from crossfoot.index.bad_data import no_end_token, tokenizer_unusable
from crossfoot.index.store import TokenizerFacts
from crossfoot.index.tiny import FINGERPRINT, tiny_folder, write_tiny_tokenizer
from crossfoot.written.config import Config
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
)


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
    """sha256 over the tokenizer's files, names and bytes. Raises FileNotFoundError when the folder has
    none.
    """
    if path == BUILTIN_TINY:
        return FINGERPRINT
    whole = sha256()
    names = [name for name in TOKENIZER_FILES if os.path.isfile(os.path.join(folder, name))]
    if not names:
        raise FileNotFoundError(f"no tokenizer file in {folder}")
    for name in names:
        with open(os.path.join(folder, name), "rb") as stream:
            whole.update(f"{name}\0{sha256(stream.read()).hexdigest()}\n".encode())
    return whole.hexdigest()


def uses_sentencepiece(folder: str) -> bool:
    """Whether the folder is tokenised by sentencepiece itself: tokenizer.model and no tokenizer.json."""
    return os.path.isfile(os.path.join(folder, "tokenizer.model")) and not os.path.isfile(
        os.path.join(folder, "tokenizer.json")
    )


def load_tokenizer(path: str, index_dir: str, *, place: Place | None = None) -> Any:
    """The transformers tokenizer of a folder, hub id or builtin:tiny. Imports transformers, and so torch.

    A sentencepiece folder gives transformers' SentencePieceBackend (its ids are sentencepiece's; it never
    adds the begin token by itself), all else AutoTokenizer's choice. Raises Refused (CF520) when there is
    none.
    """
    try:
        folder = local_folder(path, index_dir, may_fetch=True)
        if folder is not None and uses_sentencepiece(folder):
            from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

            # legacy: sentencepiece puts its own blank before a text; these vocabularies were trained so.
            return SentencePieceBackend.from_pretrained(folder, legacy=True)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the libraries raise bare Exception for a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Refused(tokenizer_unusable(place or Place(path), reason[0])) from error


def copy_tokenizer(path: str, index_dir: str, destination: str) -> None:
    """Put the tokenizer's own files, byte for byte, into a folder (beside an adapter, for example).

    Not save_pretrained: of a sentencepiece folder it writes a class that adds no begin token and that only
    transformers 5 knows. Raises OSError when the tokenizer is gone or the folder cannot be written.
    """
    folder = local_folder(path, index_dir, may_fetch=True) or path
    for name in TOKENIZER_FILES:
        if os.path.isfile(os.path.join(folder, name)):
            shutil.copyfile(os.path.join(folder, name), os.path.join(destination, name))


class _SentencePieceEncoder:
    """sentencepiece on whole batches; a text that spells out a special token takes the slow way, which splits
    there.
    """

    def __init__(self, tokenizer: Any, facts: TokenizerFacts) -> None:
        self.facts = facts
        self._tokenizer = tokenizer
        specials = sorted(
            {*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder}, key=len, reverse=True
        )
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer.sp_model.encode(list(texts))
        for place, text in enumerate(texts):
            if self._special.search(text):
                ids[place] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


class _FastEncoder:
    """The Rust tokenizer behind a transformers tokenizer, a batch at a time."""

    def __init__(self, backend: Any, facts: TokenizerFacts) -> None:
        self.facts = facts
        self._backend = backend

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def load_encoder(
    path: str, index_dir: str, *, place: Place | None = None
) -> _SentencePieceEncoder | _FastEncoder:
    """What tokenises the data, with its facts. Imports transformers, and so torch.

    Raises Refused: CF520 (cannot be loaded), CF521 (no end token).
    """
    spot = place or Place(path)
    tokenizer = load_tokenizer(path, index_dir, place=spot)
    if tokenizer.eos_token_id is None:
        raise Refused(no_end_token(spot, path))
    folder = local_folder(path, index_dir, may_fetch=True) or path
    sentencepiece = hasattr(tokenizer, "sp_model")
    begin = tokenizer.bos_token_id
    if sentencepiece:
        adds_begin = bool(tokenizer.init_kwargs.get("add_bos_token", True))
    else:
        if not tokenizer.is_fast:
            raise Refused(tokenizer_unusable(spot, f"{type(tokenizer).__name__} has no fast tokenizer"))
        backend = tokenizer.backend_tokenizer
        # A tokenizer.json may carry them, and the backend would cut or pad every text without a word.
        backend.no_truncation()
        backend.no_padding()
        adds_begin = (
            backend.encode("a").ids[:1] == [begin] != backend.encode("a", add_special_tokens=False).ids[:1]
        )
    library = "sentencepiece" if sentencepiece else "tokenizers"
    facts = TokenizerFacts(
        path=path,
        fingerprint=fingerprint(path, folder),
        vocabulary=vocabulary_rows(tokenizer),
        eos_id=int(tokenizer.eos_token_id),
        bos_ids=(int(begin),) if begin is not None and adds_begin else (),
        library=f"{library} {version(library)}",
    )
    return _SentencePieceEncoder(tokenizer, facts) if sentencepiece else _FastEncoder(backend, facts)


def vocabulary_rows(tokenizer: Any) -> int:
    """Rows that the model's table needs: the highest id that text can give, plus one.

    A pad token that was added beyond the real vocabulary is no row: padding is masked, never looked up for a
    target, and must not grow the table.
    """
    if hasattr(tokenizer, "sp_model"):
        real = int(tokenizer.sp_model.get_piece_size())
    else:
        real = int(tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False))
    pad = tokenizer.pad_token_id
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    ids = tokenizer.get_vocab().values()
    return 1 + max(int(i) for i in ids if not (i == pad and i >= real and i not in others))
