"""The sources of a run with their numbers: what the index has of each, and what an epoch takes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from crossfoot.arithmetic.held_out import part_of
from crossfoot.arithmetic.mixture import Share, shares_of
from crossfoot.data.source_findings import no_sample_of_source, same_name
from crossfoot.data.train_sources import TrainSource, train_sources
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.locate import estimate_samples
from crossfoot.index.store import DataIndex
from crossfoot.written.data_sources import SourceSection
from crossfoot.written.run_file import RunFile


@dataclass(frozen=True)
class PlannedSource:
    """One entry of data.train. name: what plan and receipt call it. file_ids: of its files in the index,
    first and behind the last. samples: that the index has of it.
    """

    source: TrainSource
    name: str
    file_ids: tuple[int, int]
    samples: int
    share: Share

    @property
    def times(self) -> float:
        """How often an epoch trains each of the samples that are used."""
        return self.share.per_epoch / self.share.samples

    @property
    def numbers(self) -> dict[str, Any]:
        """What the lock says of it."""
        return {
            "name": self.name,
            "files": len(self.source.files),
            "samples": self.samples,
            "used_samples": self.share.samples,
            "samples_per_epoch": self.share.per_epoch,
        }


def whole_source(samples: int) -> PlannedSource:
    """All of an index that no file is named for."""
    written = TrainSource(SourceSection(path="made up"), ())
    return PlannedSource(written, "made up", (0, 1), samples, Share(0, samples, samples))


def planned_sources(run: RunFile, index: DataIndex | None) -> tuple[PlannedSource, ...]:
    """Every source with its numbers; without an index its records are counted. Raises Refused for sources of
    which an epoch has nothing, and for two of one name.
    """
    sources = train_sources(run.config.data)
    ends = np.cumsum([len(source.files) for source in sources]).tolist()
    spans = list(pairwise((0, *ends)))
    counts = _estimated(run, sources) if index is None else _counted(index, (0, *ends))
    used = [
        min(count, source.written.max_samples or count) for count, source in zip(counts, sources, strict=True)
    ]
    shares = shares_of(counts, used, [source.written.weight for source in sources])
    names, twice = _names(run, sources)
    found = tuple(map(PlannedSource, sources, names, spans, counts, shares))
    if findings := [*_empty(run, found), *twice]:
        raise Refused(findings)
    return found


def are_told_apart(sources: Sequence[PlannedSource]) -> bool:
    """Whether the samples of each source are counted apart: of several, of one with a weight or a limit."""
    return len(sources) > 1 or any(not source.source.written.is_plain for source in sources)


def _counted(index: DataIndex, ends: Sequence[int]) -> list[int]:
    """Samples of each source; they stand in the order of the files."""
    return [high - low for low, high in pairwise(np.searchsorted(index.file_ids, ends).tolist())]


def _estimated(run: RunFile, sources: Sequence[TrainSource]) -> list[int]:
    """About; what is held out for validation is taken from all alike. Raises NothingLeft."""
    data = run.config.data
    counts = [estimate_samples(source.files, data.task, data.max_seq_len) for source in sources]
    if data.held_out is None:
        return counts
    left = sum(counts) - part_of(sum(counts), data.held_out)
    ends = [round(end * left / sum(counts)) for end in np.cumsum(counts).tolist()]
    return [end - before for before, end in pairwise((0, *ends))]


def _empty(run: RunFile, sources: Sequence[PlannedSource]) -> Iterator[Finding]:
    for number, one in enumerate(sources):
        if not one.share.per_epoch:
            written = one.source.written
            key = ("data", "train", number, *(("weight",) if one.share.samples else ()))
            yield no_sample_of_source(run.place(*key), one.name, one.share.samples, written.weight)


def _names(run: RunFile, sources: Sequence[TrainSource]) -> tuple[list[str], list[Finding]]:
    """What each is called; a path that is listed again is told apart by its number."""
    names: list[str] = []
    findings = []
    for number, source in enumerate(sources):
        name = source.written.called
        if name in names and source.written.name is None:
            name = f"{name} (source {number + 1})"
        elif name in names:
            places = (run.place("data", "train", one, "name") for one in (number, names.index(name)))
            findings.append(same_name(name, *places))
        names.append(name)
    return names, findings
