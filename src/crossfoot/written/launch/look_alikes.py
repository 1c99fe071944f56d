"""Characters that look like plain ones and are others: dashes of an editor, full-width signs of an input
method, curly quotes, blanks that are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from crossfoot.written.launch.options import place_of
from crossfoot.written.launch.shell_tree import OffsetText
from crossfoot.written.launch.statement import Defect
from crossfoot.written.look_alikes import ASCII_OF, BLANKS, DASHES, INVISIBLE
from crossfoot.written.source import Source

_DASHES = {
    "\u2010": "a hyphen that is no minus",
    "\u2011": "a hyphen that is no minus",
    "\u2012": "a figure dash",
    "\u2013": "an en dash",
    "\u2014": "an em dash",
    "\u2015": "a long dash",
    "\u2212": "a minus sign",
    "\ufe58": "a small dash",
    "\ufe63": "a small hyphen",
    "\uff0d": "a full-width hyphen",
}
_PLAIN = {**ASCII_OF, **dict.fromkeys(INVISIBLE, "")}
_TABLE = str.maketrans(_PLAIN)
_ANY = re.compile(f"[{re.escape(''.join(_PLAIN))}]")
_SAME_LENGTH = str.maketrans({**_PLAIN, **dict.fromkeys(INVISIBLE, " ")})
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_COLON = re.compile("\uff1a(?=\\S)")
_LEADING = re.compile(f"[-{''.join(_DASHES)}]*")
_SHORT = re.compile(r"[A-Za-z]\d*", re.ASCII)


@dataclass(frozen=True)
class LookAlike:
    """A word with such a character. name: of the first one; plain: what was probably meant."""

    word: OffsetText
    name: str
    plain: str

    def defect(self, source: Source) -> Defect:
        """To be told."""
        return Defect("look_alike", place_of(source, self.word), self.word.text, self.plain, name=self.name)


def plain(text: str) -> str:
    """The text with the characters that were probably meant."""
    dashes = _LEADING.match(text)
    leading, rest = (dashes[0], text[dashes.end() :]) if dashes else ("", text)
    rest = rest.translate(_TABLE)
    if _ANY.search(leading):
        leading = "-" if _SHORT.fullmatch(rest.partition("=")[0]) else "--"
    return (leading + rest).strip(" ")


def name_of(text: str) -> str:
    """What the first such character of a text is called; empty without one."""
    found = _ANY.search(text)
    if found is None:
        return ""
    character = found[0]
    if character in _DASHES:
        return _DASHES[character]
    if character not in BLANKS + INVISIBLE:
        return "a curly quote" if _PLAIN[character] in "'\"" else f"a full-width {character}"
    kind = "a blank that is none" if character in BLANKS else "an unseen character"
    return f"{kind} (U+{ord(character):04X})"


def look_alike(source: Source, word: OffsetText) -> LookAlike | None:
    """The word, when it would mean something else with the characters that it seems to have. What is quoted
    is text, and so is a dash inside a value, or a full-width sign among Chinese ones.
    """
    name, _, _ = word.text.partition("=")
    seen = [
        at
        for at, character in enumerate(word.text)
        if character in _PLAIN and not _is_quoted(source, word, at)
    ]
    telling = [
        at for at in seen if word.text[at] not in _DASHES or at < 2 or (name[:1] == "-" and at < len(name))
    ]
    meant = plain(word.text)
    if not telling or not (meant.isascii() or word.text[telling[0]] in BLANKS + INVISIBLE + DASHES):
        return None
    return LookAlike(word, name_of(word.text[telling[0] :]), meant)


def _is_quoted(source: Source, word: OffsetText, at: int) -> bool:
    """Whether a character of a word stands between quotes in the file."""
    offsets = word.offsets
    if len(offsets) != len(word.text):
        return False
    while at and offsets[at - 1] == offsets[at] - 1:
        at -= 1
    return offsets[at] > 0 and source.text[offsets[at] - 1] in "'\""


def as_meant(found: LookAlike) -> Iterator[OffsetText]:
    """The words that were probably meant."""
    offsets = found.word.offsets or (found.word.start,)
    for part in found.plain.replace('"', "").replace("'", "").split():
        yield replace(found.word, text=part, offsets=(offsets[0],) * len(part))


def plain_lines(source: Source) -> tuple[Source, tuple[Defect, ...]]:
    """A hostfile or a YAML file with plain characters in the same lines, and the lines that had others. A
    line with Chinese beside them, and what stands behind `#`, is text.
    """
    defects: list[Defect] = []
    parts: list[str] = []
    for match in _LINE.finditer(source.text):
        written = match[0].partition("#")[0].strip(" \t\r\n")
        if not _ANY.search(written) or not plain(written).isascii():
            parts.append(match[0])
            continue
        at = match.start() + match[0].index(written)
        place = source.place(at, at + len(written))
        meant = plain(_COLON.sub(": ", written))
        defects.append(Defect("look_alike", place, written, meant, name=name_of(written)))
        parts.append(_COLON.sub(": ", match[0]).translate(_SAME_LENGTH))
    return (replace(source, text="".join(parts)) if defects else source), tuple(defects)
