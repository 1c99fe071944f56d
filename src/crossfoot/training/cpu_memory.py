"""Memory of a step on a CPU: kept by the process, and not held twice.

A step makes and drops matrices as large as the vocabulary. glibc gives those back to the system at once, and
every one made anew costs a page fault for each 4 kB: a seventh of a step. oneDNN keeps the code of the last
1,024 products that it has seen, twice; packed steps have ever other sizes, so that is more than a GiB.
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableMapping

PRODUCTS = "128"
"""Kept by oneDNN. A step of two slots has some 60 kinds."""
_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""Of torch around oneDNN, for each thread; of oneDNN. Both are read at the first product."""
_MALLOC = ("MALLOC_", "GLIBC_TUNABLES")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's names for mallopt, malloc.h."""


def keep_memory(environ: MutableMapping[str, str]) -> None:
    """Let this process keep what it frees, and oneDNN a step's products. What `environ` (os.environ) says of
    either stays as it is said; where malloc isn't glibc's, nothing is changed.
    """
    for name in _CACHES:
        environ.setdefault(name, PRODUCTS)
    if any(name.startswith(_MALLOC) for name in environ):
        return
    set_malloc(maps=0, trim=-1)


def set_malloc(maps: int, trim: int) -> None:
    """maps: as many of the large pieces get a mapping of their own, which is gone when it is freed (glibc:
    65,536). trim: so many free bytes at the end of the heap are given back (128 KiB); -1: none ever.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_MMAP_MAX, maps)
        change(_TRIM_THRESHOLD, trim)
