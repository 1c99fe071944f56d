"""A look at some of the samples, before anything is indexed: fast and torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from crossfoot.index.store import DataIndex
from crossfoot.written.run_file import RunFile


@dataclass(frozen=True)
class DataLook:
    """What a look found."""


def look_at(run: RunFile, index: DataIndex | None) -> DataLook | None:
    """A look at the run's data."""
    return None
