"""Characters that an input method or a word processor writes where a file needs ASCII: `：`, `，`, `“`,
`６４`, a non-breaking blank, an en dash. One table, for every reader of what people wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
"""Hyphens, dashes and minus signs that are not `-`. One of them may stand for two: a word processor makes
`–` or `—` of `--`.
"""
BLANKS = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
"""Blanks that are none to YAML, JSON or a shell."""
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Characters without a shape of their own, which come along when text is copied from a page."""
_OTHERS = {
    '"': "\u201c\u201d\u201e\u201f\u2033",
    "'": "\u2018\u2019\u201a\u201b\u2032",
    ",": "\u3001\ufe50\ufe51",
    ".": "\u3002\ufe52",
    ":": "\ufe55\u2236\ufe30",
    ";": "\ufe54",
    "%": "\ufe6a",
    "=": "\ufe66",
    "[": "\u3010\u3014",
    "]": "\u3011\u3015",
    "-": DASHES,
    " ": BLANKS,
}
ASCII_OF: Mapping[str, str] = MappingProxyType(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {written: meant for meant, those in _OTHERS.items() for written in those}
)
"""Look-alike -> the one ASCII character that is meant."""
_TABLE = str.maketrans(dict(ASCII_OF))


def to_ascii(text: str) -> str:
    """The text with ASCII in place of look-alikes, character for character: offsets stay. Letters of other
    scripts stay what they are.
    """
    return text.translate(_TABLE)


def has_look_alikes(text: str) -> bool:
    """Whether anything in it looks like ASCII and is not."""
    return not text.isascii() and to_ascii(text) != text
