"""Building the index: read, tokenise, write beside, rename. A crash at any moment leaves nothing that looks
like an index.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING

from crossfoot.data.conversation_findings import template_unusable
from crossfoot.data.findings import Problem, no_samples
from crossfoot.data.lost_characters import LostCharacters
from crossfoot.data.numbering import numbering_of
from crossfoot.data.problems import Problems
from crossfoot.data.records import Task
from crossfoot.data.samples import BlockCutter, Encoder, Sample, Shape
from crossfoot.data.special_text import NOTHING_SPELLED, SpelledRecords
from crossfoot.data.template_source import shape_of
from crossfoot.data.tokenizer import identity, load_encoder, local_folder, reader, tokenizer_path
from crossfoot.data.train_sources import place_of
from crossfoot.data.unread_fields import add_unread
from crossfoot.durable import sync
from crossfoot.findings.finding import Place, Refused
from crossfoot.index.chunks import Chunk, chunks_of
from crossfoot.index.columns import columns_of
from crossfoot.index.findings import builder_silent, data_changed, index_unwritable, worker_lost
from crossfoot.index.locate import (
    address_of,
    count_records,
    refuse_unopenable,
    tokenizer_refusal,
)
from crossfoot.index.sources import SourceState, source_states
from crossfoot.index.store import FORMAT_VERSION, DataIndex, IndexDamaged, IndexHeader, Source, open_index
from crossfoot.index.tokenised import Part, Tokeniser
from crossfoot.index.waiting import ALIVE, PATIENCE_SECONDS, Pulse, make_building_folder, wait_while_building
from crossfoot.index.workers import Recipe, WorkerLost, Workers, workers_for
from crossfoot.index.writer import IndexWriter
from crossfoot.phrases import said_by
from crossfoot.processes import usable_cores

if TYPE_CHECKING:
    from crossfoot.written.run_file import RunFile

Progress = Callable[[int, Callable[[], int | None]], None]
"""Called after each chunk with the records done, and what counts all of them or says None: it takes a moment.
"""
PartsOf = Callable[[Iterable[Chunk]], Iterator[Part]]


def ensure_index(
    run: RunFile,
    files: list[str],
    *,
    is_builder: bool,
    progress: Progress | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    states: Sequence[SourceState] | None = None,
) -> DataIndex:
    """The index of these files: opened when it is there, else built (builder) or waited for (every other
    process).

    Before process groups exist, so no rank of a group can time out. Two builders at once both end with a good
    index. patience_seconds: how long the others wait without a sign of life. states: the files as they were
    read just now; without, they are read here. Raises Refused: CF50x and CF51x (data), CF52x (tokenizer),
    CF53x (index).
    """
    refuse_unopenable(files, run.config.data.task, run)
    path = tokenizer_path(run.config)
    try:
        os.makedirs(run.index_dir, exist_ok=True)
    except OSError as error:
        raise Refused(index_unwritable(Place(run.index_dir), said_by(error))) from error
    try:
        folder = local_folder(path, run.index_dir, may_write=True)
        mark = identity(path, folder or path)
    except (OSError, ValueError) as error:
        raise Refused(tokenizer_refusal(run, error)) from error
    if states is None:
        states = source_states(files, run.index_dir, reads=True)
    address = address_of(run, states, mark)
    final = os.path.join(run.index_dir, address)
    if (index := _open_whole(final, files)) is not None:
        return index
    if not is_builder:
        why = wait_while_building(run.index_dir, address, lambda: _is_whole(final, files), patience_seconds)
        if why is not None:
            raise Refused(builder_silent(Place(run.index_dir), why))
        return open_index(final, files)
    try:
        _build(run, states, address, progress)
    except OSError as error:
        reason = f"{said_by(error)}: {error.filename or run.index_dir}"
        raise Refused(index_unwritable(Place(run.index_dir), reason)) from error
    return open_index(final, files)


def _open_whole(folder: str, files: Sequence[str]) -> DataIndex | None:
    try:
        return open_index(folder, files)
    except IndexDamaged:
        return None


def _is_whole(folder: str, files: Sequence[str]) -> bool:
    return _open_whole(folder, files) is not None


def _build(run: RunFile, states: Sequence[SourceState], address: str, progress: Progress | None) -> None:
    """Build into a temporary folder and rename it to the address; the temporary folder is gone afterwards
    either way.
    """
    temporary = make_building_folder(run.index_dir)
    try:
        with Pulse(run.index_dir, address, temporary):
            _write(run, states, address, temporary, progress)
            _publish(temporary, os.path.join(run.index_dir, address), [state.path for state in states])
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: str, final: str, files: Sequence[str]) -> None:
    """Rename the finished folder into place. If another builder was first, its index is as good: keep it.

    A damaged index in the way is moved aside and removed.
    """
    aside = f"{temporary}-damaged"
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(temporary, ALIVE))
    try:
        for attempt in range(5):
            try:
                os.rename(temporary, final)
                break
            except OSError:
                if _is_whole(final, files):
                    return
                if attempt == 4 or not os.path.isdir(temporary):
                    raise
                with contextlib.suppress(OSError):  # another builder may have moved it meanwhile
                    os.rename(final, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync(os.path.dirname(final))


@dataclass
class _Reading:
    """How far the reading is, and what is counted on the way; the only thing here that changes."""

    records: list[int]
    problems: Problems
    lost: LostCharacters
    unread: Counter[str] = field(default_factory=Counter)
    special_text: SpelledRecords = NOTHING_SPELLED
    template_text: SpelledRecords = NOTHING_SPELLED
    split_records: int = 0
    cut_short: bool = False

    def take(self, part: Part, file: str) -> list[Problem]:
        """Take in the next part of all; the records of it that are left out."""
        self.records[part.file_id] += part.records
        add_unread(self.unread, part.unread)
        self.lost.add(*part.lost)
        self.split_records += part.split_records
        self.special_text += part.special_text
        self.template_text += part.template_text
        left_out = [one for one in part.unusable if self.problems.note(part.file_id, one)]
        if self.problems.is_enough:
            self.cut_short = True  # refused anyway: how the rest is tokenised is of no interest
        else:
            left_out += [one for one in part.untrainable if self.problems.note(part.file_id, one)]
        if part.is_last and not self.records[part.file_id] and not self.problems.refuses:
            self.problems.note(part.file_id, Problem("CF505", 0, f"{file}: no record", fatal=True))
        return sorted(left_out, key=lambda one: one.number)


def _write(
    run: RunFile, states: Sequence[SourceState], address: str, folder: str, progress: Progress | None
) -> None:
    """Read, tokenise and write everything into `folder`, header last. Raises Refused for bad data."""
    data = run.config.data
    files = [state.path for state in states]
    path = tokenizer_path(run.config)
    encoder = load_encoder(path, run.index_dir, place=run.tokenizer_place, special_text=data.special_text)
    shape = shape_of(run)
    _refuse_without_places(run, encoder, shape)
    cutter = BlockCutter(data.max_seq_len)
    problems = Problems(files, stops=data.bad_samples == "stop")
    reading = _Reading([0] * len(files), problems, LostCharacters(encoder.encode))
    expected = cache(partial(_expected, files, data.task))
    workers = workers_for(sum(state.bytes for state in states), usable_cores())
    recipe = Recipe(path, run.index_dir, data.special_text, shape)
    with IndexWriter(folder) as writer, _tokenising(recipe, encoder, workers) as parts_of:
        for part in parts_of(chunks_of(files)):
            for problem in reading.take(part, files[part.file_id]):
                writer.reject(part.file_id, problem)
            if part.columns is not None:
                writer.append(part.columns)
            _append(writer, cutter.blocks(part.documents))
            if progress:
                progress(sum(reading.records), expected)
        if data.task == "pretrain":
            _append(writer, cutter.last_block())
        problems.refuse(records=sum(reading.records), cut_short=reading.cut_short)
        _refuse_changed(run, states)
        counts = writer.counts
        if not counts["num_samples"]:
            raise Refused(no_samples(place_of(run, files[0]), _why_empty(files, reading, counts)))
        sources = tuple(
            Source(state.path, state.bytes, state.sha256, records, numbering_of(state.path))
            for state, records in zip(states, reading.records, strict=True)
        )
        header = IndexHeader(
            format_version=FORMAT_VERSION,
            address=address,
            task=data.task,
            template=shape.template,
            columns=shape.columns,
            max_seq_len=data.max_seq_len,
            bad_samples=data.bad_samples,
            special_text=data.special_text,
            sources=sources,
            tokenizer=encoder.facts,
            reader=reader(path, local_folder(path, run.index_dir, may_write=False) or path),
            duplicate_samples=writer.duplicate_samples(),
            left_out_tokens=cutter.left_out_tokens,
            special_text_records=reading.special_text,
            template_records=reading.template_text,
            unread_fields=dict(reading.unread),
            judged_characters=reading.lost.characters,
            lost_characters=reading.lost.lost,
            lost_words=tuple(reading.lost.examples),
            over_long=shape.over_long if data.task == "sft" else "truncate",
            split_records=reading.split_records,
            checksums={},
            **counts,
        )
        writer.finish(header, encoder.reading)


def _refuse_without_places(run: RunFile, encoder: Encoder, shape: Shape) -> None:
    """Raise Refused where the template needs to know which characters a token is made of, and the tokenizer
    does not say.
    """
    if shape.template is None or not shape.template.source:
        return
    try:
        encoder.encode_placed(["a"], [()])
    except ValueError as error:
        raise Refused(template_unusable(run.place("data", "template"), str(error))) from error


@contextlib.contextmanager
def _tokenising(recipe: Recipe, encoder: Encoder, workers: int) -> Iterator[PartsOf]:
    """What makes parts of chunks, in order: so many workers, or this process itself. Raises Refused (CF562)
    when a worker is lost.
    """
    if not workers:
        yield partial(map, Tokeniser(encoder, recipe.shape))
        return
    try:
        with Workers(recipe, workers) as started:
            yield started.parts
    except WorkerLost as error:
        raise Refused(worker_lost(Place(recipe.index_dir), str(error), workers)) from error


def _append(writer: IndexWriter, blocks: Iterator[Sample]) -> None:
    if samples := list(blocks):
        writer.append(columns_of(samples))


def _expected(files: Sequence[str], task: Task) -> int | None:
    """The records to come, for the progress display; None when they cannot be counted (the reading says
    why).
    """
    try:
        return count_records(files, task)
    except Refused:
        return None


def _why_empty(files: Sequence[str], reading: _Reading, counts: dict[str, int]) -> str:
    names = ", ".join(files)
    if sum(reading.records):
        why = "data.over_long: drop" if counts["over_long_records"] else "data.bad_samples: skip"
        return f"{names}: all {counts['rejected_records']} records were left out ({why})"
    return f"{names}: no record"


def _refuse_changed(run: RunFile, states: Sequence[SourceState]) -> None:
    """Raise Refused when the bytes of a file are not those of which the hash was taken. Reads all of them:
    size and time are no witnesses.
    """
    now = source_states([state.path for state in states], run.index_dir, reads=True)
    findings = [
        data_changed(place_of(run, before.path), f"{before.path} was written to meanwhile")
        for before, after in zip(states, now, strict=True)
        if before.sha256 != after.sha256
    ]
    if findings:
        raise Refused(findings)
