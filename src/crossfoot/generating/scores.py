"""How good one answer is: against a reference, or by itself. Torch-free."""

from __future__ import annotations

import unicodedata
from typing import Any

_ENDS = " \t\n\"'`*.,;:!?。，；：！？、「」『』“”‘’（）()"
"""What an answer may begin and end with without being another one."""


def plain_answer(text: str) -> str:
    """What is compared: Unicode's NFKC, no difference of case, one blank for many, no quotes, stars and
    punctuation around it.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_ENDS)


def exact_match(answer: str, reference: str) -> float:
    """1 where both are one `plain_answer`, else 0."""
    return float(plain_answer(answer) == plain_answer(reference))


class ChrF:
    """sacrebleu's chrF2 of one answer, from 0 to 100: character n-grams, so that any script is served."""

    def __init__(self) -> None:
        from sacrebleu.metrics import CHRF

        self._metric: Any = CHRF()

    def __call__(self, answer: str, reference: str) -> float:
        """Of an answer as it stands."""
        return float(self._metric.sentence_score(answer, [reference]).score)
