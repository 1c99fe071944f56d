"""The data files as they lie there: what identifies their bytes. Light: no torch, no numpy."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crossfoot import durable
from crossfoot.digests import sha256_of_file, sha256_of_parts
from crossfoot.documents import Malformed, read_object

SOURCES = "sources.json"
SETTLED_SECONDS = 2.0
READ_ALWAYS_BYTES = 64 << 20
"""Of a file up to this size nothing is believed: it is read in less than a tenth of a second."""


@dataclass(frozen=True)
class SourceState:
    """A data file's bytes at one moment."""

    path: str
    bytes: int
    sha256: str


def source_states(files: Sequence[str], index_dir: str, *, reads: bool = False) -> tuple[SourceState, ...]:
    """Size and sha256 of each file. reads: all of them are read.

    Else a large file of which index_dir/sources.json knows the hash is only glanced at: it must have the
    size, inode and both times of before, which an edit that keeps size and time changes, and the same bytes
    in 64 places, for file systems that have no such times. Who trains reads. A file younger than two seconds
    is not remembered: a write in the same clock tick would go unseen.
    """
    cache = os.path.join(index_dir, SOURCES)
    known = _read_cache(cache)
    states, learned = [], {}
    for file in files:
        status = os.stat(file)
        name, entry = os.path.abspath(file), None
        if status.st_size > READ_ALWAYS_BYTES:
            stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            entry = [*stamp, sha256_of_parts(file)]
            youngest = max(status.st_mtime, status.st_ctime)
        before = known.get(name)
        if not reads and entry is not None and isinstance(before, list) and before[:-1] == entry:
            digest = str(before[-1])
        else:
            digest = sha256_of_file(file)
            if entry is not None and time.time() - youngest > SETTLED_SECONDS:
                learned[name] = [*entry, digest]
        states.append(SourceState(file, status.st_size, digest))
    if any(known.get(name) != entry for name, entry in learned.items()) and os.path.isdir(index_dir):
        with contextlib.suppress(OSError):  # a cache: who builds an index says that index_dir is not writable
            durable.replace(cache, json.dumps(known | learned, indent=0))
    return tuple(states)


def _read_cache(path: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, Malformed):
        return read_object(path)
    return {}
