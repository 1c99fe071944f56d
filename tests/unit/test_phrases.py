"""Numbers of things, and names, inside a sentence."""

from __future__ import annotations

import pytest

from crossfoot.phrases import counted, listed


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1_234, "1,234 steps")]
)
def test_things_are_counted(number: int, words: str) -> None:
    assert counted(number, "step") == words


def test_some_words_take_more_than_an_s() -> None:
    assert [counted(number, "entry", "entries") for number in (1, 2)] == ["1 entry", "2 entries"]


def test_names_are_listed() -> None:
    assert [listed(["a", "b", "c"][:count]) for count in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert listed(["a", "b"], "or") == "a or b"
