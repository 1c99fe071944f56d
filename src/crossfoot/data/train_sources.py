"""The sources of a run: the entries of data.train, each with the files that it comes to."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossfoot.data.records import KINDS, Task
from crossfoot.findings.finding import Place

if TYPE_CHECKING:
    from crossfoot.written.config import DataSection
    from crossfoot.written.data_sources import SourceSection
    from crossfoot.written.run_file import RunFile


@dataclass(frozen=True)
class TrainSource:
    """One entry of data.train. files: in the order in which they are read."""

    written: SourceSection
    files: tuple[str, ...]


def train_sources(data: DataSection) -> tuple[TrainSource, ...]:
    """The sources as they lie there now, in the order of the config."""
    return tuple(TrainSource(one, files_of(one.path, data.task)) for one in data.sources)


def train_files(data: DataSection) -> list[str]:
    """The files of all sources, one behind the other: those of the index, in its order."""
    return [file for source in train_sources(data) for file in source.files]


def place_of(run: RunFile, file: str) -> Place:
    """Where the config names this data file; the file itself when it does not."""
    data = run.config.data
    for number, source in enumerate(train_sources(data)):
        if file in source.files:
            is_text = isinstance(data.train[number], str)
            return run.place("data", "train", number, *(() if is_text else ("path",)))
    if file in data.validation_files:
        return run.place("data", "validation", data.validation_files.index(file))
    return Place(file)


def files_of(path: str, task: Task) -> tuple[str, ...]:
    """The files that an entry means, sorted by name: of a folder those that the task reads, none of folders
    in it; of a pattern all that match. What comes to no file is itself, for `file_finding` to say what it is.
    """
    found: Iterable[str] = ()
    if os.path.isdir(path):
        found = (os.path.join(path, name) for name in _names(path) if is_data_file(name, task))
    elif not os.path.lexists(path) and glob.has_magic(path):
        found = glob.iglob(path, recursive=True)
    return tuple(sorted(one for one in found if not os.path.isdir(one))) or (path,)


def is_data_file(name: str, task: Task) -> bool:
    """Whether a file of a folder is one to read, by its name."""
    return not name.startswith(".") and name.lower().removesuffix(".gz").endswith(KINDS[task])


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
