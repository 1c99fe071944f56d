"""What a generated text answers, and how near it is to a reference."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from crossfoot.tasks.items import Item

_SAID = re.compile("所以答案是(.+?)。")
_PATTERNS = (
    "({0})是正确的",
    "选项({0})正确",
    "答案为({0})",
    "答案是({0})",
    "答案({0})",
    "选择({0})",
    "答案：({0})",
    "选择答案({0})",
    "({0})",
)
"""In the order of Chinese-LLaMA-Alpaca-2's scripts; {0}: a letter of the choices. The first that is found
counts, the last of them a letter anywhere.
"""
_ENDS = " \t\n\"'`*.,;:!?。，；：！？、「」『』“”‘’（）()"
"""What an answer may begin and end with without being another one."""


@dataclass(frozen=True)
class Answered:
    """choice: its index. is_drawn: there was no letter in the text, and it is a guess."""

    choice: int
    is_drawn: bool


def answered(text: str, item: Item, seed: int = 0) -> Answered:
    """The choice that a text names, as Chinese-LLaMA-Alpaca-2 takes it from there. That project guesses where
    there is none; so it is done here, by a draw that is a function of seed and item alone, so that a quarter
    of such answers is right by chance, as in its tables. How many are drawn is counted.
    """
    found = letter_in(text, item)
    return Answered(_drawn(item, seed), True) if found is None else Answered(found, False)


def letter_in(text: str, item: Item) -> int | None:
    """The index of the choice that a text names by its letter or, without any letter, by its own text."""
    letters = item.letters
    said = _SAID.findall(text)
    if said and len(said[-1]) == 1 and said[-1] in letters:
        return letters.index(said[-1])
    for pattern in _patterns(letters):
        if match := pattern.search(text):
            return letters.index(match[1])
    named = [re.escape(choice) for choice in item.choices if choice]
    if named and (match := re.search("|".join(named), text)):
        return len(item.choices) - 1 - item.choices[::-1].index(match[0])  # of equal ones the last
    return None


@lru_cache
def _patterns(letters: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern.format(f"[{letters}]")) for pattern in _PATTERNS)


def _drawn(item: Item, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}\n{item.task}\n{item.id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % len(item.choices)


def plain_answer(text: str) -> str:
    """What is compared: Unicode's NFKC, no difference of case, one blank for many, no quotes, stars and
    punctuation around it.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_ENDS)


def exact_match(answer: str, reference: str) -> float:
    """1 where both are one `plain_answer`, else 0."""
    return float(plain_answer(answer) == plain_answer(reference))


@dataclass(frozen=True)
class Judged:
    """What a generated text comes to. choice: that it names, where there are some; letter_found: whether it
    was named, and not drawn. is_exact, chrf: against the reference, where there is one.
    """

    choice: int | None = None
    letter_found: bool | None = None
    is_exact: bool | None = None
    chrf: float | None = None


def judged(text: str, item: Item, seed: int) -> Judged:
    """Of an item's answer."""
    if item.choices:
        found = answered(text, item, seed)
        return Judged(found.choice, not found.is_drawn)
    if item.reference is None:
        return Judged()
    is_exact = bool(exact_match(text, item.reference))
    return Judged(is_exact=is_exact, chrf=_chrf()(text, item.reference))


class ChrF:
    """sacrebleu's chrF2 of one answer, from 0 to 100: character n-grams, so that any script is served."""

    def __init__(self) -> None:
        from sacrebleu.metrics import CHRF

        self._metric: Any = CHRF()

    def __call__(self, answer: str, reference: str) -> float:
        """Of an answer as it stands."""
        return float(self._metric.sentence_score(answer, [reference]).score)


@lru_cache
def _chrf() -> ChrF:
    return ChrF()
