"""Slips of the keyboard in YAML and JSON: look-alikes of ASCII where the language needs ASCII itself, and a
colon without a blank behind it. YAML reads most of them as text, without a word.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from crossfoot.written.look_alikes import ASCII_OF, BLANKS, DASHES, INVISIBLE, to_ascii

JSON_COMMENT = re.compile(r"(?://|#)[^\n\r]*|/\*.*?\*/", re.DOTALL)
LONGEST, DEEPEST = 1_000, 40
"""Of an entry in brackets, in characters; of brackets in brackets. What is beyond is not looked at."""
Kind = Literal["text", "list", "section"]
_QUOTES = "".join(written for written, meant in ASCII_OF.items() if meant in "\"'")
_KEY = re.compile(r"(?P<open>[\"']?)(?P<name>[A-Za-z_][\w.-]*)[\"']? *(?P<colon>[:=])", re.ASCII)
"""A key as it is meant: matched against a text that is in ASCII already."""
_INDENT = re.compile(rf"[ {BLANKS}]*")
_DASH = re.compile(rf"[-{DASHES}][ {BLANKS}]+")
_BLOCK_TEXT = re.compile(r".*[:-] [|>][-+\d]*\s*(#.*)?$")
_COMMENT = re.compile(rf"[ {BLANKS}](#|\uff03)")
_NO_TEXT = re.compile(r"[-+.\d][-+.\deE]*|true|false|null|\".*\"|'.*'")
"""A value of which a comment, however its sign is written, is no part."""
_LINE_END = re.compile("\r\n|\n|\r")
_PLAIN_END = re.compile(r"[,\[\]{}\r\n]")
_ENDS = {"[": ",]", "{": ",}"}


@dataclass(frozen=True)
class Slip:
    """Characters `start` to `end` of a text that should be `text`; an empty span: a blank is missing."""

    start: int
    end: int
    text: str

    @property
    def is_blank(self) -> bool:
        """Whether nothing is wrong but a missing blank."""
        return self.start == self.end


def yaml_slips(text: str, kind_of: Callable[[str], Kind | None]) -> list[Slip]:
    """The slips in YAML. kind_of: what a key of this name holds; None of a word that is no key, and stays."""
    return _Yaml(text, kind_of).document()


def tab_slips(text: str, width: int) -> list[Slip]:
    """The tabs that lines are indented with, as so many blanks each."""
    indents = re.finditer(r"^[ \t]*\t[ \t]*", text, re.MULTILINE)
    tabs = [at for indent in indents for at in range(*indent.span()) if text[at] == "\t"]
    return [Slip(at, at + 1, " " * width) for at in tabs]


def value_slips(text: str, kind: Kind) -> list[Slip]:
    """The slips in one YAML value."""
    yaml = _Yaml(text, lambda name: None)
    yaml.key_and_value(0, len(text), kind)
    return yaml.found


def json_slips(text: str) -> list[Slip]:
    """The look-alikes outside the strings of a JSON text, and those that should delimit strings."""
    found = []
    at, is_inside = 0, False
    while at < len(text):
        letter = text[at]
        meant = ASCII_OF.get(letter, letter)
        if not is_inside and (comment := JSON_COMMENT.match(text, at)):
            at = comment.end()
            continue
        is_quote = meant in "\"'" if letter != meant else letter == '"'
        if is_inside:
            is_quote = is_quote and (letter == '"' or _ends_string(text, at))
            is_closed = is_quote or letter == "\n"
            at += letter == "\\"
        else:
            is_closed = not is_quote
        if letter != meant and (is_quote or not is_inside):
            found.append(Slip(at, at + 1, '"' if is_quote else meant))
        is_inside = not is_closed
        at += 1
    return found


def _ends_string(text: str, at: int) -> bool:
    """Whether a string ends here: what follows is JSON's own."""
    blanks = _INDENT.match(text, at + 1)
    behind = to_ascii(text[blanks.end() : blanks.end() + 1] if blanks else "")
    return not behind or behind in ":,]}\r\n"


def repaired(text: str, slips: Sequence[Slip]) -> str:
    """The text without its slips."""
    for slip in sorted(slips, key=lambda slip: (slip.start, slip.end), reverse=True):
        text = text[: slip.start] + slip.text + text[slip.end :]
    return text


class _Yaml:
    """One pass over a text; `found` gets its slips."""

    def __init__(self, text: str, kind_of: Callable[[str], Kind | None]) -> None:
        self.text = text
        self.plain = to_ascii(text)
        self.kind_of = kind_of
        self.found: list[Slip] = []
        self.depth = 0

    def document(self) -> list[Slip]:
        """Line by line; block texts are passed over, lists and sections in brackets may be many lines."""
        at, text_indent = 0, -1
        while at < len(self.text):
            end = self.line_end(at)
            line = self.text[at:end]
            indent = len(line) - len(line.lstrip(" "))
            if text_indent >= 0 and (indent > text_indent or not line.strip()):
                at = end + 1
                continue
            text_indent = indent if _BLOCK_TEXT.match(line) else -1
            at = self.line_end(max(end, self.line(at, end))) + 1
        return self.found

    def line_end(self, at: int) -> int:
        found = _LINE_END.search(self.text, at)
        return found.start() if found else len(self.text)

    def line(self, at: int, end: int) -> int:
        """A line of block style: blanks, dashes, a key, a value. Returns where it ends."""
        self.unseen(at, end)
        begins = first = self.blanks(at, end, wide="  ")
        while dash := _DASH.match(self.text, begins, end):
            self.ascii(begins, dash.end())
            begins = dash.end()
        if to_ascii(self.text[begins : begins + 1]) == "#":
            self.ascii(begins, begins + 1)
            return end
        return self.value(begins, end, "text") if begins > first else self.key_and_value(begins, end, "text")

    def key_and_value(self, at: int, end: int, kind: Kind, inside: str = "") -> int:
        """`key: value`, or a value alone. inside: the bracket that is open. Returns where the value ends."""
        key = _KEY.match(self.plain, at, end) if inside != "[" else None
        known = self.kind_of(key["name"]) if key else None
        if (
            key is not None
            and (inner := _KEY.match(self.plain, key.end(), end))
            and self.kind_of(inner["name"])
        ):
            return end  # `data:train: [...]` is a key of two words, and said to be none
        if key is not None and known is not None:
            self.key(key, end)
            at, kind = key.end(), known
        return self.value(at, end, kind, inside)

    def value(self, at: int, end: int, kind: Kind, inside: str = "") -> int:
        """What stands behind a key, a dash or a comma. Returns where it ends."""
        at = self.blanks(at, end)
        opening = self.text[at : at + 1] if at < end else ""
        if opening in ("[", "{") or (to_ascii(opening) in ("[", "{") and kind != "text"):
            return self.flow(at) if opening else end
        return self.scalar(at, self.scalar_end(at, end, inside)) if opening else end

    def blanks(self, at: int, end: int, wide: str = " ") -> int:
        """Past the blanks; each of them must be a plain one."""
        while at < end and (self.text[at] in " \t" or self.text[at] in BLANKS):
            if self.text[at] in BLANKS:
                self.found.append(Slip(at, at + 1, wide if self.text[at] == "\u3000" else " "))
            at += 1
        return at

    def unseen(self, at: int, end: int) -> None:
        """Characters without a shape, which no key and no text of a config may have."""
        for offset in range(at, end):
            if self.text[offset] == "#":
                return
            if self.text[offset] in INVISIBLE:
                self.found.append(Slip(offset, offset + 1, ""))

    def ascii(self, at: int, end: int) -> None:
        """Every look-alike in a stretch is a slip."""
        for offset in range(at, end):
            if (meant := ASCII_OF.get(self.text[offset])) is not None:
                self.found.append(Slip(offset, offset + 1, meant))

    def key(self, key: re.Match[str], end: int) -> None:
        """A key and its colon, behind which a blank must stand."""
        colon = key.start("colon")
        name_end = key.start() + len(key[0][:-1].rstrip())
        self.ascii(key.start(), name_end)
        follows = self.text[colon + 1 : min(end, colon + 2)]
        lacks = bool(follows) and follows not in " \t\r\n" and follows not in BLANKS
        if self.text[colon] != ":":
            self.found.append(Slip(name_end, colon + 1, ": " if lacks else ":"))
        elif lacks and self.text[key.start()] != '"':
            self.found.append(Slip(colon + 1, colon + 1, " "))

    def scalar(self, at: int, end: int) -> int:
        """A text: typographic quotes around it, or the sign of a comment behind it."""
        text = self.text[at:end]
        comment = _COMMENT.search(text)
        body = (text[: comment.start()] if comment else text).rstrip(" " + BLANKS)
        if comment and comment[1] != "#" and _NO_TEXT.fullmatch(body):
            self.ascii(at + comment.start(1), at + comment.end(1))
        is_quoted = len(body) > 1 and text[0] in _QUOTES and to_ascii(body[-1]) == to_ascii(text[0])
        if is_quoted and not os.path.exists(body):
            self.ascii(at, at + 1)
            self.ascii(at + len(body) - 1, at + len(body))
        return end

    def scalar_end(self, at: int, end: int, inside: str) -> int:
        """Where a text ends that begins at `at`: with the line, or inside of brackets at the next comma."""
        if not inside:
            return end
        if self.text[at] in "\"'":
            return self.text.find(self.text[at], at + 1, end) + 1 or end
        end = min(end, at + LONGEST)
        plain = _PLAIN_END.search(self.text, at, end)
        whole = plain.start() if plain else end
        if os.path.exists(self.text[at:whole].strip()):
            return whole  # a file may have any comma in its name
        for offset in range(at, whole):
            if to_ascii(self.text[offset]) in _ENDS[inside] and self.is_end(offset, end, inside):
                return offset
        return whole

    def is_end(self, at: int, end: int, inside: str) -> bool:
        """Whether a look-alike of a comma or bracket ends an entry: in a section, when a key follows."""
        if inside == "[" or to_ascii(self.text[at]) != ",":
            return True
        follows = _INDENT.match(self.text, at + 1, end)
        key = _KEY.match(self.plain, follows.end(), end) if follows else None
        return key is not None and self.kind_of(key["name"]) is not None

    def flow(self, at: int) -> int:
        """A list or section in brackets, over as many lines as it has. Returns where it ends."""
        inside = to_ascii(self.text[at])
        self.ascii(at, at + 1)
        at, end = at + 1, len(self.text)
        self.depth += 1
        if self.depth > DEEPEST:
            return end
        while at < end:
            meant = to_ascii(self.text[at])
            if meant in " \t\r\n":
                at = self.blanks(at, end) if meant == " " else at + 1
            elif meant == "#" and self.text[at - 1] in " \t\r\n":
                self.ascii(at, at + 1)
                at = self.line_end(at)
            elif meant in "]}":
                self.ascii(at, at + 1)
                self.depth -= 1
                return at + 1
            elif meant == ",":
                if self.text[at] != ",":
                    gap = " " if to_ascii(self.text[at + 1 : at + 2]).strip() else ""
                    self.found.append(Slip(at, at + 1, meant + gap))
                at += 1
            else:
                at = max(at + 1, self.key_and_value(at, end, "list", inside))
        return end
