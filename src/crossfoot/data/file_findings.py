"""What can be wrong with a data file as a whole: one mistake, one code, one docstring (the manual page). The
place, where the config names the file, is the caller's.
"""

from __future__ import annotations

from crossfoot.data.conversation import FORMS
from crossfoot.data.file_kind import Other
from crossfoot.data.numbering import numbering_of, record_place
from crossfoot.data.record import Record
from crossfoot.data.record_form import Form
from crossfoot.data.records import Task
from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import listed

NAMED_FIELDS = 8
READS = {
    "sft": "data.task: sft reads "
    + listed([" and ".join(form.needs) for form in FORMS], "or")
    + " of each record, and what belongs to them",
    "pretrain": "data.task: pretrain reads text of each record",
}


def other_file(path: str, other: Other) -> Finding:
    """The finding of a file that is something else than its records."""
    return _OTHER[other.code](path, other)


@rule_docs("CF557")
def packed_file(path: str, other: Other) -> Finding:
    """CF557: a data file is packed (zip, zstd, tar and the like), and is not read as it is.

    Of gzip a file is read whose name says so (a.jsonl.gz); it is known by its first bytes, whatever its name.
    The command in the help unpacks it beside and keeps the packed file.
    """
    return _whole("CF557", "a data file is packed, and is not read as it is", path, other)


@rule_docs("CF558")
def other_format(path: str, other: Other) -> Finding:
    """CF558: a data file is of another format than its name says, or of one that is not read.

    Read are a JSON list (.json), JSON with one record a line (.jsonl, or .json), a table with a header (.csv,
    .tsv), Parquet (.parquet) and, for pretrain, plain text with one document a line (.txt). What a file is,
    is known by its first bytes: a page of HTML that was saved instead of the file behind it, a table, Parquet
    or lines of JSON under another name.
    """
    return _whole("CF558", "a data file is of another format", path, other)


@rule_docs("CF559")
def other_encoding(path: str, other: Other) -> Finding:
    """CF559: a data file is text in another encoding than UTF-8.

    UTF-16 and UTF-32 are known by their mark or their zeros, GB18030 (GBK) and Big5 by the Chinese characters
    that are frequent in any text. Nothing is converted unasked: a wrong guess would train on other
    characters. UTF-8 with a mark is read.
    """
    return _whole("CF559", "a data file is not UTF-8", path, other)


@rule_docs("CF560")
def not_a_list(path: str, other: Other) -> Finding:
    """CF560: a data file is JSON, but neither a list of records nor one record a line.

    It is one record without a list around it, an object around the list (`{"data": [...]}`), columns, objects
    one after the other, or a file about data (LLaMA-Factory's dataset_info.json).
    """
    return _whole("CF560", "a data file is not a list of records", path, other)


_OTHER = {"CF557": packed_file, "CF558": other_format, "CF559": other_encoding, "CF560": not_a_list}


def _whole(code: str, title: str, path: str, other: Other) -> Finding:
    label = f"{path} is {other.what}"
    return Finding(code, title, label=label, notes=other.notes, helps=other.helps, unreadable=True)


@rule_docs("CF561")
def other_form(
    path: str, task: Task, form: Form, record: Record, share: tuple[int, int, bool], helps: tuple[str, ...]
) -> Finding:
    """CF561: the records of a data file have another form than the task reads.

    sft reads conversations ("messages" as OpenAI has them, ShareGPT's "conversations"), "instruction" with
    "output" and perhaps "input", "system" and "history", or "prompt" and "completion"; pretrain reads "text".
    Other forms are known by name: these under other names (`data.columns` says which), preference pairs,
    token ids, texts alone. Said when nine of ten records or more have one of them, whatever
    `data.bad_samples` says: leaving them out would leave nothing. Files of up to 2 MiB are looked at whole,
    of larger ones 200 records.
    """
    count, records, is_whole = share
    looked = "records" if is_whole else "records that were looked at"
    who = f"all {records:,} {looked}" if count == records else f"{count:,} of {records:,} {looked}"
    part = "" if count == records else f" ({100 * count / records:.0f} %)"
    if records == 1:
        who = "its only record"
    fields = list(record.value)[:NAMED_FIELDS] if isinstance(record.value, dict) else []
    where = record_place(path, numbering_of(path), record.number) if record.number else path
    return Finding(
        "CF561",
        f"the records of a data file have another form: {form.name}",
        label=f"{path}: {who}{part}",
        notes=(*((f"{where} has: {', '.join(fields)}",) if fields else ()), READS[task]),
        helps=helps or ("write a file of records with these fields, and name it in the place of this one",),
    )
