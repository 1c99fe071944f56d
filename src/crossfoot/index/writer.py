"""Writing an index as a stream: samples in, arrays out, nothing kept but the current batch. Pure numpy."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from hashlib import sha256
from typing import IO

import numpy as np

from crossfoot import durable
from crossfoot.data.findings import OVER_LONG, Problem
from crossfoot.index.columns import Columns
from crossfoot.index.store import (
    HEADER,
    REJECTS,
    SAMPLE_ARRAYS,
    TOKEN_ARRAYS,
    TOKENIZER,
    IndexHeader,
    array_path,
    header_text,
)


class IndexWriter:
    """Appends to the arrays of one index folder. The folder is not an index before finish has written its
    header.

    Close it (it is a context manager) whether or not it was finished.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._streams: dict[str, IO[bytes]] = {
            name: open(array_path(folder, name), "wb")  # noqa: SIM115
            for name in (*TOKEN_ARRAYS, *SAMPLE_ARRAYS)
        }
        self._rejects = open(os.path.join(folder, REJECTS), "wb")  # noqa: SIM115
        self._all = [*self._streams.values(), self._rejects]
        self._hashes = {os.path.basename(stream.name): sha256() for stream in self._all}
        self.counts = dict.fromkeys(
            ("num_samples", "real_tokens", "trained_tokens", "truncated_samples", "lost_tokens"), 0
        ) | {"empty_samples": 0, "rejected_records": 0, "over_long_records": 0}

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._all:
            stream.close()

    def reject(self, file_id: int, problem: Problem) -> None:
        """Book a record that is left out."""
        row = {"file_id": file_id, "number": problem.number, "code": problem.code, "reason": problem.reason}
        self._write(self._rejects, (json.dumps(row, ensure_ascii=False) + "\n").encode())
        self.counts["rejected_records"] += 1
        self.counts["over_long_records"] += problem.code == OVER_LONG

    def append(self, columns: Columns) -> None:
        """Write these samples after the earlier ones."""
        for name, stream in self._streams.items():
            self._write(stream, columns[name].tobytes())
        lost, trained = columns["lost_tokens"], columns["trained_tokens"]
        counts = self.counts
        counts["num_samples"] += len(lost)
        counts["real_tokens"] += len(columns["tokens"])
        counts["trained_tokens"] += int(trained.sum(dtype=np.int64))
        counts["truncated_samples"] += int(np.count_nonzero(lost))
        counts["lost_tokens"] += int(lost.sum(dtype=np.int64))
        counts["empty_samples"] += int(np.count_nonzero(trained == 0))

    def _write(self, stream: IO[bytes], content: bytes) -> None:
        """Write, and count into the file's checksum what was meant to be written."""
        stream.write(content)
        self._hashes[os.path.basename(stream.name)].update(content)

    def finish(self, header: IndexHeader, tokenizer: str | None = None) -> None:
        """Write what needs all samples (offsets), then the header with the checksums of all files, and put
        all of it on the disk. tokenizer: the content of `tokenizer.json`, where the index has one.
        """
        for stream in self._all:
            stream.flush()
            durable.sync_open(stream.fileno())
        lengths = np.fromfile(array_path(self._folder, "lengths"), dtype=SAMPLE_ARRAYS["lengths"])
        offsets = np.zeros(len(lengths) + 1, dtype="<i8")
        np.cumsum(lengths, out=offsets[1:])
        last = {os.path.basename(array_path("", "offsets")): offsets.tobytes()}
        if tokenizer is not None:
            last[TOKENIZER] = tokenizer.encode("utf-8")
        for name, content in last.items():
            durable.replace(os.path.join(self._folder, name), content)
            self._hashes[name] = sha256(content)
        checksums = {name: self._hashes[name].hexdigest() for name in sorted(self._hashes)}
        header = replace(header, checksums=checksums)
        durable.replace(os.path.join(self._folder, HEADER), header_text(header))

    def duplicate_samples(self) -> int:
        """Samples that equal an earlier one, by digest. Reads the digests back: 8 bytes a sample in
        memory.
        """
        self._streams["digests"].flush()
        digests = np.fromfile(array_path(self._folder, "digests"), dtype=SAMPLE_ARRAYS["digests"])
        return len(digests) - len(np.unique(digests))
