"""Rows that begin alike are found without being told, and the order of the questions does not matter."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from crossfoot.evaluation.alike import pieces_alike
from crossfoot.tasks.items import Item, Request
from crossfoot.tasks.questions import Question


def question(number: int, context: tuple[int, ...], after: tuple[int, ...] = (9,)) -> Question:
    item = Item("task", "", str(number), f"task:{number}", "", ("one",))
    return Question(Request(item, "loglikelihood", ("",), 0, "", ("one",)), ((context, after),))


CONTEXTS = st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=40).map(tuple), min_size=1, max_size=12)


@given(contexts=CONTEXTS, seed=st.integers(0, 9))
def test_each_row_is_in_one_piece_and_begins_with_its_prefix(
    contexts: list[tuple[int, ...]], seed: int
) -> None:
    asked = [question(number, context) for number, context in enumerate(contexts)]
    pieces = pieces_alike(asked)
    assert sorted(row.number for piece in pieces for row in piece.rows) == list(range(len(asked)))
    for piece in pieces:
        for row in piece.rows:
            assert row.ids[: len(piece.prefix)] == piece.prefix and row.first >= len(piece.prefix)
    order = random.Random(seed).sample(range(len(asked)), len(asked))
    turned = pieces_alike([asked[number] for number in order])
    assert sorted((piece.prefix, len(piece.rows)) for piece in turned) == sorted(
        (piece.prefix, len(piece.rows)) for piece in pieces
    )


def test_two_subjects_are_two_pieces_and_a_stranger_stays_alone() -> None:
    first, second = (1,) * 200, (1,) * 20 + (2,) * 180
    contexts = [(*first, 50 + n, 3) for n in range(6)] + [(*second, 60 + n, 3) for n in range(6)]
    pieces = pieces_alike([question(n, one) for n, one in enumerate([*contexts, (1, 7, 7)])])
    assert sorted((len(piece.prefix), len(piece.rows)) for piece in pieces) == [(1, 1), (200, 6), (200, 6)]
    assert len(pieces_alike([question(n, one) for n, one in enumerate(contexts)], shares=False)) == 1


def test_texts_that_each_begin_with_the_one_before_are_no_deep_well() -> None:
    pieces = pieces_alike([question(n, (5,) * (n + 1)) for n in range(3000)])
    assert sum(len(piece.rows) for piece in pieces) == 3000
