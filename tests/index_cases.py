"""Small runs and data files for the tests of the index."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from crossfoot.index.checksums import contradiction_of, damage_of
from crossfoot.index.store import (
    HEADER,
    SAMPLE_ARRAYS,
    TOKEN_ARRAYS,
    DataIndex,
    array_path,
    header_text,
    open_index,
    segment_digests,
)
from crossfoot.index.verified import verified_index
from crossfoot.written.run_file import RunFile, load_run

GOOD = {"instruction": "说出三种水果", "input": "", "output": "苹果、梨、桃。"}

ROWS = [
    {"instruction": f"问题 {i}", "input": "x" * (i % 3), "output": f"答 {i} " + "字" * (i % 5)}
    for i in range(12)
]
DTYPES = TOKEN_ARRAYS | SAMPLE_ARRAYS | {"offsets": "<i8"}


def alpaca2(instruction: str, extra: str = "") -> str:
    """The recipe's prompt, as data carried into it by hand."""
    asked = f"{instruction}\n{extra}" if extra else instruction
    system = "You are a helpful assistant. 你是一个乐于助人的助手。"
    return f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{asked} [/INST]"


def written_run(folder: Path, files: list[str], tokenizer: str = "builtin:tiny", **data: Any) -> RunFile:
    """A run config on these files, written below `folder` and loaded as a user's would be."""
    section = {"train": files, "max_seq_len": 256, **data}
    config = {
        "run": {"name": "t", "dir": str(folder / "runs" / "t")},
        "model": {"path": "builtin:tiny"},
        "tokenizer": {"path": tokenizer},
        "data": section,
        "batch": {"micro_batch_size": 1, "grad_accum_steps": 1},
        "lr": {"reference": 0.0001},
        "train": {"epochs": 1},
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")
    return load_run(str(path))


def jsonl(path: Path, *records: Any) -> str:
    """Write records one a line; a str is written as it is. Returns the path as text."""
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def held(run: RunFile) -> DataIndex:
    return verified_index(run, run.config.data.train)


def forge(index: DataIndex, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Alter arrays as somebody would who then works out digests, totals and checksums again."""
    arrays = {n: np.fromfile(array_path(index.folder, n), dtype=dtype) for n, dtype in DTYPES.items()}
    before = {name: array.copy() for name, array in arrays.items()}
    change(arrays)
    for i in range(index.num_samples):
        part = slice(int(arrays["offsets"][i]), int(arrays["offsets"][i + 1]))
        digests = segment_digests(arrays["tokens"][part], arrays["trained"][part])
        for name, digest in zip(("token_digests", "digests"), digests, strict=True):
            if arrays[name][i] == before[name][i]:
                arrays[name][i] = digest
    for name, array in arrays.items():
        array.tofile(array_path(index.folder, name))
    checksums = {
        name: sha256(Path(index.folder, name).read_bytes()).hexdigest() for name in index.header.checksums
    }
    totals = {name: int(arrays[name].sum()) for name in ("trained_tokens", "lost_tokens")}
    totals["truncated_samples"] = int(np.count_nonzero(arrays["lost_tokens"]))
    header = replace(index.header, checksums=checksums, **totals)  # type: ignore[arg-type]
    Path(index.folder, HEADER).write_text(header_text(header), encoding="utf-8")
    forged = open_index(index.folder, index.files)
    assert damage_of(forged.folder, forged.header) is None and contradiction_of(forged) is None


def alter_tokens(arrays: dict[str, np.ndarray]) -> None:
    arrays["tokens"][arrays["offsets"][4] - 3] += 1  # of sample 3


def alter_mask(arrays: dict[str, np.ndarray]) -> None:
    first = int(arrays["offsets"][3])
    arrays["trained"][first + int(np.argmax(arrays["trained"][first:])) - 1] = 1
    arrays["trained_tokens"][3] += 1
