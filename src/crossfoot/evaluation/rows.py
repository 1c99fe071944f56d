"""Questions as rows: what a forward computes of them, with what they share left out, and padded to what the
row itself needs. Nothing here knows how many rows a forward has.

A product of matrices is equal to the last bit for any number of rows as long as they come in multiples of 16,
by the CPU libraries of today (oneDNN, MKL); so that is what a row is padded to, and how its logits are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from crossfoot.arithmetic.dealing import deal
from crossfoot.tasks.questions import Ids, Question

STEP = 16
"""Tokens."""
_PIECES_PER_RANK = 4


@dataclass(frozen=True)
class Target:
    """A continuation that a row answers. start: the place in the row whose logits predict its first token."""

    choice: int
    start: int
    ids: Ids


@dataclass(frozen=True)
class Row:
    """An input. number: of its question. first: the first place whose logits are needed. later: tokens that
    are generated behind it, at most, and computed with.
    """

    number: int
    ids: Ids
    first: int
    targets: tuple[Target, ...] = ()
    later: int = 0

    def tokens(self, prefix_tokens: int) -> int:
        """That are computed of it, at most."""
        return shape_of(self, prefix_tokens).padded + self.later


@dataclass(frozen=True, order=True)
class Shape:
    """padded: tokens of a row behind the prefix, with its padding. kept: places of logits, the last ones."""

    padded: int
    kept: int


@dataclass(frozen=True)
class Piece:
    """Rows of one group, which one rank computes. prefix: what all rows of the group begin with."""

    prefix: Ids
    rows: tuple[Row, ...]

    @property
    def work(self) -> int:
        """Tokens that are computed."""
        return len(self.prefix) + self.row_tokens

    @property
    def row_tokens(self) -> int:
        """Of these, those behind the prefix."""
        return sum(row.tokens(len(self.prefix)) for row in self.rows)


def shape_of(row: Row, prefix_tokens: int) -> Shape:
    """Of the row alone."""
    padded = rounded_up(len(row.ids) - prefix_tokens)
    unneeded, _ = divmod(row.first - prefix_tokens, STEP)
    return Shape(padded, padded - unneeded * STEP)


def rounded_up(tokens: int) -> int:
    """To a multiple of STEP."""
    return -(-tokens // STEP) * STEP


def rows_of(number: int, question: Question) -> list[Row]:
    """Continuations whose inputs begin alike share one row: of single letters there is one for all."""
    rows: dict[Ids, list[tuple[Ids, list[Target]]]] = {}
    for choice, (context, after) in sorted(enumerate(question.pairs), key=lambda one: -len(one[1][1])):
        ids = context + after[:-1]
        alike = rows.setdefault(context, [])
        home = next((targets for there, targets in alike if there[: len(ids)] == ids), None)
        if home is None:
            alike.append((ids, home := []))
        if after:
            home.append(Target(choice, len(context) - 1, after))
    return [
        Row(number, ids, len(context) - 1, tuple(targets), question.later_tokens)
        for context, alike in rows.items()
        for ids, targets in alike
    ]


def pieces_of(questions: Sequence[Question], *, shares: bool = True) -> list[Piece]:
    """Of each group one. shares: whether a prefix can be computed once for all; before generated texts it
    never is.
    """
    groups: dict[tuple[str, str, str, int], list[Row]] = {}
    for number, question in enumerate(questions):
        groups.setdefault(question.group, []).extend(rows_of(number, question))
    return [
        Piece(shared_by(rows) if shares and kind != "generate" else (), tuple(rows))
        for (_, _, kind, _), rows in groups.items()
    ]


def shared_by(rows: Sequence[Row]) -> Ids:
    """What all rows begin with; the first logits that one needs are behind it."""
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[: min(alike, *(row.first for row in rows))]


def without(pieces: Sequence[Piece], done: frozenset[int]) -> list[Piece]:
    """What is left to do. done: numbers of questions. A prefix stays what it was."""
    left = [Piece(one.prefix, tuple(row for row in one.rows if row.number not in done)) for one in pieces]
    return [one for one in left if one.rows]


def dealt(pieces: Sequence[Piece], ranks: int) -> list[list[Piece]]:
    """The pieces of each rank, the largest first. A group that is large beside the others is divided."""
    if ranks > 1:
        most = -(-sum(one.work for one in pieces) // (_PIECES_PER_RANK * ranks))
        pieces = [part for one in pieces for part in _divided(one, most)]
    ordered = sorted(pieces, key=lambda one: -one.work)
    found = deal([one.work for one in ordered], [1] * len(ordered), ranks, len(ordered)) if ordered else None
    return [[ordered[place] for place in places] for places in found or [[]] * ranks]


def _divided(piece: Piece, most: int) -> Iterator[Piece]:
    """Into pieces of about `most` tokens; the rows of a question stay together."""
    part: list[Row] = []
    tokens = 0
    for row in piece.rows:
        if part and tokens >= max(most, len(piece.prefix)) and row.number != part[-1].number:
            yield Piece(piece.prefix, tuple(part))
            part, tokens = [], 0
        part.append(row)
        tokens += row.tokens(len(piece.prefix))
    yield Piece(piece.prefix, tuple(part))
