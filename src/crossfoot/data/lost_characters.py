"""How much of its text a tokenizer can say: characters that come to nothing, or to its unknown token.

Told from the ids alone, whatever library makes them. What a tokenizer makes of characters that no vocabulary
has is what it makes of everything that it does not have: an unknown token, the mark of a word's beginning, or
nothing. Tokenizers that spell unknown characters in bytes make different ids of different ones, and lose
none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

STRANGE = ("\U00012016", "\U00013080", "\U00010a1c")
"""A cuneiform sign, a hieroglyph, and a letter of Kharosthi: letters, so that no normaliser removes them."""
JUDGED_CHARACTERS = 2000
"""Of one text, its beginning."""
JUDGED_ALWAYS, JUDGED_OF = 200, 128
"""Records that are judged: the first ones of a data set, and then one of so many, by their place in it."""
MOST_EXAMPLES = 5
MOST_KNOWN = 100_000
"""Words of which it is kept in memory."""
_RUN = re.compile(r"\w+|[^\w\s]")

Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclass
class LostCharacters:
    """Counts over the texts that were judged. characters: those that are not blank; lost: of them, without a
    token of their own. examples: a few of the words that were lost.
    """

    encode: Encode
    characters: int = 0
    lost: int = 0
    examples: list[str] = field(default_factory=list)
    _nothing: frozenset[int] = frozenset()
    _known: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strange = [set(ids) for ids in self.encode(STRANGE)]
        self._nothing = frozenset(set.intersection(*strange))

    def see(self, place: int, texts: Iterable[str]) -> None:
        """Judge the texts of a record, if it is one of those that are judged. place: from 1."""
        if place <= JUDGED_ALWAYS or place % JUDGED_OF == 0:
            for text in texts:
                self.judge(text[:JUDGED_CHARACTERS])

    def judge(self, text: str) -> None:
        """Count the characters of a text, run by run."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        for run in self._learned(_RUN.findall(text)):
            self.characters += len(run)
            if lost := self._known[run]:
                self.lost += lost
                self._name(run)

    def taken(self) -> tuple[int, int, list[str]]:
        """What was counted (characters, lost, examples); it counts from 0 again."""
        counts = (self.characters, self.lost, self.examples)
        self.characters, self.lost, self.examples = 0, 0, []
        return counts

    def add(self, characters: int, lost: int, examples: Iterable[str]) -> None:
        """Take in what was judged of later records."""
        self.characters += characters
        self.lost += lost
        for run in examples:
            self._name(run)

    def _name(self, run: str) -> None:
        if len(self.examples) < MOST_EXAMPLES and run not in self.examples:
            self.examples.append(run)

    def _learned(self, runs: list[str]) -> list[str]:
        """The same; of each it is known then how many characters are lost."""
        if new := [run for run in dict.fromkeys(runs) if run not in self._known]:
            for run, ids in zip(new, self.encode(new), strict=True):
                self._known[run] = self._lost_of(run, ids)
        return runs

    def _lost_of(self, run: str, ids: Sequence[int]) -> int:
        """Characters lost of one word. Where a part of it came to nothing, each is looked at alone."""
        if self._nothing.issuperset(ids):
            return len(run)
        if self._nothing.isdisjoint(ids) or len(run) == 1:
            return 0
        return sum(self._known[one] for one in self._learned(list(run)))
