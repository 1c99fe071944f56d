"""How a value that somebody wrote is shown inside a message: on one line, short, unmistakable."""

from __future__ import annotations

import json
from collections.abc import Sequence

LONGEST = 60


def shown(value: object, *, whole: bool = False) -> str:
    """`8`, `"8"`, `true`, `nothing`, `[1, 2]`, `a section`: as in JSON, cut at 60 characters. whole: of a
    section what is in it.
    """
    if value is None:
        return "nothing"
    if isinstance(value, dict) and not whole:
        return "a section" if value else "an empty section"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # an integer of more digits than Python turns into text
        return "a number of thousands of digits"
    text = "".join(ch if ch.isprintable() else f"\\u{ord(ch):04x}" for ch in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def dotted(keys: Sequence[str | int]) -> str:
    """`data.train[0]` of ("data", "train", 0)."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
