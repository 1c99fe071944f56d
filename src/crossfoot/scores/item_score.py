"""What came of one item: its score, the same however it was computed, and how it was computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from crossfoot.digests import sha256_of_document
from crossfoot.documents import plain, value_of
from crossfoot.tasks.items import LETTERS, Asking, Request


class Key(NamedTuple):
    """Which item: its id is unique in the task."""

    task: str
    id: str

    def __str__(self) -> str:
        return f"{self.task}/{self.id}"


@dataclass(frozen=True)
class Score:
    """index: the item's place in its task, from 0. groups: that its subject belongs to. shots: in the
    prompt; shots_dropped: that did not fit. prompt_sha256: `prompt_sha256` of what was asked. gold: the index
    of the right choice, None where it is hidden or there are no choices.

    scores: of loglikelihood the log-probability of each choice, of letter the score of each letter, of
    rolling the log-likelihood of the text, one number. tokens, characters: of each choice, or of the text;
    of generate those of the answer, one number. words, bytes: of the text of rolling.

    text: a generated answer. choice: the index that was read from it, where the task has choices;
    letter_found: False where none could be read, and it was drawn. is_exact, chrf: of a text against its
    reference, chrf from 0 to 100.

    bucket: tokens that the item's own rows were padded to. prefix_tokens: computed once for a whole subject.
    is_rescored: a narrow margin was computed again at one fixed shape.
    """

    task: str
    index: int
    subject: str
    id: str
    kind: Asking
    shots: int
    prompt_sha256: str
    groups: tuple[str, ...] = ()
    shots_dropped: int = 0
    gold: int | None = None
    scores: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    characters: tuple[int, ...] = ()
    words: int = 0
    bytes: int = 0
    text: str | None = None
    choice: int | None = None
    letter_found: bool | None = None
    is_exact: bool | None = None
    chrf: float | None = None
    bucket: int = 0
    prefix_tokens: int = 0
    is_rescored: bool = False

    def __post_init__(self) -> None:
        if self.index < 0 or self.shots < 0 or self.shots_dropped < 0:
            raise ValueError("a count is below 0")
        for name, counts in (("tokens", self.tokens), ("characters", self.characters)):
            if self.scores and len(counts) not in (0, len(self.scores)):
                raise ValueError(f"{len(self.scores)} scores and {len(counts)} {name}")
        if self.kind == "rolling" and (len(self.scores), len(self.tokens)) != (1, 1):
            raise ValueError("a text has one log-likelihood and one number of tokens")
        choices = len(self.scores) if self.kind in ("loglikelihood", "letter") else len(LETTERS)
        for index in (self.gold, self.choice):
            if index is not None and not 0 <= index < choices:
                raise ValueError(f"there is no choice {index}")

    @property
    def key(self) -> Key:
        """Which item it is of."""
        return Key(self.task, self.id)

    @property
    def order(self) -> tuple[str, int, str]:
        """Where it stands among all: by task, then as its items are."""
        return self.task, self.index, self.id

    @property
    def has_choices(self) -> bool:
        """Whether one of several answers is taken."""
        return self.kind in ("loglikelihood", "letter") or self.choice is not None

    @property
    def is_number(self) -> bool:
        """Whether all that was computed is."""
        return not any(map(math.isnan, self.scores))

    @property
    def answer(self) -> int | str | None:
        """The choice that was taken, from 0, or the text; None where NaN leaves it open."""
        if not self.has_choices:
            return self.text
        return self.choice if self.choice is not None else likeliest(self.scores)

    @property
    def answer_per_token(self) -> int | None:
        """The choice of the highest log-probability per token; None where that has no meaning."""
        return self._likeliest_per(self.tokens)

    @property
    def answer_per_character(self) -> int | None:
        """The same per character."""
        return self._likeliest_per(self.characters)

    def _likeliest_per(self, counts: Sequence[int]) -> int | None:
        if self.kind != "loglikelihood" or not counts:
            return None
        return likeliest([score / max(1, count) for score, count in zip(self.scores, counts, strict=True)])

    @property
    def is_correct(self) -> bool | None:
        """Of a choice whether it is the right one, of a text whether it is exactly the reference; None where
        that is not known.
        """
        if not self.has_choices:
            return self.is_exact
        return None if self.gold is None else self.answer == self.gold

    @property
    def margin(self) -> float | None:
        """By how much the best choice is before the second one; None without two numbers."""
        if not self.has_choices or len(self.scores) < 2 or not self.is_number:
            return None
        second, best = sorted(self.scores)[-2:]
        return 0.0 if best == second else best - second

    @property
    def shown_answer(self) -> str:
        """`B`, or the text."""
        return letter(self.answer) if isinstance(self.answer, int) else self.answer or ""


@dataclass(frozen=True)
class Work:
    """How an item was computed; nothing in it decides what the item gets. place: `file:line` of the item.
    rows_in_forward: of all items that were computed with it. token_slots: tokens computed for it, padding in.
    milliseconds: its share of the time of its forwards. peak_bytes: most memory that the device had in use
    since the one before. rank: that computed it.
    """

    place: str
    rows_in_forward: int
    token_slots: int
    milliseconds: float
    peak_bytes: int
    rank: int = 0

    @property
    def short_place(self) -> str:
        """Without the folder."""
        return self.place.rpartition("/")[2]


@dataclass(frozen=True)
class Scored:
    """An item of the log."""

    score: Score
    work: Work

    def line(self) -> dict[str, Any]:
        """Of items.jsonl."""
        work: dict[str, Any] = plain(self.work)
        return score_line(self.score) | work


def scored_of(line: Mapping[str, Any]) -> Scored:
    """Read a line; what follows from the rest is not taken from it. Raises Malformed."""
    return Scored(value_of(Score, line), value_of(Work, line))


def score_line(score: Score) -> dict[str, Any]:
    """Of scores.jsonl: what was given, and what follows from it. Floats are written so that they are read
    back bit by bit.
    """
    given = {**vars(score), "scores": plain(score.scores), "chrf": plain(score.chrf)}
    follows = {
        "answer": score.answer,
        "answer_per_token": score.answer_per_token,
        "answer_per_character": score.answer_per_character,
        "is_correct": score.is_correct,
        "margin": plain(score.margin),
    }
    return given | follows


def likeliest(scores: Sequence[float]) -> int | None:
    """The index of the highest, the first of equal ones; None with a NaN, or without any."""
    if not scores or any(map(math.isnan, scores)):
        return None
    return scores.index(max(scores))


def letter(index: int | None) -> str:
    """`B` of 1; `-` of None."""
    return "-" if index is None else LETTERS[index]


def prompt_sha256(request: Request) -> str:
    """Of all that the model is asked: context, continuations, how an answer is decoded."""
    decoding = None if request.decoding is None else asdict(request.decoding)
    return sha256_of_document([request.context, *request.continuations, decoding])
