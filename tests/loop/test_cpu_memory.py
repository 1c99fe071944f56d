"""Memory of a step on a CPU: the process keeps what it frees, unless its user has said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MADE_AND_DROPPED = """
import os, sys
import psutil, torch
from crossfoot.training.cpu_memory import keep_memory
if sys.argv[1] == "kept":
    keep_memory(os.environ)
before = psutil.Process().memory_info().rss
torch.ones(64 << 20)
print((psutil.Process().memory_info().rss - before) >> 20, os.environ.get("LRU_CACHE_CAPACITY"))
"""


def _mebibytes(kept: str, **said: str) -> tuple[int, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LRU_"))}
    done = subprocess.run(
        [sys.executable, "-c", MADE_AND_DROPPED, kept], env=environ | said, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    size, capacity = done.stdout.split()
    return int(size), capacity


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_a_step_frees_stays_with_the_process() -> None:
    """256 MiB are made and dropped."""
    assert _mebibytes("as it comes")[0] < 64
    size, capacity = _mebibytes("kept")
    assert size >= 256 and capacity == "128"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_the_user_says_of_memory_counts() -> None:
    """A threshold of malloc, a capacity of oneDNN's cache."""
    size, capacity = _mebibytes("kept", MALLOC_TRIM_THRESHOLD_="131072", LRU_CACHE_CAPACITY="7")
    assert size < 64 and capacity == "7"
