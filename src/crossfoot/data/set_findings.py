"""What can be wrong with the records of a data set taken together: what of them is not trained, though the
data says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from crossfoot.data.file_findings import READS
from crossfoot.data.records import Task
from crossfoot.data.unread_fields import changes_meaning, is_about_the_record
from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.shell_words import plain_or_quoted, quoted
from crossfoot.written.accepting import accept_known
from crossfoot.written.run_file import RunFile

CONSIDERABLE_LOSS, LARGE_LOSS = 0.01, 0.3
"""Shares of the characters: what is worth a word, and what nobody trains on purpose."""
NAMED_FIELDS = 8


@dataclass(frozen=True)
class DataSet:
    """What is known of the files of data.train or data.validation (key) together.

    records: good ones that were looked at; is_whole: all of them. unread: fields that hold something and are
    not read, with the number of those records. characters: that were held against the tokenizer;
    lost_characters: of them, without a token; lost_words: a few of them.
    """

    key: str
    records: int
    is_whole: bool
    unread: Mapping[str, int] = field(default_factory=dict)
    characters: int = 0
    lost_characters: int = 0
    lost_words: Sequence[str] = ()


def set_findings(run: RunFile, data_set: DataSet) -> tuple[Finding, ...]:
    """All that there is to say. A field that data.ignored_fields names is left out on purpose."""
    data = run.config.data
    place = run.place("data", data_set.key)
    unread = {name: count for name, count in data_set.unread.items() if name not in data.ignored_fields}
    meant = {name: count for name, count in unread.items() if changes_meaning(name, data.task)}
    others = {name: count for name, count in unread.items() if name not in meant}
    found = []
    if meant:
        found.append(fields_of_meaning(place, data_set, meant, data.task))
    if others:
        found.append(fields_not_read(place, data_set, others))
    if data_set.lost_characters > CONSIDERABLE_LOSS * data_set.characters:
        where = run.place("tokenizer" if run.config.tokenizer is not None else "model", "path")
        found.append(characters_lost(where, data_set))
    return accept_known(run, found)


@rule_docs("CF552")
def fields_of_meaning(place: Place, data_set: DataSet, counts: Mapping[str, int], task: Task) -> Finding:
    """CF552: records hold fields that are not read, and that change what they mean.

    A second conversation, tools and calls of them, pictures, weights of the samples or a rejected answer
    would be left out without a trace: the model would learn to answer without what it was asked with. Fields
    inside turns are counted as well, as `messages.tool_calls`. A field that is null, blank or empty says
    nothing, and is not counted. `data.ignored_fields` names those that are left out on purpose.
    """
    return Finding(
        "CF552",
        f"fields that are not read: {_named(data_set, counts)}",
        place=place,
        notes=(f"{READS[task]}; without these the records mean something else",),
        helps=(
            "write what they say into the fields that are read, or take these records out",
            f"or train without them on purpose: {_ignoring(counts)}",
        ),
    )


@rule_docs("CF553", "warning", "note")
def fields_not_read(place: Place, data_set: DataSet, counts: Mapping[str, int]) -> Finding:
    """CF553: records hold fields that are not read.

    A note when they are such as a record has beside its text ("id", "source", "score"); a warning when nobody
    can tell from the name what they say. `data.ignored_fields` names those that are left out on purpose.
    """
    unknown = {name: count for name, count in counts.items() if not is_about_the_record(name)}
    return Finding(
        "CF553",
        f"fields that are not read: {_named(data_set, {**unknown, **counts})}",
        severity="warning" if unknown else "note",
        place=place,
        notes=("nothing of them is trained",),
        helps=(f"if that is meant, say so: {_ignoring(unknown or counts)}",),
    )


@rule_docs("CF554", "error", "warning", error_is_opinion=True)
def characters_lost(place: Place, data_set: DataSet) -> Finding:
    """CF554: the tokenizer has no tokens for a considerable part of the data's characters.

    They become its unknown token, or nothing: the model is trained to write that. From 1 % on it is a
    warning, from 30 % on an error, and nothing is trained, unless `checks.accept` has it. The tokenizer is
    another model's, or one for other languages, or its vocabulary is missing or damaged. Up to 200 records,
    and then one of 128, are looked at; blanks do not count.
    """
    share = data_set.lost_characters / data_set.characters
    is_large = share >= LARGE_LOSS
    examples = ", ".join(data_set.lost_words)
    return Finding(
        "CF554",
        f"the tokenizer has no tokens for {100 * share:.3g} % of the characters in data.{data_set.key}",
        severity="error" if is_large else "warning",
        place=place,
        notes=(
            "they become its unknown token, or nothing at all",
            *((f"for example: {examples}",) if examples else ()),
        ),
        helps=("use the tokenizer that the model was made with, and look whether its files are whole",),
    )


def _named(data_set: DataSet, counts: Mapping[str, int]) -> str:
    """`history (8 of 8 records), system (3)`."""
    some = "records" if data_set.is_whole else "records that were looked at"
    names = list(counts)[:NAMED_FIELDS]
    words = [f"{name} ({counts[name]:,} of {data_set.records:,} {some})" for name in names[:1]]
    words += [f"{name} ({counts[name]:,})" for name in names[1:]]
    more = len(counts) - len(names)
    return ", ".join(words) + (f", and {more:,} more" if more else "")


def _ignoring(names: Iterable[str]) -> str:
    """A word for the command line. The names are any text that a data file holds."""
    return quoted(f"data.ignored_fields=[{', '.join(map(plain_or_quoted, names))}]")
