"""Damage to the papers of a run: one value of a JSON document replaced or taken away, its seal made anew, or
the file as a whole something else.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from crossfoot.digests import sha256_of_document

Way = tuple[Any, ...]
GONE = object()
DEEP: Any = json.loads("[" * 60 + "]" * 60)
ODD_VALUES: Sequence[Any] = (
    *(GONE, None, True, "x", "7", "", -1, 0, 3, 10**30, 2**62, 1.5, 1e308, "nan", [], {}, [[]], {"a": 1}),
    *("../../../../etc/passwd", "\ud800", "-oProxyCommand=x", "a\0b", "\x1b[31m", "9" * 5_000, DEEP),
)
ODD_FILES: Sequence[bytes] = (
    *(b"", b"\xff\xfe\x00", b"[]", b"3", b"null", b'"x"', b"{", b"{}", b"NaN", b"9" * 5_000),
    *(b"[" * 100_000, b'{"a":' * 100_000, b'{"format": 1, "format_version": 2, "version": 1}'),
)


def ways(value: Any, before: Way = ()) -> Iterator[Way]:
    """The way to everything in a document; of a long list to its first and last, of many tensors to some."""
    parts: Any = ()
    if isinstance(value, dict):
        parts = list(value.items())[: 3 if len(value) > 40 else None]
    elif isinstance(value, list) and value:
        parts = {0: value[0], len(value) - 1: value[-1]}.items()
    for key, part in parts:
        yield (*before, key)
        yield from ways(part, (*before, key))


def with_value(document: Any, way: Way, value: Any) -> Any:
    """The document with another value there, or without one (GONE)."""
    changed = copy.deepcopy(document)
    inside = changed
    for key in way[:-1]:
        inside = inside[key]
    if value is GONE:
        del inside[way[-1]]
    else:
        inside[way[-1]] = value
    return changed


def sealed(document: Any, is_header: bool = False) -> Any:
    """With the sha256 of what now stands in it, as whoever alters a paper on purpose would write it."""
    if not isinstance(document, dict) or not isinstance(document.get("sha256"), str):
        return document
    rest = {key: value for key, value in document.items() if key != "sha256"}
    if is_header:
        return {**rest, "sha256": sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}
    return {**rest, "sha256": sha256_of_document(rest)}


def written(document: Any) -> bytes:
    return (json.dumps(document) + "\n").encode()


def put_instead(path: Path, kind: str) -> None:
    """A folder, a pipe, or a link to nowhere under a paper's name."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make: dict[str, Callable[[], object]] = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "loop": lambda: path.symlink_to(path.name),
    }
    make[kind]()
