"""What can be wrong with training data and its tokenizer: one mistake, one code, one docstring (the manual
page).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from crossfoot.data.conversation_findings import (
    answer_without_end,
    asked_otherwise,
    no_conversation,
    prefix_changes,
    template_refuses,
    template_unusable,
)
from crossfoot.data.damage_findings import broken_packing, broken_parquet, broken_table
from crossfoot.data.numbering import ROWS, Numbering, kind_of, record_place
from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs

SKIP_HELP = (
    "or set data.bad_samples: skip to leave such records out; they are counted and listed in rejects.jsonl"
)


@dataclass(frozen=True)
class Problem:
    """One record, or one whole file, that cannot be used.

    number: what a person finds the record by, from 1: its line in a file of lines, its row in Parquet, its
    place in a JSON list; 0: the file as a whole. line: in a JSON list, on which it begins or is broken.
    column: 1-based. fatal: refused whatever data.bad_samples says, because nobody can tell what the file was
    meant to hold.
    """

    code: str
    number: int
    reason: str
    column: int = 0
    fatal: bool = False
    line: int = 0

    def place(self, file: str) -> Place:
        """Where it stands. A line is told as well where the file has several."""
        if not self.number or self.column:
            return Place(file, self.line or self.number, self.column)
        numbering: Numbering = "row" if kind_of(file) in ROWS else "record" if self.line else "line"
        place = record_place(file, numbering, self.number)
        return replace(place, line=self.line) if self.line > 1 else place

    def finding(self, file: str) -> Finding:
        """The finding that names this record of `file`."""
        return FINDINGS_BY_CODE[self.code](self.place(file), self.reason)


@rule_docs("CF501")
def file_missing(place: Place | None, reason: str) -> Finding:
    """CF501: a data file does not exist or may not be read, or an entry of data.train comes to no file.

    A folder in data.train means the data files in it, and a pattern (`news-*.jsonl`) those that match; there
    must be one. data.validation names its files one by one. Paths are relative to the folder that the command
    is started in, not to the config. Under a cluster's scheduler that is the folder from which the job was
    submitted.
    """
    return Finding(
        "CF501",
        "a data file cannot be opened",
        place=place,
        label=reason,
        helps=("correct the path; it is relative to the folder that the command is started in",),
        unreadable=True,
    )


@rule_docs("CF502")
def file_ending(place: Place | None, reason: str) -> Finding:
    """CF502: the name of a data file ends in something that crossfoot does not read for this task.

    .json (a list of records, or one record a line), .jsonl, .csv, .tsv and .parquet serve both tasks; .txt
    (one document a line) serves pretrain only, because a line of plain text asks nothing. All but .parquet
    may have .gz behind.
    """
    return Finding(
        "CF502",
        "a data file is of a kind that this task does not read",
        place=place,
        label=reason,
        helps=("use .json, .jsonl, .csv or .parquet; .txt (one document a line) for data.task: pretrain",),
    )


@rule_docs("CF503", name="broken-json-record")
def broken_json(place: Place, reason: str) -> Finding:
    """CF503: a data file is not JSON at this line, so what it was meant to hold cannot be known.

    It is refused whatever data.bad_samples says: leaving a broken line out could leave half a data set out.
    A last line without its end is the mark of a download or an export that was cut off: make the file again.
    """
    return Finding(
        "CF503",
        "this line is not JSON",
        place=place,
        label=reason,
        helps=("repair the line, or remove it",),
        unreadable=True,
    )


@rule_docs("CF504")
def not_utf8(place: Place, reason: str) -> Finding:
    """CF504: a line of a data file is not UTF-8 text.

    The beginning of the file is (another encoding there is CF559): two files were joined, or some bytes are
    damaged. Nothing is guessed: a wrong guess would train on other characters than the author wrote.
    """
    return Finding(
        "CF504",
        "this line is not UTF-8",
        place=place,
        label=reason,
        helps=("write the line anew as UTF-8, or convert the file that it came from and join them again",),
        unreadable=True,
    )


@rule_docs("CF505")
def no_samples(place: Place | None, reason: str) -> Finding:
    """CF505: the data set has no sample that can be trained.

    The file is empty, or an empty list, or `data.bad_samples: skip` left nothing over: with `stop` the first
    records of each kind are named, with the reason.
    """
    return Finding(
        "CF505",
        "the data has no sample to train on",
        place=place,
        label=reason,
        helps=("give at least one record, or take the file out of the config",),
    )


@rule_docs("CF506", name="record-not-an-object")
def not_an_object(place: Place, reason: str) -> Finding:
    """CF506: a record is a list, a number or a text; a record is an object with named fields.

    sft reads conversations, or "instruction" with "output"; pretrain reads "text".
    """
    return Finding(
        "CF506",
        "this record is not an object",
        place=place,
        label=reason,
        helps=(
            'write it as {"instruction": ..., "input": ..., "output": ...}, or {"text": ...} for pretrain',
        ),
    )


@rule_docs("CF507")
def no_output(place: Place, reason: str) -> Finding:
    """CF507: an sft record has no answer to train on: "output" is missing, empty or not text.

    So is "completion" of a record that has a "prompt". Numbers are not turned into text, and null is not an
    empty answer: both are usually an export gone wrong.
    With `data.bad_samples: skip` such records are left out, counted and listed in rejects.jsonl.
    """
    return Finding(
        "CF507",
        "this record has no output",
        place=place,
        label=reason,
        helps=('write the answer as text in "output"',),
    )


@rule_docs("CF508")
def no_instruction(place: Place, reason: str) -> Finding:
    """CF508: an sft record asks nothing.

    "instruction" (or "prompt") is missing, empty or not text, or "input" is there and is not text. With
    `data.bad_samples: skip` such records are left out, counted and listed in rejects.jsonl.
    """
    return Finding(
        "CF508",
        "this record has no instruction",
        place=place,
        label=reason,
        helps=('write what is asked as text in "instruction" (and "input", which may be empty or absent)',),
    )


@rule_docs("CF509")
def prompt_fills_window(place: Place, reason: str) -> Finding:
    """CF509: what stands before the first trained answer of an sft record fills data.max_seq_len.

    No token of its answers would be trained. Training frameworks cut such a sample silently and train it on 0
    tokens. An answer that is cut but not lost is trained, and the plan counts the trained tokens that the cut
    costs.
    """
    return Finding(
        "CF509",
        "the prompt fills the window, nothing of the answer would be trained",
        place=place,
        label=reason,
        helps=("raise data.max_seq_len, or shorten the instruction",),
    )


@rule_docs("CF510")
def no_text(place: Place, reason: str) -> Finding:
    """CF510: a pretrain record has no document: "text" is missing, empty or not text.

    With `data.bad_samples: skip` such records are left out, counted and listed in rejects.jsonl. A plain text
    file has one document a line, and its empty lines are no records.
    """
    return Finding(
        "CF510",
        "this record has no text",
        place=place,
        label=reason,
        helps=('write the document as text in "text"',),
    )


@rule_docs("CF511")
def untokenisable(place: Place, reason: str) -> Finding:
    """CF511: a text cannot be turned into token ids that the model has.

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


@rule_docs("CF550")
def record_too_large(place: Place, reason: str) -> Finding:
    """CF550: a record is larger than 16 MiB, and is not read.

    A record is tokenised in one piece, which takes up to 200 times as much memory as its text. A line without
    an end is most often not a line: a file that was cut, or that holds something else than its name says. In
    a file of lines it is a record like another (`data.bad_samples: skip` leaves it out); in a JSON list and
    what comes behind it nothing can be told, so the file is refused.
    """
    return Finding(
        "CF550",
        "this record is too large to be read",
        place=place,
        label=reason,
        helps=("write the document as several records: pretrain joins them again, in their order",),
    )


@rule_docs("CF551")
def no_tokens(place: Place, reason: str) -> Finding:
    """CF551: the tokenizer makes no token at all of a text that is trained.

    Nothing of it would be learned, of an answer only to end at once. It holds characters that the tokenizer
    drops (control characters, or a script that its vocabulary does not have and that it has no unknown token
    for). When every record comes out like this, the tokenizer is not this model's, or has no vocabulary.
    """
    return Finding(
        "CF551",
        "this record becomes no tokens",
        place=place,
        label=reason,
        helps=("remove the record, or use a tokenizer that has these characters",),
    )


@rule_docs("CF556")
def field_twice(place: Place, reason: str) -> Finding:
    """CF556: a record names a field twice, and only one of the two values could be trained.

    JSON readers keep the last and say nothing. Two answers in one record are most often two records that ran
    into one, or an export that wrote a column under another's name.
    """
    return Finding(
        "CF556",
        "this record names a field twice",
        place=place,
        label=reason,
        helps=("keep one of the two, or make two records of it",),
    )


@rule_docs("CF520")
def tokenizer_unusable(place: Place, reason: str) -> Finding:
    """CF520: the tokenizer cannot be loaded.

    There is no such folder, no tokenizer file in it, or a file that is damaged. Without tokenizer.path the
    tokenizer is the model's own, and model.path is meant. A hub's id that is not in the cache is CF060.
    """
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


@rule_docs("CF521")
def no_end_token(place: Place, reason: str) -> Finding:
    """CF521: the tokenizer names no end token, so a model trained with it never learns to stop.

    Every answer (sft) and every document (pretrain) ends with that token, and it is trained.
    """
    return Finding(
        "CF521",
        "the tokenizer has no end token",
        place=place,
        label=reason,
        helps=('name it in tokenizer_config.json, for example: "eos_token": "</s>"',),
    )


OVER_LONG = "CF564"


@rule_docs("CF564", name="record-over-long")
def over_long(place: Place, reason: str) -> Finding:
    """CF564: a record has more tokens than data.max_seq_len, and `data.over_long: drop` leaves it out.

    It is listed with this code in the index's rejects.jsonl, and stops nothing, whatever `data.bad_samples`
    says: it is left out on purpose. CF576 says so when many are.
    """
    return Finding(
        "CF564",
        "this record is longer than the window",
        place=place,
        label=reason,
        helps=("raise data.max_seq_len", "or set data.over_long to split or truncate"),
    )


FINDINGS_BY_CODE: Mapping[str, Callable[[Place, str], Finding]] = {
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
    "CF513": broken_parquet,
    "CF520": tokenizer_unusable,
    "CF521": no_end_token,
    "CF526": broken_packing,
    "CF527": broken_table,
    "CF571": no_conversation,
    "CF572": template_refuses,
    "CF063": asked_otherwise,
    "CF573": prefix_changes,
    "CF574": answer_without_end,
    "CF575": template_unusable,
    "CF550": record_too_large,
    "CF551": no_tokens,
    "CF556": field_twice,
    OVER_LONG: over_long,
}
"""Every code of this package; `crossfoot explain CODE` shows the docstring."""

SEVERAL: Mapping[str, str] = {
    "CF503": "lines are not JSON",
    "CF504": "lines are not UTF-8",
    "CF506": "records are not objects",
    "CF507": "records have no output",
    "CF508": "records have no instruction",
    "CF509": "prompts fill the window, nothing of their answers would be trained",
    "CF510": "records have no text",
    "CF511": "records have text that is not trainable",
    "CF571": "records are no conversations",
    "CF572": "records are not taken by the template",
    "CF063": "records end in an answer that the template asks for otherwise than it writes it",
    "CF573": "records have turns that the template changes when one is added",
    "CF574": "records have answers that the template does not end with one end token",
    "CF550": "records are too large to be read",
    "CF551": "records become no tokens",
    "CF556": "records name a field twice",
}
"""The titles of those that are said of records, behind a number."""
