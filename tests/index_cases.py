"""Small runs and data files for the tests of the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crossfoot.written.run_file import RunFile, load_run

GOOD = {"instruction": "说出三种水果", "input": "", "output": "苹果、梨、桃。"}


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
