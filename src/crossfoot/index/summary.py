"""What an index holds and what its data lost, in words: of all files, and of each where there are several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crossfoot.data.findings import OVER_LONG
from crossfoot.index.store import DataIndex
from crossfoot.phrases import counted


@dataclass(frozen=True)
class Losses:
    """Of one file, or of all. left_out, over_long: records, the latter for their length (data.over_long:
    drop). truncated: samples cut at data.max_seq_len. split: records that became several samples.
    lost_tokens: trained tokens, cut off.
    """

    left_out: int
    over_long: int
    truncated: int
    split: int
    lost_tokens: int

    @property
    def words(self) -> str:
        """`2 left out, 1 too long, 3 cut short (losing 40 trained tokens), 1 split`; what is none is not
        said.
        """
        said = (
            (self.left_out, f"{self.left_out:,} left out"),
            (self.over_long, f"{self.over_long:,} left out as over-long"),
            (
                self.truncated,
                f"{self.truncated:,} cut short (losing {counted(self.lost_tokens, 'trained token')})",
            ),
            (self.split, f"{self.split:,} split into several samples"),
        )
        return ", ".join(words for number, words in said if number)


def losses(index: DataIndex) -> Losses:
    """Of all files of a whole index, as its header counts them."""
    header = index.header
    return Losses(
        left_out=header.rejected_records - header.over_long_records,
        over_long=header.over_long_records,
        truncated=header.truncated_samples,
        split=header.split_records,
        lost_tokens=header.lost_tokens,
    )


def losses_by_file(index: DataIndex) -> tuple[Losses, ...]:
    """Of each file of a whole index, counted from its arrays and its list of rejects."""
    files = len(index.files)
    rejects = Counter((one.file_id, one.code == OVER_LONG) for one in index.rejects)
    lost = np.bincount(index.file_ids, index.lost_tokens, files).astype(np.int64)
    cut = np.bincount(index.file_ids[index.lost_tokens > 0], minlength=files)
    split = np.zeros(files, dtype=np.int64)
    if index.header.task == "sft":
        again = np.flatnonzero((np.diff(index.numbers) == 0) & (np.diff(index.file_ids) == 0))
        firsts = again[np.diff(again, prepend=-2) > 1]
        split = np.bincount(index.file_ids[firsts], minlength=files)
    return tuple(
        Losses(rejects[n, False], rejects[n, True], int(cut[n]), int(split[n]), int(lost[n]))
        for n in range(files)
    )


def losses_of_files(index: DataIndex) -> Iterator[tuple[str, str]]:
    """(file, what it lost in words) for each file that lost something, where there are several."""
    if len(index.files) > 1:
        for file, lost in zip(index.files, losses_by_file(index), strict=True):
            if lost.words:
                yield file, lost.words


def summary(index: DataIndex) -> Iterator[str]:
    """A line on a whole index, and one on each of its files that lost something."""
    header = index.header
    yield (
        f"{index.folder}: {header.num_samples:,} samples, {header.real_tokens:,} tokens, "
        f"{header.trained_tokens:,} of them trained; {losses(index).words or 'nothing left out or cut short'}"
    )
    for file, words in losses_of_files(index):
        yield f"  {file}: {words}"
