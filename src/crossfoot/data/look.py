"""A look at the samples before anything is indexed: fast and torch-free.

Files of 2 MiB together are read whole, of larger ones some 200 records, spread evenly. A text has at most as
many tokens as bytes, so only the records that could be too long are tokenised, the longest first. With an
index, its exact numbers stand in for all that. Cost: 0.02 to 0.2 s, most of it loading a tokenizer.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from crossfoot.data.file_look import file_finding
from crossfoot.data.findings import Problem
from crossfoot.data.lost_characters import LostCharacters
from crossfoot.data.measuring import Measured, Seen, TokenCounter, measure, prompt_bytes
from crossfoot.data.numbering import numbering_of, record_place
from crossfoot.data.problems import Problems
from crossfoot.data.records import read_records
from crossfoot.data.samples import Shape, Texts, texts_of
from crossfoot.data.sampling import SOME_RECORDS, WHOLE_BYTES, Drawn, located, number_at, some_records
from crossfoot.data.set_findings import DataSet, set_findings
from crossfoot.data.special_text import NO_NAMES, SpelledNames, SpelledRecord, SpelledTally
from crossfoot.data.template_source import shape_of
from crossfoot.data.tokenizer import encoder_at_hand, tokenizer_path
from crossfoot.data.train_sources import train_files
from crossfoot.findings.finding import Finding, Place
from crossfoot.written.run_file import RunFile

FEWEST_OF_A_FILE = 8
LEAKS_NAMED = 3
NOTHING_LEFT = "data.bad_samples: skip would leave every record out"


@dataclass(frozen=True)
class Leaks:
    """Validation records that are training records too, of how many, and the first of them: where each is
    validated on, and trained on. is_sure: all were held against all.
    """

    records: int = 0
    looked_at: int = 0
    first: tuple[tuple[Place, Place], ...] = ()
    is_sure: bool = False


NO_LEAKS = Leaks()


@dataclass(frozen=True)
class DataLook:
    """What a look at the training data found; the validation data is looked at for what is wrong and for what
    it shares.

    is_indexed: the numbers are the index's, exact. is_whole: every record was read. is_counted: tokens are
    counted, not estimated from the size of the text. records: records looked at. rejected_records: of them,
    what data.bad_samples: skip leaves out. samples, repeated_samples: trainable ones, and those of them equal
    to an earlier one. truncated_samples: cut at data.max_seq_len. split_records, over_long_records: what
    data.over_long splits, or leaves out. lost_share: of all trained tokens, cut off. longest_tokens: before
    any cut; longest_kept_tokens: after it. has_counted_all: every sample that could be longer than
    data.max_seq_len was tokenised. hopeless_records: prompts that, by estimate, fill the window.
    vocabulary: rows that the tokenizer needs, None when not known. special_text, template_words: records
    whose data spells out a special token, or the template's own words. findings: what indexing would refuse.
    """

    is_indexed: bool
    is_whole: bool
    is_counted: bool
    records: int
    samples: int
    rejected_records: int = 0
    rejected_example: str = ""
    repeated_samples: int = 0
    truncated_samples: int = 0
    split_records: int = 0
    over_long_records: int = 0
    lost_share: float = 0.0
    longest_tokens: int = 0
    longest_kept_tokens: int = 0
    has_counted_all: bool = False
    hopeless_records: int = 0
    leaks: Leaks = NO_LEAKS
    vocabulary: int | None = None
    special_text: SpelledNames = NO_NAMES
    template_words: SpelledNames = NO_NAMES
    findings: tuple[Finding, ...] = ()


@dataclass
class Looking:
    """The files, numbered, and every problem met so far. special: texts of the tokenizer's special tokens."""

    run: RunFile
    files: Sequence[str]
    special: Collection[str] = ()
    bad: list[tuple[int, Problem, int | None]] = field(default_factory=list)
    records: int = 0
    is_cut_short: bool = False
    of_the_whole: list[Finding] = field(default_factory=list)

    @cached_property
    def shape(self) -> Shape:
        """What becomes of a record."""
        return shape_of(self.run)

    @cached_property
    def counter(self) -> TokenCounter:
        """What counts tokens here; loading it is most of the time that a look takes."""
        config = self.run.config
        return TokenCounter(
            encoder_at_hand(tokenizer_path(config), self.run.index_dir, config.data.special_text)
        )

    def see(self, files: Iterable[str]) -> Seen:
        """Read these files, or some of their records; the same file only once."""
        data = self.run.config.data
        by_path = {os.path.realpath(file): file for file in reversed(list(files))}
        wanted = [
            file
            for file in reversed(by_path.values())
            if file_finding(file, data.task, data.field_names) is None
        ]
        sizes = [os.path.getsize(file) for file in wanted]
        seen = Seen(is_whole=sum(sizes) <= WHOLE_BYTES)
        self.is_cut_short |= not seen.is_whole
        for file, size in zip(wanted, sizes, strict=True):
            before = seen.records
            for drawn in _draw(file, None if seen.is_whole else size / sum(sizes)):
                self._take(drawn, file, seen)
            if seen.records == before and seen.is_whole and not self._is_bad(file):
                self.refuse(file, f"{file}: no record")
        self.records += seen.records
        return seen

    def refuse(self, file: str, reason: str) -> None:
        """Note that a file, or all of them, come to nothing."""
        self.bad.append((self._number(file), Problem("CF505", 0, reason, fatal=True), None))

    def _take(self, drawn: Drawn, file: str, seen: Seen) -> None:
        number, found = self._number(file), drawn.found
        seen.records += not (isinstance(found, Problem) and found.fatal)
        made = found if isinstance(found, Problem) else texts_of(found, number, self.shape)
        if isinstance(made, Problem):
            self.reject(number, made, drawn.start, seen)
        else:
            seen.add(made, drawn.start)

    def reject(self, file_id: int, problem: Problem, start: int | None, seen: Seen) -> None:
        """Note a bad record. One that is only left out is counted; the first of them is an example."""
        is_left_out = not problem.fatal and self.run.config.data.bad_samples == "skip"
        if is_left_out:
            seen.rejected += 1
        if is_left_out and seen.example:
            return
        if is_left_out:
            one = located(problem, self.files[file_id], start)
            seen.example = f"{one.place(self.files[file_id])}: {one.reason}"
        else:
            self.bad.append((file_id, problem, start))

    def spelled(self, seen: Seen) -> tuple[SpelledNames, SpelledNames]:
        """The records that spell out special tokens, and those that hold the template's own words."""
        special = SpelledTally(self.special)
        template = SpelledTally(mark for mark in self.shape.marks if mark not in self.special)
        for one, start in zip(seen.texts, seen.starts, strict=True):
            for tally in (special, template):
                if found := tally.in_record(one.written):
                    is_unnumbered = start is not None and tally.names_more
                    number = one.number
                    if is_unnumbered:
                        number, _ = number_at(self.files[one.file_id], start or 0)
                    tally.book(SpelledRecord(one.file_id, number, found))
        return special.counted.named(self._place), template.counted.named(self._place)

    def place_of(self, texts: Texts) -> Place:
        """Where a record stands; its file where its number is not known."""
        return self._place(texts.file_id, texts.number)

    def _place(self, file_id: int, number: int) -> Place:
        file = self.files[file_id]
        return record_place(file, numbering_of(file), number) if number else Place(file)

    def refuse_nothing_left(self, seen: Seen, files: Sequence[str], too_long: int) -> None:
        """Note that none of the records of these files can be trained, all being left out. too_long: of those
        seen, rejected for the length of their prompts. Where only some were looked at, all are read now.
        """
        if self.run.config.data.bad_samples != "skip" or not seen.rejected or len(seen.texts) > too_long:
            return
        if any(map(self._is_bad, files)) or (not seen.is_whole and any(map(self._has_sample, files))):
            return
        self.refuse(files[0], NOTHING_LEFT)

    def _has_sample(self, file: str) -> bool:
        made = (
            texts_of(found, 0, self.shape) for found in read_records(file) if not isinstance(found, Problem)
        )
        return any(not isinstance(one, Problem) for one in made)

    def findings(self) -> tuple[Finding, ...]:
        """What indexing would refuse, in the order of the files."""
        problems = Problems(self.files, stops=True)
        for one in sorted(self.bad, key=lambda one: (one[0], one[2] or 0, one[1].number)):
            problems.note(*one)
        found = problems.findings(records=self.records, cut_short=self.is_cut_short)
        return (*found, *self.of_the_whole)

    def judge(self, key: str, seen: Seen) -> None:
        """What is to be said of all records together. key: train or validation."""
        encoder = self.counter.encoder if seen.texts else None
        data_set = DataSet(key, len(seen.texts), seen.is_whole, seen.unread)
        if encoder is not None:
            lost = LostCharacters(encoder.encode)
            for place, texts in enumerate(seen.texts, start=1):
                lost.see(place, texts.written)
            data_set = replace(
                data_set, characters=lost.characters, lost_characters=lost.lost, lost_words=lost.examples
            )
        self.of_the_whole += set_findings(self.run, data_set)

    def _number(self, file: str) -> int:
        return self.files.index(file)

    def _is_bad(self, file: str) -> bool:
        return any(self.files[number] == file for number, *_ in self.bad)


def _draw(file: str, share: float | None) -> Iterable[Drawn]:
    """All records, or this file's share of the ones that are looked at."""
    if share is None:
        return map(Drawn, read_records(file))
    return some_records(file, max(FEWEST_OF_A_FILE, round(SOME_RECORDS * share)))


def of_records(run: RunFile, seen: Seen, looking: Looking) -> DataLook:
    """The look at records that no index was made of; lengths are counted only where a rule asks for them."""
    config = run.config
    counter = TokenCounter(None)
    measured = Measured()
    is_sft = config.data.task == "sft"
    long_ones = seen.longer_than(config.data.max_seq_len) if is_sft else []
    # The tokenizer's size matters when it is not the model's own, and something is trained with LoRA.
    if long_ones or (config.lora is not None and config.tokenizer is not None):
        counter = looking.counter
    if long_ones:
        measured = measure(seen, long_ones, counter, looking.shape)
        looking.is_cut_short |= measured.count < len(long_ones)
        for texts, start, problem in measured.too_long:
            looking.reject(texts.file_id, problem, start, seen)
    files = train_files(config.data)
    looking.refuse_nothing_left(seen, files, len(measured.too_long))
    if counter.is_exact and seen.is_whole and 0 < len(seen.texts) <= measured.dropped:
        looking.refuse(files[0], "data.over_long: drop would leave every record out")
    looking.judge("train", seen)
    special_text, template_words = looking.spelled(seen)
    return DataLook(
        is_indexed=False,
        is_whole=seen.is_whole,
        is_counted=counter.is_exact,
        records=seen.records,
        samples=len(seen.texts),
        rejected_records=seen.rejected,
        rejected_example=seen.example,
        repeated_samples=seen.repeated,
        truncated_samples=round(measured.truncated),
        split_records=round(measured.split),
        over_long_records=round(measured.dropped),
        lost_share=measured.lost_share,
        longest_tokens=measured.longest,
        longest_kept_tokens=min(measured.longest, config.data.max_seq_len),
        has_counted_all=counter.is_exact and measured.count == len(long_ones),
        hopeless_records=round(measured.hopeless),
        vocabulary=counter.vocabulary,
        special_text=special_text,
        template_words=template_words,
    )


def reject_hopeless(seen: Seen, looking: Looking) -> int:
    """Validation records whose prompt fills the window would stop the run as training records do. Returns how
    many there are.
    """
    run = looking.run
    window = run.config.data.max_seq_len
    is_split = looking.shape.over_long == "split"  # then each round has a prompt
    long_ones = [i for i in seen.longer_than(window) if is_split or prompt_bytes(seen.texts[i]) >= window - 2]
    if not long_ones:
        return 0
    too_long = measure(seen, long_ones, looking.counter, looking.shape).too_long
    for texts, start, problem in too_long:
        looking.reject(texts.file_id, problem, start, seen)
    return len(too_long)
