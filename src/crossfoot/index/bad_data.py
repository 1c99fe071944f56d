"""What can be wrong with training data and its tokenizer: one mistake, one code, one docstring (the manual
page).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crossfoot.finding import Finding, Place

NAMED_RECORDS = 20
"""Bad records that are named one by one; the rest is a count."""

SKIP_HELP = (
    "or set data.bad_samples: skip to leave such records out; they are counted and listed in rejects.jsonl"
)


@dataclass(frozen=True)
class Problem:
    """One record, or one whole file, that cannot be used.

    line and column are 1-based (line 0: the file as a whole; a Parquet line is a row number). fatal: refused
    whatever data.bad_samples says, because nobody can tell what the file was meant to hold.
    """

    code: str
    line: int
    reason: str
    column: int = 0
    fatal: bool = False

    def finding(self, file: str) -> Finding:
        """The finding that names this record of `file`."""
        return MISTAKES[self.code](Place(file, self.line, self.column), self.reason)


def file_missing(place: Place, reason: str) -> Finding:
    """A data file does not exist, is a folder, or may not be read.

    Paths in data.train and data.validation are relative to the folder that the command is started in.
    """
    return Finding(
        "CF501",
        "a data file cannot be opened",
        place=place,
        label=reason,
        helps=("correct the path; it is relative to the folder that the command is started in",),
        unreadable=True,
    )


def file_ending(place: Place, reason: str) -> Finding:
    """The name of a data file ends in something that crossfoot does not read for this task.

    .json (a list of records, or one record a line), .jsonl and .parquet serve both tasks; .txt (one document
    a line) serves pretrain only, because a line of plain text has no instruction.
    """
    return Finding(
        "CF502",
        "a data file is of a kind that this task does not read",
        place=place,
        label=reason,
        helps=("use .json, .jsonl or .parquet; .txt (one document a line) for data.task: pretrain",),
    )


def broken_json(place: Place, reason: str) -> Finding:
    """A data file is not JSON at this line, so what it was meant to hold cannot be known.

    It is refused whatever data.bad_samples says: leaving a broken line out could leave half a data set out.
    """
    return Finding(
        "CF503",
        "this line is not JSON",
        place=place,
        label=reason,
        helps=("repair the line, or remove it",),
        unreadable=True,
    )


def not_utf8(place: Place, reason: str) -> Finding:
    """A data file is not UTF-8 text. Chinese text saved as GBK or GB18030 is the usual cause."""
    return Finding(
        "CF504",
        "this line is not UTF-8",
        place=place,
        label=reason,
        helps=("convert the file, for example: iconv -f GB18030 -t UTF-8 OLD > NEW",),
        unreadable=True,
    )


def no_samples(place: Place, reason: str) -> Finding:
    """The data set has no sample that can be trained: an empty file, an empty list, or nothing left after
    skipping.
    """
    return Finding(
        "CF505",
        "the data has no sample to train on",
        place=place,
        label=reason,
        helps=("give at least one record, or take the file out of the config",),
    )


def not_an_object(place: Place, reason: str) -> Finding:
    """A record is a list, a number or a text; a record is an object with named fields."""
    return Finding(
        "CF506",
        "this record is not an object",
        place=place,
        label=reason,
        helps=(
            'write it as {"instruction": ..., "input": ..., "output": ...}, or {"text": ...} for pretrain',
        ),
    )


def no_output(place: Place, reason: str) -> Finding:
    """An sft record has no answer to train on: "output" is missing, empty or not text.

    Numbers are not turned into text, and null is not an empty answer: both are usually an export gone wrong.
    """
    return Finding(
        "CF507",
        "this record has no output",
        place=place,
        label=reason,
        helps=('write the answer as text in "output"',),
    )


def no_instruction(place: Place, reason: str) -> Finding:
    """An sft record asks nothing: "instruction" is missing, empty or not text, or "input" is there and is not
    text.
    """
    return Finding(
        "CF508",
        "this record has no instruction",
        place=place,
        label=reason,
        helps=('write what is asked as text in "instruction" (and "input", which may be empty or absent)',),
    )


def prompt_fills_window(place: Place, reason: str) -> Finding:
    """The prompt of an sft record is as long as data.max_seq_len or longer, so no token of its answer would
    be trained.

    Training frameworks cut such a sample silently and train it on 0 tokens.
    """
    return Finding(
        "CF509",
        "the prompt fills the window, nothing of the answer would be trained",
        place=place,
        label=reason,
        helps=("raise data.max_seq_len, or shorten the instruction",),
    )


def no_text(place: Place, reason: str) -> Finding:
    """A pretrain record has no document: "text" is missing, empty or not text."""
    return Finding(
        "CF510",
        "this record has no text",
        place=place,
        label=reason,
        helps=('write the document as text in "text"',),
    )


def untokenisable(place: Place, reason: str) -> Finding:
    """A text cannot be turned into token ids that the model has.

    Either it holds half a surrogate pair (an escape such as backslash-u-d83d alone, left by a cut in
    mid-character), which is no character; or it spells out a token that the tokenizer has and the model's
    table has no row for (padding).
    """
    return Finding(
        "CF511",
        "this record has text that is not trainable",
        place=place,
        label=reason,
        helps=("remove those characters",),
    )


def more_bad_records(place: Place, reason: str) -> Finding:
    """More records of the data cannot be trained than are named one by one."""
    return Finding("CF512", "more records cannot be used", place=place, label=reason)


def broken_parquet(place: Place, reason: str) -> Finding:
    """A file named .parquet is not readable as Parquet, or lacks the columns of the task."""
    return Finding(
        "CF513",
        "a Parquet file cannot be used",
        place=place,
        label=reason,
        helps=("write the file again, with the columns instruction, input, output (sft) or text (pretrain)",),
        unreadable=True,
    )


def tokenizer_unusable(place: Place, reason: str) -> Finding:
    """The tokenizer cannot be loaded: no such folder, no tokenizer file in it, or a file that is damaged."""
    return Finding(
        "CF520",
        "the tokenizer cannot be loaded",
        place=place,
        label=reason,
        helps=(
            "point tokenizer.path at a folder with tokenizer.json or tokenizer.model (default: model.path)",
        ),
        unreadable=True,
    )


def no_end_token(place: Place, reason: str) -> Finding:
    """The tokenizer names no end token, so a model trained with it never learns to stop."""
    return Finding(
        "CF521",
        "the tokenizer has no end token",
        place=place,
        label=reason,
        helps=('name it in tokenizer_config.json, for example: "eos_token": "</s>"',),
    )


def builder_silent(place: Place, reason: str) -> Finding:
    """One process builds the data index and the others wait for it; it refused the data, or it stopped.

    What it refused is in its own output. If that output shows nothing, it was killed, or index_dir is not the
    same storage for all processes.
    """
    return Finding(
        "CF530",
        "the process that builds the data index gave none",
        place=place,
        label=reason,
        helps=(
            "build it beforehand with crossfoot index CONFIG",
            "or set data.index_dir to storage that every node sees",
        ),
    )


def index_unwritable(place: Place, reason: str) -> Finding:
    """The data index cannot be written: disk full, no permission, or the folder went away."""
    return Finding(
        "CF531",
        "the data index cannot be written",
        place=place,
        label=reason,
        helps=("make room, or set data.index_dir to another folder",),
    )


def data_changed(place: Place, reason: str) -> Finding:
    """A data file was written to while it was being tokenised, so the index would match neither version."""
    return Finding(
        "CF532",
        "a data file changed while it was read",
        place=place,
        label=reason,
        helps=("run again when the file is complete",),
    )


MISTAKES: Mapping[str, Callable[[Place, str], Finding]] = {
    "CF501": file_missing,
    "CF502": file_ending,
    "CF503": broken_json,
    "CF504": not_utf8,
    "CF505": no_samples,
    "CF506": not_an_object,
    "CF507": no_output,
    "CF508": no_instruction,
    "CF509": prompt_fills_window,
    "CF510": no_text,
    "CF511": untokenisable,
    "CF512": more_bad_records,
    "CF513": broken_parquet,
    "CF520": tokenizer_unusable,
    "CF521": no_end_token,
    "CF530": builder_silent,
    "CF531": index_unwritable,
    "CF532": data_changed,
}
"""Every code of this package; `crossfoot explain CODE` shows the docstring."""
