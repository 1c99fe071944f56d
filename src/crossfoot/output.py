"""The one way by which words reach the user: at once, what was asked for to stdout, the rest to stderr.

What a name, a file, another rank or a library has put into them steers no terminal: what cannot be seen is
made visible here. The streams behind it never raise (streams.py).
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any

_NOT_PLAIN = re.compile(r"[^\x20-\x7e\n\t]")


def say(text: str = "", end: str = "\n") -> None:
    """To stdout: what a verb was asked for."""
    print(visible(text), end=end, flush=True)


def tell(text: str, end: str = "\n") -> None:
    """To stderr: how it goes meanwhile."""
    print(visible(text), end=end, file=sys.stderr, flush=True)


def say_painted(text: str) -> None:
    """To stdout: text with colours, whose words are visible already."""
    print(text, flush=True)


def visible(text: str) -> str:
    """Text with nothing in it that could steer a terminal or hide: escape codes, direction marks, what has no
    width. Each becomes U+FFFD; new lines, tabs and blanks of any width stay.
    """
    return _NOT_PLAIN.sub(lambda found: found[0] if _can_be_seen(found[0]) else "\ufffd", text)


def visible_line(text: str) -> str:
    """The same on one line: new lines and tabs are shown too."""
    return visible(text).replace("\n", "\ufffd").replace("\t", "\ufffd")


def json_text(value: Any) -> str:
    """JSON for people and programs: letters of all scripts as they are, what cannot be seen as an escape."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _NOT_PLAIN.sub(lambda found: found[0] if _can_be_seen(found[0]) else escaped(found[0]), text)


def escaped(text: str) -> str:
    """Every character as JSON escapes it: `\\u6570`."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _can_be_seen(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"
