"""Data files that are packed with gzip, read as if they were not."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import BinaryIO, TextIO, cast

ENDING = ".gz"
UTF8 = "UTF-8"
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading raises when the packed bytes are damaged or cut off."""


def is_packed(path: str) -> bool:
    """By its name."""
    return path.lower().endswith(ENDING)


def open_bytes(path: str) -> BinaryIO:
    """The file's bytes, unpacked."""
    return cast(BinaryIO, gzip.open(path, "rb")) if is_packed(path) else open(path, "rb")


def open_text(path: str, encoding: str = UTF8) -> TextIO:
    """Its text, with line ends as they are and, of UTF-8, without a mark at the beginning."""
    return io.TextIOWrapper(
        open_bytes(path), encoding="utf-8-sig" if encoding == UTF8 else encoding, newline=""
    )
