"""Variables that decide how ranks run, and must be the same wherever they are started."""

from __future__ import annotations

from collections.abc import Mapping

FORWARDED = (
    *("DS_ACCELERATOR", "OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "MODELSCOPE_CACHE"),
)
"""Those that are set here are written into what is rendered, so that it does the same from another shell."""


def forwarded(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of this shell that are handed on."""
    return {name: environ[name] for name in FORWARDED if environ.get(name)}
