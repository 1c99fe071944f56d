"""A look at a run's data: at its index, when there is one, else at some of the records."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from crossfoot.data.findings import OVER_LONG
from crossfoot.data.look import LEAKS_NAMED, DataLook, Leaks, Looking, of_records, reject_hopeless
from crossfoot.data.measuring import Seen
from crossfoot.data.set_findings import DataSet, set_findings
from crossfoot.data.special_text import SpelledNames
from crossfoot.data.train_sources import train_files
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.locate import find_index
from crossfoot.index.store import DataIndex
from crossfoot.written.run_file import RunFile


def look_at(run: RunFile, index: DataIndex | None = None, special: Collection[str] = ()) -> DataLook:
    """A look at the run's data. index: of the training data, when it is built. special: texts of the
    tokenizer's special tokens.

    Files that cannot be opened are passed over: they are findings already.
    """
    data = run.config.data
    files = [file for file in dict.fromkeys((*train_files(data), *data.validation_files))]
    looking = Looking(run, files, special)
    if index is not None:
        look = of_index(index)
        looking.of_the_whole += index_findings(run, index)
        seen = None
    else:
        seen = looking.see(train_files(data))
        look = of_records(run, seen, looking)
    if data.validation_files:
        look = with_validation(look, looking, index, seen)
    return replace(look, findings=looking.findings())


def of_index(index: DataIndex) -> DataLook:
    """The look at all records, from what the index counted when it was built."""
    header = index.header
    rejects = [one for one in index.rejects if one.code != OVER_LONG][:1]
    return DataLook(
        is_indexed=True,
        is_whole=True,
        is_counted=True,
        records=sum(source.records for source in header.sources),
        samples=header.num_samples,
        rejected_records=header.rejected_records - header.over_long_records,
        rejected_example="".join(f"{one.place}: {one.reason}" for one in rejects),
        repeated_samples=header.duplicate_samples,
        truncated_samples=header.truncated_samples,
        split_records=header.split_records,
        over_long_records=header.over_long_records,
        lost_share=header.lost_tokens / max(1, header.lost_tokens + header.trained_tokens),
        longest_tokens=int(np.max(index.lengths + index.lost_tokens)),
        longest_kept_tokens=int(np.max(index.lengths)),
        has_counted_all=True,
        vocabulary=header.tokenizer.vocabulary,
        special_text=header.special_text_records.named(index.record_place),
        template_words=header.template_records.named(index.record_place),
    )


def index_findings(run: RunFile, index: DataIndex) -> tuple[Finding, ...]:
    """What an index says of all its records together."""
    header = index.header
    return set_findings(
        run,
        DataSet(
            "train" if list(index.files) == train_files(run.config.data) else "validation",
            sum(source.records for source in header.sources) - header.rejected_records,
            True,
            header.unread_fields,
            header.judged_characters,
            header.lost_characters,
            header.lost_words,
        ),
    )


def with_validation(look: DataLook, looking: Looking, index: DataIndex | None, seen: Seen | None) -> DataLook:
    """The look with what validation and training share: by digests when both are indexed, else by texts."""
    run = looking.run
    data = run.config.data
    if index is not None and (other := index_of_validation(run)) is not None:
        looking.of_the_whole += index_findings(run, other)
        leaked = np.flatnonzero(np.isin(other.digests, index.digests)).tolist()
        twins = (int(np.argmax(index.digests == other.digests[i])) for i in leaked[:LEAKS_NAMED])
        pairs = tuple(zip(map(other.place, leaked), map(index.place, twins), strict=False))
        spelled = (other.header.special_text_records, other.header.template_records)
        look = _with_spelled(look, *(one.named(other.record_place) for one in spelled))
        return replace(look, leaks=Leaks(len(leaked), other.num_samples, pairs, is_sure=True))
    there = looking.see(data.validation_files)
    too_long = reject_hopeless(there, looking) if data.task == "sft" else 0
    looking.refuse_nothing_left(there, data.validation_files, too_long)
    looking.judge("validation", there)
    known = seen if seen is not None else Looking(run, looking.files).see(train_files(data))
    shared = [one for one in there.texts if one.parts in known.keys]
    both = [(one, known.texts[known.keys[one.parts]]) for one in shared[:LEAKS_NAMED]]
    told = tuple((looking.place_of(one), looking.place_of(other)) for one, other in both)
    look = _with_spelled(look, *looking.spelled(there))
    is_sure = there.is_whole and known.is_whole
    return replace(look, leaks=Leaks(len(shared), len(there.texts), told, is_sure))


def _with_spelled(look: DataLook, special_text: SpelledNames, template_words: SpelledNames) -> DataLook:
    return replace(
        look,
        special_text=look.special_text + special_text,
        template_words=look.template_words + template_words,
    )


def index_of_validation(run: RunFile) -> DataIndex | None:
    """The index of the validation files, None where there is none yet."""
    try:
        return find_index(run, run.config.data.validation_files)
    except Refused:
        return None
