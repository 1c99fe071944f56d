"""JSON (RFC 8259) as plain values, with the place of every key and value.

No library keeps both places of a duplicate key, so the structure is scanned here; strings, numbers and the
three words are read by the standard library's decoder, and a differential test holds the whole against
`json.loads`. Comments and trailing commas, which DeepSpeed's own reader allows, are read over and remembered.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from crossfoot.findings.finding import Place
from crossfoot.written.slips import JSON_COMMENT
from crossfoot.written.source import BrokenText, Source

Keys = tuple[str | int, ...]
DEEPEST = 100
_HJSON = "DeepSpeed's own reader accepts it, transformers and accelerate refuse the same file"
_BLANK = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"[^\s,:\[\]{}\"]+")


class BrokenJson(BrokenText):
    """Text that is not strict JSON."""


@dataclass
class JsonTree:
    """Plain values (of duplicate keys the last, as json.loads), places by path, and every duplicate.

    `keys` and `values` hold the place of each entry's key and value; lists have no keys. `ends`: the offset
    behind each value. `duplicates`: (path, first key, second key). `commas`: by path, the offset of the comma
    before an entry. `comments`, `extra_commas`: what strict JSON does not have; empty for strict JSON.
    """

    value: Any = None
    keys: dict[Keys, Place] = field(default_factory=dict)
    values: dict[Keys, Place] = field(default_factory=dict)
    ends: dict[Keys, int] = field(default_factory=dict)
    commas: dict[Keys, int] = field(default_factory=dict)
    duplicates: list[tuple[Keys, Place, Place]] = field(default_factory=list)
    comments: list[Place] = field(default_factory=list)
    extra_commas: list[Place] = field(default_factory=list)


def read_json_tree(source: Source) -> JsonTree:
    """The one value in `source`. Raises BrokenJson at the first character that is not JSON."""
    scan = _Scan(source)
    scan.tree.value, end = scan.value((), scan.skip(0))
    end = scan.skip(end)
    if end < len(source.text):
        scan.fail("something stands after the end of the JSON", end)
    return scan.tree


def _no_constant(word: str) -> NoReturn:
    raise _NotANumber(word)


class _NotANumber(Exception):
    """NaN or an infinity, which json.loads would accept and JSON does not have."""


class _Scan:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.tree = JsonTree()
        self.decoder = json.JSONDecoder(parse_constant=_no_constant)

    def skip(self, at: int) -> int:
        """The next character that is neither blank nor in a comment."""
        while True:
            blank = _BLANK.match(self.text, at)
            at = blank.end() if blank else at
            comment = JSON_COMMENT.match(self.text, at)
            if comment is None:
                return at
            place = self.source.place(at, comment.end())
            if place not in self.tree.comments[-1:]:
                self.tree.comments.append(place)
            at = comment.end()

    def fail(self, title: str, at: int, end: int | None = None, *helps: str, note: str = "") -> NoReturn:
        raise BrokenJson(title, self.source.place(at, end), (note,) if note else (), helps)

    def value(self, path: Keys, at: int) -> tuple[Any, int]:
        """The value that begins at `at`, and where it ends."""
        opening = self.text[at : at + 1]
        if len(path) > DEEPEST:
            self.fail(f"the JSON is nested deeper than {DEEPEST} levels", at)
        found: Any
        if opening == "{":
            found, end = self.members(path, at)
        elif opening == "[":
            found, end = self.entries(path, at)
        else:
            found, end = self.scalar(at)
        self.tree.values[path] = self.source.place(at, end)
        self.tree.ends[path] = end
        return found, end

    def scalar(self, at: int) -> tuple[Any, int]:
        """A string, a number, or one of three words."""
        try:
            return self.decoder.raw_decode(self.text, at)
        except json.JSONDecodeError as error:
            self.no_value(at, error)
        except _NotANumber as error:
            self.fail(f"{error} is not a JSON number", at, at + len(str(error)))
        except ValueError:  # more digits than Python turns into an integer
            word = _WORD.match(self.text, at)
            self.fail("this number has thousands of digits", at, word.end() if word else None)

    def no_value(self, at: int, error: json.JSONDecodeError) -> NoReturn:
        """Why no value begins at `at`, in plain words."""
        text = self.text
        if at >= len(text):
            self.fail("the file ends where a value is expected", at)
        if text[at] == '"':
            reason = error.msg.lower().removesuffix(" at").removesuffix(":")
            self.fail(f"this text cannot be read: {reason}", min(error.pos, len(text)))
        if text[at] == "'":
            self.fail(
                "text stands in single quotes", at, None, 'write it in double quotes: "..."', note=_HJSON
            )
        word = _WORD.match(text, at)
        if not word:
            self.fail(f"{text[at]} stands where a value is expected", at)
        lower = word.group().lower()
        helps = {"true": ("write true",), "false": ("write false",), "none": ("write null",)}.get(lower)
        self.fail(
            f"{_short(word.group())} is not a JSON value",
            at,
            word.end(),
            *(helps or ("put text in double quotes",)),
        )

    def members(self, path: Keys, at: int) -> tuple[dict[str, Any], int]:
        """An object; `at` is its brace."""
        found: dict[str, Any] = {}
        here, comma = self.skip(at + 1), None
        if self.text[here : here + 1] == "}":
            return found, here + 1
        while True:
            name, key_end = self.key(here)
            key_place = self.source.place(here, key_end)
            entry = (*path, name)
            self.comma_before(entry, comma)
            if name in found:
                self.tree.duplicates.append((entry, self.tree.keys[entry], key_place))
            self.tree.keys[entry] = key_place
            colon = self.skip(key_end)
            if self.text[colon : colon + 1] != ":":
                self.fail(f"a colon is missing after {_short(self.text[here:key_end])}", colon)
            found[name], end = self.value(entry, self.skip(colon + 1))
            after = self.skip(end)
            if self.text[after : after + 1] != "}":
                here, comma = self.next_entry(after, end, at, "}"), after
                after = here
            if self.text[after : after + 1] == "}":
                return found, after + 1

    def key(self, at: int) -> tuple[str, int]:
        """A key in double quotes."""
        if self.text[at : at + 1] == '"':
            name, end = self.scalar(at)
            return str(name), end
        if at >= len(self.text):
            self.fail("the file ends where a key is expected", at)
        word = _WORD.match(self.text, at)
        if not word:
            self.fail(f"{self.text[at]} stands where a key is expected", at)
        return self.fail(
            f"the key {_short(word.group())} is not in double quotes",
            at,
            word.end(),
            "put it in double quotes",
            note=_HJSON,
        )

    def entries(self, path: Keys, at: int) -> tuple[list[Any], int]:
        """A list; `at` is its bracket."""
        found: list[Any] = []
        here, comma = self.skip(at + 1), None
        if self.text[here : here + 1] == "]":
            return found, here + 1
        while True:
            self.comma_before((*path, len(found)), comma)
            entry, end = self.value((*path, len(found)), here)
            found.append(entry)
            after = self.skip(end)
            if self.text[after : after + 1] != "]":
                here, comma = self.next_entry(after, end, at, "]"), after
                after = here
            if self.text[after : after + 1] == "]":
                return found, after + 1

    def comma_before(self, entry: Keys, comma: int | None) -> None:
        if comma is not None:
            self.tree.commas[entry] = comma

    def next_entry(self, at: int, end: int, opening: int, closing: str) -> int:
        """Past the comma at `at` to the next entry, or to `closing`. `end`: where the last entry ended;
        `opening`: of the whole.
        """
        if at >= len(self.text):
            line = self.source.place(opening).line
            self.fail(f"the file ends before the {closing} of line {line}", at)
        if self.text[at] != ",":
            is_new_line = "\n" in self.text[end:at]
            self.fail(
                "a comma is missing here", end if is_new_line else at, note=_HJSON if is_new_line else ""
            )
        here = self.skip(at + 1)
        if self.text[here : here + 1] == closing:
            self.tree.extra_commas.append(self.source.place(at))
        return here


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
