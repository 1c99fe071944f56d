"""The index that a run starts with: whole by its checksums, and held against the files it was made of."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from crossfoot.data.tokenizer import local_folder, tokenizer_path
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.index.build import Progress, ensure_index
from crossfoot.index.checksums import ReadingLine, damage_of
from crossfoot.index.findings import index_differs, index_unwritable
from crossfoot.index.locate import refuse_unopenable
from crossfoot.index.look import index_findings
from crossfoot.index.reference_check import Comparison, Difference, compare_with_files
from crossfoot.index.sources import SourceState, source_states
from crossfoot.index.store import DataIndex
from crossfoot.output import tell

if TYPE_CHECKING:
    from crossfoot.written.run_file import RunFile

HELD, DAMAGED = "", "damaged: "
SLOWEST_BYTES_PER_SECOND = 20e6
"""Of storage that an index is read from: how long others wait for the one that reads it."""

Says = Callable[[Callable[[], str], float], str]
"""Called on every rank with (what the builder does, how many seconds it may take): the builder does it, and
all get its word. What it refuses is raised on all ranks.
"""


def alone(look: Callable[[], str], _: float) -> str:
    """The word of the only rank."""
    return look()


def verified_index(
    run: RunFile,
    files: list[str],
    *,
    is_builder: bool = True,
    says: Says = alone,
    progress: Progress | None = None,
    name: str = "index",
) -> DataIndex:
    """`ensure_index` of the files as the builder reads them now, and then the builder reads the whole index
    and re-tokenises a sample of its records while the others wait. What is damaged or differs is built anew,
    once.

    Says on stderr what was found, calling it `name`. Raises Refused: as `ensure_index`, and CF531, CF535.
    """
    refuse_unopenable(files, run.config.data.task, run)
    size = sum(map(os.path.getsize, files))
    for may_build in (True, False):
        told = says(partial(_read, run, files), size / SLOWEST_BYTES_PER_SECOND)
        states = tuple(SourceState(**one) for one in json.loads(told))
        index = ensure_index(run, files, is_builder=is_builder, progress=progress, states=states)
        patience = 5 * index.header.real_tokens / SLOWEST_BYTES_PER_SECOND
        word = says(partial(_look, run, index, may_build, name), patience)
        if word == HELD:
            break
        # Only now: whoever had not opened it yet would wait for a builder who waits for him.
        says(partial(_put_aside, run, index, word), patience)
    return index


def _read(run: RunFile, files: Sequence[str]) -> str:
    """The bytes that lie there, as a word for all ranks: no other one reads them."""
    return json.dumps([asdict(state) for state in source_states(files, run.index_dir, reads=True)])


def _look(run: RunFile, index: DataIndex, may_build: bool, name: str) -> str:
    """HELD, or what is wrong with the index, if it may be built anew. Raises Refused when it may not."""
    damage = damage_of(index.folder, index.header, ReadingLine())
    if damage is not None:
        if not may_build:
            reason = f"{damage}, right after it was: the storage does not keep what is written to it"
            raise Refused(index_unwritable(Place(index.folder), reason))
        return DAMAGED + damage
    if errors := [one for one in index_findings(run, index) if one.counts_as == "error"]:
        raise Refused(errors)
    began = time.monotonic()
    path = tokenizer_path(run.config)
    folder = local_folder(path, run.index_dir, may_write=False) or path
    comparison = compare_with_files(index, folder, f"{run.config.run.seed} {index.address}")
    if comparison.differences:
        first = comparison.differences[0]
        if not may_build:
            raise Refused(_refusal(index, comparison))
        return _words(first)
    for note in (*index.spelled_notes, *comparison.notes):
        tell(f"{name}: {note}")
    if comparison.compared:
        counts = f"{comparison.compared:,} of {comparison.total:,} {index.unit}"
        seconds = time.monotonic() - began
        tell(f"{name} held against its files: {counts} re-tokenised, equal ({seconds:.1f} s)")
    return HELD


def _put_aside(run: RunFile, index: DataIndex, word: str) -> str:
    """Make way for an index that is built anew: a damaged one is removed, and so is one that holds what its
    files never said; files that have other bytes by now come to another address.
    """
    if word.startswith(DAMAGED):
        tell(f"the index {index.folder} is damaged ({word.removeprefix(DAMAGED)}): it is built anew")
        _remove(index)
        return word
    now = source_states(index.files, run.index_dir, reads=True)
    changed = [
        state.path
        for state, source in zip(now, index.header.sources, strict=True)
        if state.sha256 != source.sha256
    ]
    what = f"the index {index.folder} does not hold what its files say"
    if changed:
        what = f"{', '.join(changed)} was written to meanwhile"
    else:
        _remove(index)
    tell(f"{what} ({word}): the index is built anew")
    return word


def _remove(index: DataIndex) -> None:
    """Out of the way at once, so that nobody opens it, then gone."""
    aside = f"{index.folder}-{os.getpid()}-removed"
    try:
        os.rename(index.folder, aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(index_unwritable(Place(index.folder), str(error.strerror))) from error
    shutil.rmtree(aside, ignore_errors=True)


def _refusal(index: DataIndex, comparison: Comparison) -> Finding:
    first = comparison.differences[0]
    more = len(comparison.differences) - 1
    return index_differs(
        first.place or Place(index.folder), first.message + (f"; and {more:,} more records" if more else "")
    )


def _words(difference: Difference) -> str:
    return ": ".join(filter(None, (difference.origin, difference.message)))
