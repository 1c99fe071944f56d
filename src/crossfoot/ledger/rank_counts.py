"""What each rank did in one step, column by column, and the short form of it for many ranks.

A step as planned on many ranks is written as one digest over what was measured. The receipt works the same
columns out from the lock and compares: what is left out is held against the promise all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

MOST_RANKS_LISTED = 16
"""A step as planned of more ranks is written without its columns."""


@dataclass(frozen=True)
class RankCounts:
    """Columns with one entry for each rank that sent a record, in ascending order of the ranks.

    Raises ValueError when they are not of one length.
    """

    rank: tuple[int, ...]
    samples: tuple[int, ...]
    real_tokens: tuple[int, ...]
    trained_tokens: tuple[int, ...]
    token_slots: tuple[int, ...]
    forwards: tuple[int, ...]

    def __post_init__(self) -> None:
        if len({len(getattr(self, one.name)) for one in fields(self)}) != 1:
            raise ValueError("its columns are not of one length")

    @property
    def sha256(self) -> str:
        """Of what was measured in these ranks."""
        columns = (self.rank, self.samples, self.real_tokens, self.trained_tokens, self.forwards)
        return counts_sha256([np.array(column, dtype=np.int64) for column in columns])


@dataclass(frozen=True, slots=True)
class PerRank:
    """What a ledger line says of its ranks. ranks: how many sent a record. sha256: of their columns as they
    were measured (`counts_sha256`). columns: None where the step was as planned and has many ranks.
    """

    ranks: int
    sha256: str
    columns: RankCounts | None

    def short(self) -> PerRank:
        """The same without columns, where there are too many to list."""
        return self if self.ranks <= MOST_RANKS_LISTED else PerRank(self.ranks, self.sha256, None)


def per_rank_of(columns: Mapping[str, Sequence[int]]) -> PerRank:
    """With all columns. columns: by the names of RankCounts."""
    counts = RankCounts(**{name: tuple(column) for name, column in columns.items()})
    return PerRank(len(counts.rank), counts.sha256, counts)


def counts_sha256(columns: Sequence[Int64Array]) -> str:
    """First 16 hex digits of the sha256 over rank, samples, real tokens, trained tokens and forwards of every
    rank: column after column, as little-endian 64-bit words.
    """
    return hashlib.sha256(np.concatenate(columns).astype("<i8").tobytes()).hexdigest()[:16]


def per_rank_of_rows(rows: Any) -> dict[str, Any]:
    """The document of a per_rank that an older ledger line has as one object a rank. Raises TypeError and
    KeyError for what is none.
    """
    names = [one.name for one in fields(RankCounts)]
    columns = {name: [row[name] for row in rows] for name in names}
    digest = per_rank_of(columns).sha256
    return {"ranks": len(rows), "sha256": digest, "columns": columns}
