"""One record of a data file, whatever kind of file it stands in, and what is wrong with one that cannot be
read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crossfoot.data.findings import Problem

LARGEST_RECORD_BYTES = 16 << 20
"""Of one record in its file. Tokenising takes up to 200 times as much memory; a novel has 1 to 10 MiB."""

EXACT_BYTES = 64 << 20
"""Of files up to this size the records are counted; of larger ones their number is estimated from this much.
"""


class NamedTwice(dict[str, Any]):
    """A JSON object that names a field twice, of which json keeps the last. name: the first such field."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.name = next(name for place, name in enumerate(names) if name in names[:place])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else NamedTwice(pairs)


DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Of records."""


@dataclass(frozen=True)
class Record:
    """One record as it stands in its file: any JSON value, or {"text": line} from plain text. Of a Parquet
    row that is True which is not read at all: pictures, sounds, lists of numbers. number, line: as of a
    Problem.
    """

    number: int
    value: Any
    line: int = 0

    def problem(self, code: str, reason: str) -> Problem:
        """What is wrong with it."""
        return Problem(code, self.number, reason, line=self.line)


def characters_in(value: Any) -> int:
    """Of all texts in a value."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(characters_in, parts))


def _bytes_in(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="ignore"))
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_bytes_in, parts))


def is_beyond_reading(value: Any) -> bool:
    """Whether the texts of a record are larger than LARGEST_RECORD_BYTES."""
    return 4 * characters_in(value) > LARGEST_RECORD_BYTES and _bytes_in(value) > LARGEST_RECORD_BYTES


def too_large(number: int, line: int = 0, *, fatal: bool = False) -> Problem:
    """A record beyond LARGEST_RECORD_BYTES, which is not read."""
    reason = f"it has more than {LARGEST_RECORD_BYTES >> 20} MiB"
    return Problem("CF550", number, reason, fatal=fatal, line=line)


def undecodable(number: int, error: UnicodeDecodeError, line: int = 0) -> Problem:
    """Bytes that are not UTF-8."""
    byte = error.object[error.start]
    reason = f"byte 0x{byte:02x} does not belong to UTF-8 text"
    return Problem("CF504", number, reason, fatal=True, line=line)


def unparsable(error: Exception, number: int, column: int, line: int = 0) -> Problem:
    """What is not JSON."""
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    return Problem("CF503", number, reason[:1].lower() + reason[1:], column, fatal=True, line=line)
