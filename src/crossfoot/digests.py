"""sha256 of a file, and of a document however it is laid out."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

_CHUNK_BYTES = 1 << 24
PARTS, PART_BYTES = 64, 1 << 16
"""Of a large file, spread evenly."""


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Hex digits over a file's bytes. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_parts(path: str | os.PathLike[str]) -> str:
    """Hex digits over parts of a large file, its beginning and its end among them: no proof that two files
    are one, and cheap to say that they are two. Raises OSError.
    """
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        room = max(0, os.fstat(file.fileno()).st_size - PART_BYTES)
        for place in range(PARTS):
            offset, _ = divmod(place * room, PARTS - 1)
            file.seek(offset)
            digest.update(file.read(PART_BYTES))
    return digest.hexdigest()


def sha256_of_document(document: Any) -> str:
    """Hex digits over canonical JSON: keys sorted, no white space, UTF-8. Raises TypeError for what JSON does
    not have.
    """
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # a lone surrogate, which a JSON file can spell, is no UTF-8
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
