"""How long samples are and what a window cuts off them, counted on the records that a look has read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from crossfoot.data.findings import OVER_LONG, Problem
from crossfoot.data.over_long import parts_of, prompt_too_long
from crossfoot.data.samples import BYTES_PER_TOKEN, Encoder, Shape, Texts, coded_texts
from crossfoot.data.unread_fields import count_unread

LONGEST_FIRST = 32
MEASURED_RECORDS = 300
MORE_THAN_BYTES = 4
"""Tokens of a stretch beyond its bytes: begin and end, and sentencepiece's blank before it."""
SURE = 1.3
"""An estimated prompt is called too long only when it is by this factor."""


@dataclass(frozen=True)
class TokenCounter:
    """Tokens of texts: counted by the encoder that the index is made with, or estimated without one."""

    encoder: Encoder | None

    @property
    def is_exact(self) -> bool:
        """Counted, not estimated."""
        return self.encoder is not None

    @property
    def vocabulary(self) -> int | None:
        """Rows that the model's table needs, None when that is not known."""
        return None if self.encoder is None else self.encoder.facts.vocabulary

    def count(self, records: Sequence[Texts]) -> Iterator[Counts]:
        """Of each record."""
        if self.encoder is None:
            return map(_estimated, records)
        return (Counts(coded.masked_tokens, coded.trained) for coded in coded_texts(records, self.encoder))

    def count_one(self, texts: Texts) -> Counts:
        """Of one record."""
        return next(self.count((texts,)))


@dataclass(frozen=True)
class Counts:
    """masked_tokens: before the first trained one. trained: 1 for each token that is."""

    masked_tokens: int
    trained: bytearray


def _estimated(texts: Texts) -> Counts:
    """From the size of the text."""
    trained = bytearray()
    for stretch in texts.stretches:
        trained += b"\0" * stretch.begins
        for text, is_trained in stretch.segments:
            trained += (b"\1" if is_trained else b"\0") * round(len(text.encode()) / BYTES_PER_TOKEN)
        trained += (b"\1" if stretch.trained else b"\0") * stretch.ends
    first = trained.find(1, 1)
    return Counts(len(trained) if first < 0 else first, trained)


@dataclass
class Seen:
    """The records that a look has read: texts of the trainable ones, the first byte of each whose line is
    not known, where each text is the first of its like, and their fields that are not read.
    """

    is_whole: bool
    records: int = 0
    rejected: int = 0
    example: str = ""
    repeated: int = 0
    texts: list[Texts] = field(default_factory=list)
    starts: list[int | None] = field(default_factory=list)
    keys: dict[tuple[str, ...], int] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, texts: Texts, start: int | None) -> None:
        """Take a trainable record in."""
        self.repeated += self.keys.setdefault(texts.parts, len(self.texts)) < len(self.texts)
        self.texts.append(texts)
        self.starts.append(start)
        count_unread(self.unread, texts.unread)

    def longer_than(self, window: int) -> list[int]:
        """The records that could have more tokens than the window: a token has at least one byte."""
        return [
            place
            for place, texts in enumerate(self.texts)
            if _bytes(texts.parts) > window - MORE_THAN_BYTES * len(texts.parts)
        ]


@dataclass
class Measured:
    """Numbers over all records that were read; the ones tokenised stand for the others.

    count: records tokenised. truncated, split, dropped, hopeless: records; dropped as over-long. lost_share:
    of the trained tokens, cut off. longest: tokens of the longest record tokenised. too_long: records whose
    prompt fills the window, each with its start.
    """

    count: int = 0
    truncated: float = 0.0
    split: float = 0.0
    dropped: float = 0.0
    hopeless: float = 0.0
    lost_share: float = 0.0
    longest: int = 0
    too_long: list[tuple[Texts, int | None, Problem]] = field(default_factory=list)


def measure(seen: Seen, long_ones: Sequence[int], counter: TokenCounter, shape: Shape) -> Measured:
    """What the window does to the sft records seen. long_ones: as from seen.longer_than."""
    measured, window = Measured(), shape.max_seq_len
    lost = trained = answer_bytes = 0.0
    weights = _chosen(seen, long_ones)
    measured.count = len(weights)
    counts = counter.count([seen.texts[place] for place in weights])
    for (place, weight), counted in zip(weights.items(), counts, strict=True):
        one, whole = seen.texts[place], len(counted.trained)
        parts = parts_of(one, counted, shape, counter.count_one)
        if isinstance(parts, Problem):  # also one that the template refuses in parts, which indexing tells
            measured.longest = max(measured.longest, whole)
            measured.dropped += weight * (parts.code == OVER_LONG)
            continue
        if (problem := prompt_too_long(one, parts, window)) is not None:
            if counter.is_exact:
                measured.too_long.append((one, seen.starts[place], problem))
            elif max(part.masked_tokens for part in parts) >= SURE * window:
                measured.hopeless += weight
            continue
        measured.longest = max(measured.longest, whole)
        measured.split += weight * (len(parts) > 1)
        measured.truncated += weight * any(len(part.trained) > window for part in parts)
        lost += weight * sum(sum(part.trained[window:]) for part in parts)
        trained += weight * sum(counted.trained)
        answer_bytes += weight * _trained_bytes(one)
    bytes_per_token = answer_bytes / trained if trained else BYTES_PER_TOKEN
    short = set(range(len(seen.texts))) - set(long_ones)
    trained += sum(_trained_bytes(seen.texts[place]) / bytes_per_token + 1 for place in short)
    measured.lost_share = lost / trained if trained else 0.0
    return measured


def _chosen(seen: Seen, long_ones: Sequence[int]) -> dict[int, float]:
    """Which records are tokenised, and how many each stands for: the longest ones for themselves, and evenly
    spread ones for all others.
    """
    if len(long_ones) <= MEASURED_RECORDS:
        return dict.fromkeys(long_ones, 1.0)
    by_length = sorted(long_ones, key=lambda place: -_bytes(seen.texts[place].parts))
    by_prompt = sorted(long_ones, key=lambda place: -prompt_bytes(seen.texts[place]))
    first = {*by_length[:LONGEST_FIRST], *by_prompt[:LONGEST_FIRST]}
    others = [place for place in long_ones if place not in first]
    count = MEASURED_RECORDS - len(first)
    spread = [others[divmod(turn * len(others), count)[0]] for turn in range(count)]
    return {**dict.fromkeys(sorted(first), 1.0), **dict.fromkeys(spread, len(others) / len(spread))}


def _trained_bytes(texts: Texts) -> int:
    return sum(len(text.encode()) for one in texts.stretches for text, trained in one.segments if trained)


def prompt_bytes(texts: Texts) -> int:
    """Of what stands before the first text that is trained."""
    segments = (segment for one in texts.stretches for segment in one.segments)
    return sum(len(text.encode()) for text, _ in takewhile(lambda segment: not segment[1], segments))


def _bytes(parts: Sequence[str]) -> int:
    return sum(len(part.encode()) for part in parts)
