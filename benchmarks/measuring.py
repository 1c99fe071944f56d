"""What every benchmark says beside its numbers: the machine, the versions, the command; spreads, tables."""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "deepspeed"),
    *("tokenizers", "sentencepiece", "numpy", "crossfoot"),
)


def machine() -> dict[str, Any]:
    """What the numbers depend on, and nothing that names the machine. memory: GiB. load: of one minute, now:
    on a busy machine compare CPU seconds, not wall time.
    """
    told = _cpuinfo()
    flags = told.get("flags", "").split()
    return {
        "processor": told.get("model name", platform.processor() or "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "extensions": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Of those packages that are installed here."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line of this process, from the root of the project, without a path of this machine."""
    words = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def spread(values: Sequence[float]) -> dict[str, float]:
    """median, least and most of these."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def clocks() -> tuple[float, float]:
    """(wall, CPU) seconds of this process and its threads, from some beginning."""
    return time.perf_counter(), time.process_time()


def peak_rss_bytes() -> int:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def save(name: str, found: Mapping[str, Any], folder: Path = DATA) -> Path:
    """benchmarks/data/NAME.json: what was found, and what it was found with."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"machine": machine(), "versions": versions(), "command": command(), **found}
    path = folder / f"{name}.json"
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def load(name: str, folder: Path = DATA) -> dict[str, Any] | None:
    """What `save` wrote; None where there is none."""
    path = folder / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, its columns aligned: the first to the left, numbers to the right."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    right = [column > 0 and any(cell(line, column) for line in lines[1:]) for column in range(len(head))]
    rule = [
        ("-" * (width + 1) + ":" if end else "-" * (width + 2))
        for width, end in zip(widths, right, strict=True)
    ]
    shown = [
        "| " + " | ".join(
            text.rjust(width) if end else text.ljust(width)
            for text, width, end in zip(line, widths, right, strict=True)
        ) + " |"
        for line in lines
    ]  # fmt: skip
    return "\n".join([shown[0], "|" + "|".join(rule) + "|", *shown[1:]])


def cell(line: Sequence[str], column: int) -> bool:
    """Whether a cell of a table begins like a number."""
    return line[column][:1].isdigit()
