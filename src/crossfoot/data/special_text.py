"""Text of the data that spells out a special token of the tokenizer (`</s>` in a page of HTML) or the
template's own words (`[INST]`): where it stands, and what is counted of it. Text of the data is data,
unless `data.special_text: tokens` says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from crossfoot.findings.finding import Place

SpecialText = Literal["text", "tokens"]
"""What a special token that the data spells out becomes: the text that it is, or the token."""
Spans = Sequence[tuple[int, int]]
"""Begin and end of the parts of a text that are a template's own words, ascending; all the rest is data."""
NAMED_EXAMPLES = 5


class Spellings:
    """Some texts, to be found in others; of two that begin at one place the longer one counts."""

    def __init__(self, texts: Iterable[str]) -> None:
        longest_first = sorted(filter(None, texts), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def in_data(self, text: str, own: Spans = ()) -> tuple[str, ...]:
        """Those that stand in the data, wholly or in part; none twice."""
        found: dict[str, None] = {}
        for match in self.pattern.finditer(text):
            start, stop = match.span()
            for begin, end in own:
                if begin <= start and stop <= end:
                    break
            else:
                found[match[0]] = None
        return tuple(found)

    def are_in(self, text: str) -> bool:
        """Whether any of them stands anywhere in the text."""
        return self.pattern.search(text) is not None

    def within(self, text: str, spans: Spans) -> Iterator[re.Match[str]]:
        """Those that lie wholly in one of the spans."""
        for begin, end in spans:
            yield from self.pattern.finditer(text, begin, end)


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer. ids: by their text. fixed: ids that must never come of data; the
    unknown token is none of them, nor is a piece of ordinary text that a folder names as padding.
    """

    ids: Mapping[str, int]
    fixed: frozenset[int] = frozenset()
    spellings: Spellings = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spellings", Spellings(self.ids))

    def surviving(self, text: str, own: Spans, ids: Sequence[int]) -> str | None:
        """A special token that the data spells out, and that came of it although it was encoded as text: the
        vocabulary's own pieces say so. None as a rule.
        """
        if self.fixed.isdisjoint(ids):
            return None
        for token in self.spellings.in_data(text, own):
            number = self.ids[token]
            if number in self.fixed:
                meant = sum(match[0] == token for match in self.spellings.within(text, own))
                if ids.count(number) > meant:
                    return token
        return None


@dataclass(frozen=True)
class SpelledRecord:
    """A record whose data spells something out. number: as of a Problem. texts: what, each once."""

    file_id: int
    number: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class SpelledRecords:
    """How many records, and the first ones."""

    records: int = 0
    first: tuple[SpelledRecord, ...] = ()

    def named(self, place_of: Callable[[int, int], Place]) -> SpelledNames:
        """With their places, by (number of the file, number of the record)."""
        words = (f"{place_of(one.file_id, one.number)} has {', '.join(one.texts)}" for one in self.first)
        return SpelledNames(self.records, tuple(words))

    def __add__(self, later: SpelledRecords) -> SpelledRecords:
        first = (*self.first, *later.first)[:NAMED_EXAMPLES]
        return SpelledRecords(self.records + later.records, first)


NOTHING_SPELLED = SpelledRecords()


@dataclass(frozen=True)
class SpelledNames:
    """The same with the names of the files: the first ones in words, `a.jsonl:3 has </s>`."""

    records: int = 0
    first: tuple[str, ...] = ()

    def __add__(self, other: SpelledNames) -> SpelledNames:
        return SpelledNames(self.records + other.records, (*self.first, *other.first)[:NAMED_EXAMPLES])


NO_NAMES = SpelledNames()


class SpelledTally:
    """Counts records that spell some texts out."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._spellings = Spellings(texts)
        self._records = 0
        self._first: list[SpelledRecord] = []

    def in_record(self, written: Iterable[str]) -> tuple[str, ...]:
        """What the texts of a record spell out, each once."""
        found = (text for part in written for text in self._spellings.in_data(part))
        return tuple(dict.fromkeys(found))

    @property
    def names_more(self) -> bool:
        """Whether the next record is among the first ones, which are named."""
        return len(self._first) < NAMED_EXAMPLES

    def book(self, record: SpelledRecord) -> None:
        """Count a record that spells something out."""
        self._records += 1
        if self.names_more:
            self._first.append(record)

    @property
    def counted(self) -> SpelledRecords:
        """What was booked so far."""
        return SpelledRecords(self._records, tuple(self._first))
