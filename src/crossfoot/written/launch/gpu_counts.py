"""SLURM's ways to write a number of GPUs: `8`, `a100:8`, `gpu:a100:4,nvme:1`."""

from __future__ import annotations

import re

from crossfoot.written.launch.statement import Layer, Option

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


def is_about_gpus(option: Option) -> bool:
    """Whether an option of sbatch or srun says how many GPUs."""
    if option.name in ("--gpus", "--gpus-per-node", "--gpus-per-task", "--gpus-per-socket"):
        return True
    return option.name in ("--gres", "--tres-per-node", "--tres-per-task") and "gpu" in (
        option.value or "gpu"
    )


def may_ask_for_gpus(layer: Layer) -> bool:
    """Whether SLURM gives GPUs for it, or may: a part of it is not known. `--exclusive` takes whole nodes."""
    if not layer.is_complete or layer.unknown or layer.get("--exclusive"):
        return True
    asked = [option.value or "" for option in layer.options if is_about_gpus(option)]
    return any(
        (gres_count if "gpu" in value else gpu_count)(value.replace("gres/gpu", "gpu")) != 0
        for value in asked
    )
