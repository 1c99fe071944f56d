"""Whether an index still holds, bit for bit, what was written into it, and whether its sums agree."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from hashlib import sha256

import numpy as np

from crossfoot.index.store import SAMPLE_ARRAYS, TOKEN_ARRAYS, DataIndex, IndexHeader, array_path
from crossfoot.output import tell

READ_BYTES = 1 << 20
FIRST_LINE_SECONDS = 2.0
LINE_SECONDS = 5.0

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


def damage_of(folder: str, header: IndexHeader, progress: Progress | None = None) -> str | None:
    """What is wrong with the files of an index, in words; None when each is as it was written. Reads all of
    them once.
    """
    wanted = {os.path.basename(array_path("", name)) for name in (*TOKEN_ARRAYS, *SAMPLE_ARRAYS, "offsets")}
    if missing := sorted(wanted - set(header.checksums)):
        return f"its header has no checksum of {missing[0]}"
    try:
        total = sum(os.path.getsize(os.path.join(folder, name)) for name in header.checksums)
        done = 0
        for name, written in header.checksums.items():
            whole = sha256()
            with open(os.path.join(folder, name), "rb") as stream:
                while block := stream.read(READ_BYTES):
                    whole.update(block)
                    done += len(block)
                    if progress is not None:
                        progress(done, total)
            if whole.hexdigest() != written:
                return f"{name} is not as it was written"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def contradiction_of(index: DataIndex) -> str | None:
    """Where the arrays of an index contradict each other or its header; None when they agree."""
    header = index.header
    if index.offsets[0] != 0 or not np.array_equal(np.diff(index.offsets), index.lengths):
        return "the offsets are not the sums of the lengths"
    files = index.file_ids
    next_file = np.diff(files)
    if not 0 <= files[0] <= files[-1] < len(index.files) or (next_file < 0).any():
        return "the samples do not stand in the order of the files"
    if index.numbers[0] < 1 or ((np.diff(index.numbers) < 0) & (next_file == 0)).any():
        return "the samples of a file do not stand in the order of its records"
    sums = {
        "real_tokens": int(index.lengths.sum(dtype=np.int64)),
        "trained_tokens": int(index.trained_tokens.sum(dtype=np.int64)),
        "lost_tokens": int(index.lost_tokens.sum(dtype=np.int64)),
        "truncated_samples": int(np.count_nonzero(index.lost_tokens)),
        "empty_samples": int(np.count_nonzero(index.trained_tokens == 0)),
    }
    if sums["empty_samples"]:
        return f"{sums['empty_samples']:,} samples have no trained token"
    for name, real in sums.items():
        if (said := getattr(header, name)) != real:
            return f"{name} is {said:,} in the header, and the arrays come to {real:,}"
    return None


class ReadingLine:
    """`damage_of`'s progress: silent for the first seconds, then a plain line on stderr now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + FIRST_LINE_SECONDS

    def __call__(self, done: int, total: int) -> None:
        """Say how far the reading is, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LINE_SECONDS
        tell(f"reading the index   {done / 1e9:.1f} of {total / 1e9:.1f} GB")
