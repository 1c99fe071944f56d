"""SLURM's ways to write a number of GPUs: `8`, `a100:8`, `gpu:a100:4,nvme:1`."""

from __future__ import annotations

import re

_SOCKETS = re.compile(r"\([^)]*\)")


def gpu_count(text: str) -> int | None:
    """GPUs of a `--gpus-per-node`, `--gpus` or `--gpus-per-task` value; None when it is no such thing."""
    total = 0
    for part in _SOCKETS.sub("", text).split(","):
        last = part.rpartition(":")[2].strip()
        if not (last.isascii() and last.isdigit() and len(last) < 10):
            return None
        total += int(last)
    return total


def gres_count(text: str) -> int | None:
    """GPUs of a `--gres` value; None when it asks for none. `gpu` and `gpu:a100` are one."""
    total = None
    for part in _SOCKETS.sub("", text).split(","):
        words = part.strip().removeprefix("gres:").removeprefix("gres/").split(":")
        if words[0] != "gpu" or len(words) > 3:
            continue
        last = words[-1]
        is_count = last.isascii() and last.isdigit() and len(last) < 10
        total = (total or 0) + (int(last) if is_count else 1)
    return total
