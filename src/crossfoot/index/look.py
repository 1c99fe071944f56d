"""A look at some of the samples, before anything is indexed: fast and torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataLook:
    """What a look found."""
