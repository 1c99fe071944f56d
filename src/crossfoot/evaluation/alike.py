"""Questions of which nobody knows what they share: rows that begin alike are found by their tokens alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from crossfoot.evaluation.rows import Piece, Row, rounded_up, rows_of, shared_by
from crossfoot.tasks.questions import Question

_DEEPEST = 64
"""Of pieces that are found within pieces."""


def pieces_alike(questions: Sequence[Question], *, shares: bool = True) -> list[Piece]:
    """shares: whether a prefix can be computed once for all."""
    rows = [row for number, question in enumerate(questions) for row in rows_of(number, question)]
    if not shares:
        return [Piece((), tuple(rows))]
    return list(_pieces(sorted(rows, key=lambda row: (row.ids, row.number))))


def _pieces(rows: Sequence[Row], before: int = -1, depth: int = 0) -> Iterator[Piece]:
    """rows: sorted, and alike in their first `before` tokens. Those that go on alike become a piece of their
    own where fewer tokens are computed then, although what they begin with is computed again.
    """
    prefix = shared_by(rows)
    at = len(prefix)
    if at == before or depth == _DEEPEST:
        yield Piece(prefix, tuple(rows))
        return
    kept: list[Row] = []
    for _, group in groupby(rows, key=lambda row: row.ids[at]):
        ours = list(group)
        own = list(_pieces(ours, at, depth + 1)) if len(ours) > 1 else []
        if own and sum(piece.work for piece in own) < sum(rounded_up(len(row.ids) - at) for row in ours):
            yield from own
        else:
            kept += ours
    if kept:
        yield Piece(prefix, tuple(kept))
