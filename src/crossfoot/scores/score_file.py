"""scores.jsonl: the scores of all items, in one order and one spelling. Its sha256 tells whether two
evaluations gave the same: no time, no rank, no budget and no path is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from crossfoot import durable
from crossfoot.line_file import line_of
from crossfoot.scores.item_score import Score, score_line

SCORES = "scores.jsonl"


def score_text(scores: Iterable[Score]) -> str:
    """The file: by task, then as the items of the task are."""
    return "".join(f"{line_of(score_line(one))}\n" for one in sorted(scores, key=lambda one: one.order))


def scores_sha256(text: str | bytes) -> str:
    """Hex digits of what `score_text` gave, or of the file."""
    return hashlib.sha256(text.encode("utf-8") if isinstance(text, str) else text).hexdigest()


def write_scores(folder: str | Path, scores: Iterable[Score]) -> str:
    """Write FOLDER/scores.jsonl; returns its sha256. Raises OSError."""
    text = score_text(scores)
    durable.replace(Path(folder) / SCORES, text)
    return scores_sha256(text)
