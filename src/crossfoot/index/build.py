"""Building the index: read, tokenise, write beside, rename. A crash at any moment leaves nothing that looks
like an index.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crossfoot.data.findings import Problem, no_samples
from crossfoot.data.lost_characters import LostCharacters
from crossfoot.data.numbering import numbering_of
from crossfoot.data.problems import Problems
from crossfoot.data.records import Task, read_records
from crossfoot.data.samples import BlockCutter, Encoder, Sample, Texts, sft_samples, texts_of
from crossfoot.data.special_text import SpelledRecord, SpelledTally
from crossfoot.data.templates import TEMPLATES
from crossfoot.data.tokenizer import fingerprint, load_encoder, local_folder, tokenizer_path
from crossfoot.data.unread_fields import count_unread
from crossfoot.durable import sync
from crossfoot.findings.finding import Place, Refused
from crossfoot.index.findings import builder_silent, data_changed, index_unwritable
from crossfoot.index.locate import (
    address_of,
    count_records,
    place_of,
    refuse_unopenable,
    tokenizer_refusal,
)
from crossfoot.index.sources import SourceState, source_states
from crossfoot.index.store import FORMAT_VERSION, DataIndex, IndexDamaged, IndexHeader, Source, open_index
from crossfoot.index.waiting import ALIVE, PATIENCE_SECONDS, Pulse, make_building_folder, wait_while_building
from crossfoot.index.writer import IndexWriter
from crossfoot.phrases import said_by

if TYPE_CHECKING:
    from crossfoot.written.run_file import RunFile

Progress = Callable[[int, int | None], None]
"""Called with (records done, records in all or None) after each batch."""
BATCH_RECORDS = 1000
BATCH_CHARACTERS = 1_000_000


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
        folder = local_folder(path, run.index_dir, may_fetch=True)
        mark = fingerprint(path, folder or path)
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
    lost: LostCharacters
    unread: Counter[str] = field(default_factory=Counter)
    cut_short: bool = False


def _write(
    run: RunFile, states: Sequence[SourceState], address: str, folder: str, progress: Progress | None
) -> None:
    """Read, tokenise and write everything into `folder`, header last. Raises Refused for bad data."""
    data = run.config.data
    files = [state.path for state in states]
    path = tokenizer_path(run.config)
    encoder = load_encoder(path, run.index_dir, place=run.tokenizer_place, special_text=data.special_text)
    cutter = BlockCutter(encoder, data.max_seq_len)
    template = data.template if data.task == "sft" else None
    spelled = _Spelled.of(encoder, template)
    problems = Problems(files, stops=data.bad_samples == "stop")
    reading = _Reading([0] * len(files), LostCharacters(encoder.encode))
    expected = _expected(files, data.task) if progress else None
    with IndexWriter(folder) as writer:
        for batch in _batches(run, files, problems, writer, reading):
            if problems.is_enough:
                reading.cut_short = (
                    True  # refused anyway: what is left is read for broken lines, not tokenised
                )
            else:
                made = _samples(batch, encoder, cutter, run)
                writer.append(list(_sift(spelled.noted(batch, made), problems, writer)))
            if progress:
                progress(sum(reading.records), expected)
        if data.task == "pretrain":
            writer.append(list(cutter.last_block()))
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
            template=template,
            max_seq_len=data.max_seq_len,
            bad_samples=data.bad_samples,
            special_text=data.special_text,
            sources=sources,
            tokenizer=encoder.facts,
            duplicate_samples=writer.duplicate_samples(),
            left_out_tokens=cutter.left_out_tokens,
            special_text_records=spelled.special.counted,
            template_records=spelled.marks.counted,
            unread_fields=dict(reading.unread),
            judged_characters=reading.lost.characters,
            lost_characters=reading.lost.lost,
            lost_words=tuple(reading.lost.examples),
            checksums={},
            **counts,
        )
        writer.finish(header, encoder.reading)


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
        return f"{names}: all {counts['rejected_records']} records were left out (data.bad_samples: skip)"
    return f"{names}: no record"


def _batches(
    run: RunFile, files: Sequence[str], problems: Problems, writer: IndexWriter, reading: _Reading
) -> Iterator[list[Texts]]:
    """The texts of all good records, file by file, in batches of bounded size; bad ones go to problems or
    rejects.
    """
    task, template = run.config.data.task, run.config.data.template
    batch: list[Texts] = []
    characters = 0
    for file_id, file in enumerate(files):
        for record in read_records(file, task):
            reading.records[file_id] += not (isinstance(record, Problem) and record.fatal)
            texts = record if isinstance(record, Problem) else texts_of(record, file_id, task, template)
            if isinstance(texts, Problem):
                if problems.note(file_id, texts):
                    writer.reject(file_id, texts)
                continue
            if batch and characters + texts.characters > BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
            batch.append(texts)
            characters += texts.characters
            count_unread(reading.unread, texts.unread)
            reading.lost.see(texts.written)
            if len(batch) >= BATCH_RECORDS:
                yield batch
                batch, characters = [], 0
        if not reading.records[file_id] and not problems.refuses:
            problems.note(file_id, Problem("CF505", 0, f"{file}: no record", fatal=True))
    if batch:
        yield batch


def _samples(
    batch: Sequence[Texts], encoder: Encoder, cutter: BlockCutter, run: RunFile
) -> Iterator[Sample | tuple[int, Problem]]:
    if run.config.data.task == "pretrain":
        return cutter.blocks(batch)
    return sft_samples(batch, encoder, run.config.data.max_seq_len)


@dataclass(frozen=True)
class _Spelled:
    """Counts the records of the index that spell out a special token, or the template's marks."""

    special: SpelledTally
    marks: SpelledTally

    @classmethod
    def of(cls, encoder: Encoder, template: str | None) -> _Spelled:
        special = encoder.special.ids
        marks = TEMPLATES[template].marks if template is not None else ()
        return cls(SpelledTally(special), SpelledTally(mark for mark in marks if mark not in special))

    def noted(
        self, batch: Sequence[Texts], made: Iterator[Sample | tuple[int, Problem]]
    ) -> Iterator[Sample | tuple[int, Problem]]:
        """What was made of the batch, as it comes; records that turn out bad are not counted."""
        bad = set()
        for one in made:
            if not isinstance(one, Sample):
                bad.add((one[0], one[1].number))
            yield one
        for texts in batch:
            if (texts.file_id, texts.number) not in bad:
                for tally in (self.special, self.marks):
                    if found := tally.in_record(texts.spelled_in):
                        tally.book(SpelledRecord(texts.file_id, texts.number, found))


def _sift(
    made: Iterator[Sample | tuple[int, Problem]], problems: Problems, writer: IndexWriter
) -> Iterator[Sample]:
    """The samples; records that turned out bad once they were tokenised go to problems or rejects."""
    for sample in made:
        if isinstance(sample, Sample):
            yield sample
        elif problems.note(*sample):
            writer.reject(*sample)


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
