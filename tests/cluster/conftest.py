"""Every test in this folder runs on machines of its own making, or says why it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import lab as machines
from support import slurm_lab
from support.lab import Lab
from support.slurm_lab import slurm_of


@pytest.fixture(scope="session", autouse=True)
def _machines_can_be_made() -> None:
    if why := machines.why_not(*slurm_lab.PROGRAMS):
        pytest.skip(why)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Head, two nodes, and SLURM on them."""
    with slurm_of(tmp_path_factory.mktemp("lab") / "lab") as lab:
        yield lab


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs of one file of tests."""
    return tmp_path_factory.mktemp("runs")
