"""Rows of the tables of tokens that `lora.trainable_token_indices` names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from crossfoot.phrases import counted

NEW = "new"
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


def is_row_word(word: object) -> bool:
    """Whether this is an id, or a range of them such as `32000-55295`."""
    is_id = isinstance(word, int) and not isinstance(word, bool) and 0 <= word < 10**9
    return is_id or (isinstance(word, str) and _RANGE.fullmatch(word) is not None)


def token_rows(written: str | Sequence[int | str], first_new: int, rows: int) -> list[int]:
    """The ids, in order. first_new: rows of the table before it is grown to the tokenizer. rows: after; a
    range ends there.
    """
    if written == NEW:
        return list(range(first_new, rows))
    found: list[int] = []
    for word in written:
        matched = _RANGE.fullmatch(str(word))
        found += range(int(matched[1]), min(int(matched[2]) + 1, rows)) if matched else [int(word)]
    return sorted(found)


def fault_of_rows(written: str | Sequence[int | str], first_new: int, rows: int) -> str:
    """What is wrong with it, as a sentence; "" where nothing is."""
    for word in () if written == NEW else written:
        matched = _RANGE.fullmatch(str(word))
        if matched and int(matched[1]) > int(matched[2]):
            return f"{word} ends before it begins"
        if matched and int(matched[2]) >= rows:
            return f"{word} goes beyond the table, whose last row is {rows - 1}"
    ids = token_rows(written, first_new, rows)
    if not ids:
        return f"the tokenizer has no more tokens than the model rows, {first_new:,}, so none is new"
    if ids[-1] >= rows:
        return f"{ids[-1]} is beyond the table, whose last row is {rows - 1}"
    twice = [row for row, times in Counter(ids).items() if times > 1]
    if twice:
        return f"{twice[0]} is named twice" + (
            f", and so are {counted(len(twice) - 1, 'more row')}" if len(twice) > 1 else ""
        )
    return ""


def untrained_rows(written: str | Sequence[int | str] | None, first_new: int, rows: int) -> int:
    """How many of the new rows are not named."""
    if written is None:
        return rows - first_new
    return len(set(range(first_new, rows)) - set(token_rows(written, first_new, rows)))
