"""A launch script as the commands it would run, with the variables assigned in it filled in.

Nothing is executed. What stands in if, case, loops, functions, or behind `||`, may run or not: its commands
are not certain, and a variable changed there is unknown afterwards. So is everything that only the run can
tell: `$(...)`, arithmetic, SLURM's variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from crossfoot.written.launch.shell_words import Lexer, Operator, Part, Redirect, Token, Word
from crossfoot.written.launch.statement import UNKNOWN

LONGEST_VALUE = 20_000
MOST_CHARACTERS = 2_000_000
"""Of all expansions together: a script that doubles a variable a thousand times must not fill the memory."""
_ARITHMETIC_TARGET = re.compile(
    r"([A-Za-z_]\w*)\s*(?:[-+*/%&|^]|<<|>>)?=(?!=)|([A-Za-z_]\w*)(?:\+\+|--)", re.ASCII
)
_DECLARING = frozenset(("export", "declare", "typeset", "local", "readonly"))
_SKIPPED = frozenset(("then", "else", "elif", "do", "!", "time"))
_OPENING = {"if": "if", "while": "loop", "until": "loop", "for": "loop", "select": "loop", "case": "case"}
_CLOSING = {"fi": "if", "done": "loop", "esac": "case"}
_TESTS = frozenset(("[", "[[", "test"))
_SET_BY_LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "PET_")


@dataclass(frozen=True)
class OffsetText:
    """Characters and the offset of each. is_default: an exported variable may overrule them. start, end:
    where they stand on the command, as offsets.
    """

    text: str
    offsets: tuple[int, ...]
    is_default: bool = False
    start: int = 0
    end: int = 0
    is_open: bool = False
    """An unquoted variable that is not known: any number of words."""

    def after(self, count: int) -> OffsetText:
        """Without the first `count` characters."""
        return OffsetText(self.text[count:], self.offsets[count:], self.is_default, self.start, self.end)

    def first(self, count: int) -> OffsetText:
        """The first `count` characters."""
        return OffsetText(self.text[:count], self.offsets[:count], self.is_default, self.start, self.end)


Value = OffsetText | tuple[OffsetText, ...] | None
"""Of a variable: text, an array's words, or not known."""


@dataclass(frozen=True)
class RawCommand:
    """Words after expansion. folder: None when it cannot be known."""

    words: tuple[OffsetText, ...]
    exports: Mapping[str, Value]
    is_certain: bool
    folder: str | None


def run_script(
    text: str,
    offsets: range | tuple[int, ...],
    touched: set[str],
    exports: Mapping[str, Value] | None = None,
    folder: str | None = "",
) -> Iterator[RawCommand]:
    """The commands of a script, in order. exports: variables that it finds; folder: where it begins. touched
    is filled with the files that it redirects to or from.
    """
    yield from _Shell(exports or {}, folder, touched).run(Lexer(text, offsets).tokens())


class _Shell:
    """The state between two commands."""

    def __init__(self, exports: Mapping[str, Value], folder: str | None, touched: set[str]) -> None:
        self.touched = touched
        self.values: dict[str, Value] = {
            "SLURM_SUBMIT_DIR": OffsetText(".", (0,)),
            "PWD": OffsetText(".", (0,)),
        }
        self.values.update(exports)
        self.exported = set(exports)
        self.folder = folder
        self.open: list[str] = []
        self.words: list[Word] = []
        self.doubtful = False  # what follows runs only if what stands before it failed, or passed a test
        self.pending = ""  # "function" before its braces, "header" up to the end of a for or case line
        self.ended = False
        self.characters_left = MOST_CHARACTERS

    @property
    def is_certain(self) -> bool:
        return not self.doubtful and not any(
            opener in ("if", "loop", "case", "function") for opener in self.open
        )

    def run(self, tokens: Iterable[Token]) -> Iterator[RawCommand]:
        for token in tokens:
            if isinstance(token, Word):
                self._take(token)
                continue
            if isinstance(token, Redirect):
                self.touched.update(offset_text.text for offset_text in self._expand(token.word))
                continue
            if token.text == "(" and self.pending == "header":
                continue
            if token.text == "(" and len(self.words) == 1 and self.words[0].literal:
                self.pending, self.words = "function", []
                continue
            found = self._finish()
            if found is not None:
                yield found
            if self.ended:
                return
            self._operator(token)
        found = self._finish()
        if found is not None:
            yield found

    def _take(self, word: Word) -> None:
        """A word: a keyword where a command begins, else one more word of the command."""
        literal = word.literal
        if self.words or self.pending == "header":
            self.words.append(word)
        elif literal in _OPENING:
            self.open.append(_OPENING[literal])
            if literal in ("for", "select", "case"):
                self.pending = "header"
        elif literal in _CLOSING:
            self._close(_CLOSING[literal])
        elif literal == "{":
            self.open.append("function" if self.pending == "function" else "{")
            self.pending = ""
        elif literal == "}":
            self._close(next((opener for opener in reversed(self.open) if opener in ("{", "function")), ""))
        elif literal == "function":
            self.pending = "name"
        elif self.pending == "name":
            self.pending = "function"
        elif literal not in _SKIPPED:
            self.words.append(word)

    def _close(self, opener: str) -> None:
        if opener in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(opener) :]

    def _operator(self, operator: Operator) -> None:
        text = operator.text
        if text == "(":
            self.open.append("function" if self.pending == "function" else "(")
            self.pending = ""
        elif text == ")" and self.pending != "function":
            self._close("(")
        elif text.startswith("(("):
            for match in _ARITHMETIC_TARGET.finditer(text):
                self.values[match[1] or match[2]] = None
        if text in ("\n", ";", "&", ";;", ";&", ";;&"):
            self.doubtful = False
        elif text == "||":
            self.doubtful = True

    def _finish(self) -> RawCommand | None:
        """The end of a simple command: assignments are carried out, anything else is handed on."""
        words, self.words = self.words, []
        if self.pending == "header":
            self.pending = ""
            if words and self.open[-1:] == ["loop"]:
                self.values[words[0].literal] = None
            return None
        if not words:
            return None
        own = next((position for position, word in enumerate(words) if word.assigns is None), len(words))
        if own == len(words):
            for word in words:
                self._assign(word)
            return None
        name = words[own].literal
        if name in _TESTS:
            self.doubtful = True
            return None
        if name in _DECLARING:
            self._declare(words[own + 1 :], name == "export")
            return None
        if name in ("read", "unset", "let", "mapfile", "readarray"):
            self._forget(words[own + 1 :])
            return None
        return self._command(words[:own], words[own:])

    def _declare(self, words: list[Word], is_export: bool) -> None:
        for word in words:
            assigned = self._assign(word)
            if is_export or assigned in self.exported:
                self.exported.add(assigned or word.literal)

    def _forget(self, words: list[Word]) -> None:
        """The variables that these words name have a value that cannot be known."""
        for word in words:
            target = re.match(r"[A-Za-z_]\w*", "".join(part.text for part in word.parts), re.ASCII)
            self.values[target[0] if target else ""] = None

    def _command(self, assignments: list[Word], words: list[Word]) -> RawCommand | None:
        exports = {name: self.values.get(name) for name in self.exported}
        for word in assignments:
            if word.assigns:
                exports[word.assigns[0]] = self._value_of(word)
        expanded = tuple(offset_text for word in words for offset_text in self._expand(word))
        name = words[0].literal
        if name in ("cd", "pushd"):
            self._change_folder(expanded)
            return None
        if name in ("exit", "exec") and self.is_certain and "(" not in self.open:
            self.ended = len(expanded) > 1 or name == "exit"
        if not expanded or name == "exit":
            return None
        return RawCommand(expanded, exports, self.is_certain, self.folder)

    def _change_folder(self, words: tuple[OffsetText, ...]) -> None:
        target = words[1].text if len(words) > 1 else UNKNOWN
        if UNKNOWN in target or target.startswith(("~", "-")) or not self.is_certain or self.folder is None:
            self.folder = None
        else:
            joined = os.path.normpath(os.path.join(self.folder or ".", target))
            self.folder = "" if joined == "." else joined

    def _assign(self, word: Word) -> str | None:
        """Carry out `NAME=value`; returns the name."""
        if word.assigns is None:
            return None
        name, appends = word.assigns
        value = self._value_of(word)
        old = self.values.get(name)
        if appends:
            value = _appended(old, value)
        if not self.is_certain and (name not in self.values or _text(old) != _text(value)):
            value = None
        self.values[name] = value
        return name

    def _value_of(self, word: Word) -> Value:
        if word.array is not None:
            return tuple(offset_text for each in word.array for offset_text in self._expand(each))
        fields = list(self._fields(word, splits=False))
        first = fields[0] if fields else OffsetText("", ())
        return first.after(first.text.index("=") + 1) if "=" in first.text else None

    def _expand(self, word: Word) -> Iterator[OffsetText]:
        yield from self._fields(word, splits=True)

    def _fields(self, word: Word, splits: bool) -> Iterator[OffsetText]:
        """The words that one word becomes: unquoted variables are split at blanks."""
        field = _Field(word)
        for part in word.parts:
            if part.name == '"':
                pieces = part.default or ()
                field.begun |= not (len(pieces) == 1 and self.values.get(pieces[0].name) == ())
                for piece in pieces:
                    yield from self._array_words(piece, field, splits)
                    for offset_text in self._piece(piece):
                        field.add(offset_text)
                continue
            if part.is_text:
                field.add(
                    OffsetText(part.text, part.offsets, is_open=part.text == UNKNOWN and not part.quoted)
                )
                continue
            yield from self._array_words(part, field, splits)
            for offset_text in self._piece(part):
                if splits and not part.quoted:
                    yield from field.add_split(offset_text)
                else:
                    field.add(offset_text)
        if field.begun:
            yield field.done()

    def _array_words(self, part: Part, field: _Field, splits: bool) -> Iterator[OffsetText]:
        """`${NAME[@]}`: all words but the last are words of their own; the last is left to `_piece`. In an
        assignment they are joined with blanks.
        """
        value = self.values.get(part.name) if part.name else None
        for offset_text in value[:-1] if isinstance(value, tuple) else ():
            if splits and not part.quoted:
                yield from field.add_split(offset_text)
            else:
                field.add(offset_text)
            if not splits:
                field.add(OffsetText(" ", ()))
            elif field.begun:
                yield field.done()

    def _piece(self, part: Part) -> Iterator[OffsetText]:
        """What a part stands for."""
        where = part.offsets
        if part.is_text:
            yield OffsetText(part.text, where)
            return
        value = self.values.get(part.name) if part.name else None
        if isinstance(value, tuple):
            if not value:
                return
            value = value[-1]
        is_set = part.name in self.values
        if part.default is not None and part.name and (not is_set or value == OffsetText("", ())):
            if not is_set and part.name.startswith(_SET_BY_LAUNCHERS):
                yield OffsetText(UNKNOWN, ())
                return
            for piece in part.default:
                for offset_text in self._piece(piece):
                    yield OffsetText(offset_text.text, offset_text.offsets, True, is_open=offset_text.is_open)
            return
        self.characters_left -= 0 if value is None else len(value.text)
        if value is None or self.characters_left < 0:
            yield OffsetText(UNKNOWN, (), is_open=not part.quoted)
        else:
            yield value


class _Field:
    """One word being put together."""

    def __init__(self, word: Word) -> None:
        self.word = word
        self.begun = False
        self._clear()

    def _clear(self) -> None:
        self.text: list[str] = []
        self.offsets: list[int] = []
        self.length = 0
        self.is_default = self.is_open = False

    def add(self, offset_text: OffsetText) -> None:
        offsets = offset_text.offsets or (self.word.start,) * len(offset_text.text)
        if self.length + len(offset_text.text) > LONGEST_VALUE:
            offset_text, offsets = OffsetText(UNKNOWN, ()), (self.word.start,)
        self.length += len(offset_text.text)
        self.begun = True
        self.text.append(offset_text.text)
        self.offsets.extend(offsets)
        self.is_default |= offset_text.is_default
        self.is_open |= offset_text.is_open

    def add_split(self, offset_text: OffsetText) -> Iterator[OffsetText]:
        """Add what may hold blanks: each blank ends the word."""
        offsets = offset_text.offsets or (self.word.start,) * len(offset_text.text)
        at = 0
        for match in re.finditer(r"\S+", offset_text.text):
            if match.start() > at and self.begun:
                yield self.done()
            self.add(
                OffsetText(
                    match[0],
                    offsets[match.start() : match.end()],
                    offset_text.is_default,
                    is_open=offset_text.is_open,
                )
            )
            at = match.end()
        if at < len(offset_text.text) and self.begun:
            yield self.done()

    def done(self) -> OffsetText:
        text = "".join(self.text)
        whole = OffsetText(
            text,
            tuple(self.offsets),
            self.is_default,
            self.word.start,
            self.word.end,
            self.is_open and text == UNKNOWN,
        )
        self.begun = False
        self._clear()
        return whole


def _text(value: Value) -> object:
    return value.text if isinstance(value, OffsetText) else value


def _appended(old: Value, new: Value) -> Value:
    if isinstance(old, tuple) and isinstance(new, tuple):
        return (*old, *new) if len(old) + len(new) < 1000 else None
    if isinstance(old, OffsetText) and isinstance(new, OffsetText):
        joined = OffsetText(old.text + new.text, old.offsets + new.offsets, old.is_default or new.is_default)
        return joined if len(joined.text) <= LONGEST_VALUE else None
    return None
