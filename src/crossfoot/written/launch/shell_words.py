"""Shell text as words and operators, every character with its offset in the file. A lexer for launch scripts:
quotes, continuation lines, comments, variables, here-documents; what it does not know becomes unknown, never
an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DEEPEST = 12
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=", re.ASCII)
_WITH_DEFAULT = re.compile(r"(\w+|[@*])(?:\[[@*]\])?(:?[-=])?", re.ASCII)
_RUN = re.compile(r"[^\s;&|()<>\\'\"`$]+")
_QUOTED_RUN = re.compile(r"[^\\\"`$]+")
_ENDS_WORD = frozenset(" \t\r\n;&|()<>")


@dataclass(frozen=True)
class Part:
    """A piece of a word. text and offsets: its characters. name: of a variable; default: what stands for it
    when it is not set. A part with neither text nor name is unknown.
    """

    text: str = ""
    offsets: tuple[int, ...] = ()
    quoted: bool = False
    name: str = ""
    default: tuple[Part, ...] | None = None
    is_text: bool = False


@dataclass(frozen=True)
class Word:
    """A word before expansion, text[start:end] of the file. array: the words of `NAME=(a b c)`."""

    parts: tuple[Part, ...]
    start: int
    end: int
    array: tuple[Word, ...] | None = None

    @property
    def literal(self) -> str:
        """The text when nothing in it is quoted or expanded, else "": what can be a keyword."""
        plain = all(part.is_text and not part.quoted for part in self.parts)
        return "".join(part.text for part in self.parts) if plain else ""

    @property
    def assigns(self) -> tuple[str, bool] | None:
        """(name, appends) when this is `NAME=...` or `NAME+=...`."""
        first = self.parts[0] if self.parts else None
        match = _ASSIGNMENT.match(first.text) if first and first.is_text and not first.quoted else None
        return (match[1], bool(match[2])) if match else None


@dataclass(frozen=True)
class Operator:
    """`;`, `&&`, `|`, `(`, a line break, ... `((...))` is one operator too, its text included."""

    text: str
    start: int


@dataclass(frozen=True)
class Redirect:
    """`> FILE`: a file that the script itself writes or reads."""

    word: Word


Token = Word | Operator | Redirect


class Lexer:
    """Reads `text`, whose characters stand at `offsets` of the file."""

    def __init__(self, text: str, offsets: Sequence[int], depth: int = 0) -> None:
        self.text, self.offsets, self.depth = text, offsets, depth
        self.at = 0
        self.heredocs: list[tuple[str, bool]] = []
        self.skipped: list[tuple[int, int]] = []
        """Here-documents that were passed over, as positions in the text."""

    def offset(self, at: int) -> int:
        """Offset in the file of a position in the text; of its last character for the end."""
        return self.offsets[min(at, len(self.text) - 1)] if self.text else 0

    def tokens(self) -> Iterator[Token]:
        """All words, operators and redirections; comments and here-documents are left out."""
        text = self.text
        while self.at < len(text):
            start, letter = self.at, text[self.at]
            if self._continues():
                continue
            if letter in " \t\r" and not text.startswith("\r\n", start):
                self.at += 1
            elif letter in "\r\n":
                self.at += 2 if letter == "\r" else 1
                yield Operator("\n", self.offset(start))
                self._skip_heredocs()
            elif letter == "#":
                self._skip_line()
            elif text.startswith("((", start):
                self.at = self._closing("))", start + 2)
                yield Operator(text[start : self.at], self.offset(start))
            elif letter in "<>" or text.startswith("&>", start):
                target = self._redirection()
                if target is not None:
                    yield Redirect(target)
            elif letter in ";&|()":
                operator = re.compile(r";;&|;;|;&|&&|\|\||\|&|.").match(text, start)
                self.at = operator.end() if operator else start + 1
                yield Operator(text[start : self.at], self.offset(start))
            else:
                word = self._word()
                if not (word.literal.isdigit() and text[self.at : self.at + 1] in ("<", ">")):
                    yield word

    def _continues(self) -> bool:
        """A backslash before a line break, skipped."""
        for joint in ("\\\n", "\\\r\n"):
            if self.text.startswith(joint, self.at):
                self.at += len(joint)
                return True
        return False

    def _skip_line(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def _skip_heredocs(self) -> None:
        for delimiter, stripped in self.heredocs:
            begin = self.at
            while self.at < len(self.text):
                start = self.at
                self._skip_line()
                line = self.text[start : self.at].rstrip("\r")
                self.at += 1
                if (line.lstrip("\t") if stripped else line) == delimiter:
                    break
            self.skipped.append((begin, self.at))
        self.heredocs = []

    def _redirection(self) -> Word | None:
        """Past a redirection; the file's name, None when there is none."""
        text, start = self.text, self.at
        if text.startswith(("<(", ">("), start):
            self.at = self._closing(")", start + 2)
            return None
        is_heredoc = text.startswith("<<", start) and not text.startswith("<<<", start)
        operator = re.compile(r"&>>?|<<<|<<-?|<>|<&|>>|>&|>\||[<>]").match(text, start)
        self.at = operator.end() if operator else start + 1
        stripped = operator is not None and operator[0] == "<<-"
        while text[self.at : self.at + 1] in (" ", "\t"):
            self.at += 1
        if text[self.at : self.at + 1] in ("", *_ENDS_WORD):
            return None
        word = self._word()
        if not is_heredoc:
            return word
        self.heredocs.append(("".join(part.text or _quoted(part) for part in word.parts), stripped))
        return None

    def _word(self) -> Word:
        """The word that begins here; at least one character is taken."""
        text, start = self.text, self.at
        parts: list[Part] = []
        array: tuple[Word, ...] | None = None
        while self.at < len(text):
            letter = text[self.at]
            if self._continues():
                continue
            if letter == "(" and self.at > start and _ASSIGNMENT.fullmatch(text, start, self.at):
                array = self._array()
                break
            if letter in _ENDS_WORD and self.at > start:
                break
            parts.append(self._part(quoted=False))
        end = max(start, self.at - 1)
        return Word(_joined(parts), self.offset(start), self.offset(end) + 1, array)

    def _array(self) -> tuple[Word, ...]:
        """The words between `(` and `)`."""
        self.at += 1
        words = []
        while self.at < len(self.text) and self.text[self.at] != ")":
            letter = self.text[self.at]
            if self._continues():
                continue
            if letter == "#":
                self._skip_line()
            elif letter in _ENDS_WORD:
                self.at += 1
            else:
                words.append(self._word())
        self.at += 1
        return tuple(words)

    def _part(self, quoted: bool) -> Part:
        """One piece: a character, a quoted stretch, an expansion."""
        text, start = self.text, self.at
        letter = text[start]
        if letter == "\\" and start + 1 < len(text):
            self.at += 2
            if quoted and text[start + 1] not in '$`"\\':
                return self._text(start, self.at, True)
            return self._text(start + 1, self.at, True)
        if letter == "'" and not quoted:
            end = text.find("'", start + 1)
            self.at = len(text) if end < 0 else end + 1
            return self._text(start + 1, len(text) if end < 0 else end, True)
        if letter == '"' and not quoted:
            return self._double_quoted()
        if letter == "`":
            self.at = self._closing("`", start + 1)
            return Part(quoted=quoted)
        if letter == "$":
            return self._dollar(quoted)
        run = (_QUOTED_RUN if quoted else _RUN).match(text, start)
        self.at = run.end() if run else start + 1
        return self._text(start, self.at, quoted)

    def _double_quoted(self) -> Part:
        """`"..."` as one part whose `default` holds its pieces; its name is `"`."""
        self.at += 1
        pieces = []
        while self.at < len(self.text) and self.text[self.at] != '"':
            if not self._continues():
                pieces.append(self._part(quoted=True))
        self.at += 1
        return Part(quoted=True, name='"', default=_joined(pieces))

    def _dollar(self, quoted: bool) -> Part:
        text, start = self.text, self.at
        following = text[start + 1 : start + 2]
        if text.startswith("$((", start):
            self.at = self._closing("))", start + 3)
        elif following == "(":
            self.at = self._closing(")", start + 2)
        elif following == "{":
            return self._braces(quoted)
        elif following in ("'", '"') and not quoted:
            self.at += 1
            return self._part(quoted=False)
        elif match := _NAME.match(text, start + 1):
            self.at = match.end()
            return Part(quoted=quoted, name=match[0])
        elif following and following in "0123456789@*#?$!-":
            self.at += 2
            return Part(quoted=quoted, name=following)
        else:
            self.at += 1
            return self._text(start, self.at, quoted)
        return Part(quoted=quoted)

    def _braces(self, quoted: bool) -> Part:
        """`${...}`: a name, a name with a default, or unknown."""
        start = self.at + 2
        self.at = self._closing("}", start)
        end = self.at - 1 if self.text[self.at - 1 : self.at] == "}" and self.at > start else self.at
        match = _WITH_DEFAULT.match(self.text, start, end)
        if match is None or self.depth >= DEEPEST:
            return Part(quoted=quoted)
        if match[2] is None:
            whole = match.end() == end
            return Part(quoted=quoted, name=match[1] if whole else "")
        inside = Lexer(self.text[match.end() : end], self.offsets[match.end() : end], self.depth + 1)
        pieces = []
        while inside.at < len(inside.text):
            pieces.append(inside._part(quoted=quoted))
        return Part(quoted=quoted, name=match[1], default=_joined(pieces))

    def _closing(self, closing: str, start: int) -> int:
        """The position behind `closing`, nested brackets and quotes skipped; the end of the text without."""
        text, at, open_ = self.text, start, 0
        while at < len(text):
            letter = text[at]
            if letter == "\\":
                at += 2
                continue
            if open_ == 0 and text.startswith(closing, at):
                return at + len(closing)
            if letter in "'\"" and closing != "`":
                quote = text.find(letter, at + 1)
                at = at + 1 if quote < 0 else quote + 1
                continue
            if letter in "({":
                open_ += 1
            elif letter in ")}" and open_:
                open_ -= 1
            at += 1
        return len(text)

    def _text(self, start: int, end: int, quoted: bool) -> Part:
        return Part(self.text[start:end], tuple(self.offsets[start:end]), quoted, is_text=True)


def _quoted(part: Part) -> str:
    return "".join(piece.text for piece in part.default or ())


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Neighbouring texts of the same kind as one part."""
    joined: list[Part] = []
    run: list[Part] = []

    def close() -> None:
        if run:
            text = "".join(part.text for part in run)
            offsets = tuple(offset for part in run for offset in part.offsets)
            joined.append(Part(text, offsets, run[0].quoted, is_text=True))
            run.clear()

    for part in parts:
        if not part.is_text or (run and run[0].quoted != part.quoted):
            close()
        if part.is_text:
            run.append(part)
        else:
            joined.append(part)
    close()
    return tuple(joined)
