"""Rows of tokens by their ids, ranges and one word."""

from __future__ import annotations

import pytest

from crossfoot.written.token_rows import fault_of_rows, token_rows, untrained_rows


def test_ids_ranges_and_those_that_are_new() -> None:
    assert token_rows("new", 256, 260) == [256, 257, 258, 259]
    assert token_rows([9, "3-5", 1], 256, 260) == [1, 3, 4, 5, 9]
    assert untrained_rows(None, 256, 260) == untrained_rows([1], 256, 260) == 4
    assert untrained_rows("new", 256, 260) == untrained_rows([1, "250-259"], 256, 260) == 0
    assert untrained_rows(["256-258"], 256, 260) == 1


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("new", ""),
        ([0, "5-9", 259], ""),
        ([260], "260 is beyond the table"),
        (["9-260"], "9-260 goes beyond the table"),
        (["0-999999999"], "goes beyond the table"),
        (["9-5"], "9-5 ends before it begins"),
        ([7, "5-9"], "7 is named twice"),
        (["5-9", "5-9"], "5 is named twice, and so are 4 more rows"),
    ],
)
def test_what_is_wrong_with_them(written: str | list[int | str], fault: str) -> None:
    found = fault_of_rows(written, 256, 260)
    assert fault in found and bool(fault) is bool(found)


def test_none_is_new() -> None:
    assert fault_of_rows("new", 260, 260).endswith("so none is new")
