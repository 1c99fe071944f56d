"""Words of a shell script as its commands find them: quotes taken away, variables filled in, unquoted ones
cut at blanks. What only the run can tell becomes UNKNOWN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tree_sitter import Node

from crossfoot.written.launch.shell_arithmetic import number_of
from crossfoot.written.launch.shell_tree import OffsetText, ShellText
from crossfoot.written.launch.statement import JOBS_OWN, UNKNOWN

LONGEST_VALUE = 20_000
MOST_WORDS = 1_000
"""In an array, or from one `{1..9999}`."""
_SET_BY_LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "PET_")
_OF_THE_JOB = re.compile(
    r"^SLURM_|[$({ ]SLURM_|nvidia-smi|cuda.device_count|NVIDIA_VISIBLE_DEVICES|\[.*(?i:node|rank)"
)
"""The last: one number for each node, `${gpus[node]}`."""
_RANGE = re.compile(r"\{(-?\d{1,6})\.\.(-?\d{1,6})\}", re.ASCII)
_GAP = re.compile(r"(?P<continued>\\\r?\n)|(?P<escaped>\\.)|(?P<between>[^\\]+|\\)", re.DOTALL)
_TRAILING = re.compile(r"(?:\\\n)*(?P<between>(?:[ \t]|\\\n)*)(?P<escaped>\\[ \t])")
_UNSET = ("-", ":-", "=", ":=")

Value = OffsetText | tuple[OffsetText, ...] | None
"""Of a variable: text, an array's words, or not known."""


@dataclass
class Variables:
    """What the script has assigned so far. characters_left: of all expansions together: a script that doubles
    a variable a thousand times must not fill the memory.
    """

    values: dict[str, Value]
    exported: set[str] = field(default_factory=set)
    characters_left: int = 2_000_000

    def copy(self) -> Variables:
        """Another one that changes for itself."""
        return Variables(dict(self.values), set(self.exported), self.characters_left)

    def spend(self, text: OffsetText) -> OffsetText:
        """The text, or UNKNOWN once too much was expanded."""
        self.characters_left -= len(text.text)
        return text if self.characters_left >= 0 else OffsetText(UNKNOWN, (), is_open=True)


Atom = Node | tuple[int, int]
"""A node, or the span of text that the grammar left out."""


@dataclass(frozen=True)
class Piece:
    """A part of a word: one text, or an array's words. splits: it is cut at blanks."""

    texts: tuple[OffsetText, ...]
    splits: bool = False


class Words:
    """The words of one text. ran: is called with every `$( )` in them, whose commands run too."""

    def __init__(self, text: ShellText, variables: Variables, ran: Callable[[Node], None]) -> None:
        self.text, self.variables, self._ran = text, variables, ran

    def words(self, nodes: Sequence[Node]) -> Iterator[OffsetText]:
        """What nodes that stand behind one another become on the command."""
        for atoms in self._atoms(nodes):
            yield from self._fields(atoms, splits=True)

    def value(self, node: Node) -> OffsetText:
        """What it becomes in an assignment: one text."""
        atoms = next(iter(self._atoms([node])), [])
        return next(self._fields(atoms, splits=False), OffsetText("", ()))

    def _atoms(self, nodes: Sequence[Node], is_inside: bool = False) -> Iterator[list[Atom]]:
        """The nodes of each word. The grammar leaves out an escaped blank beside an expansion: it makes one
        word of two. is_inside: the nodes are parts of one word.
        """
        text, atoms = self.text.text, list[Atom]()
        spans = [self.text.span(node) for node in nodes]
        at = spans[0][0] if spans else 0
        while not is_inside and text[at - 2 : at] == "\\ ":
            at -= 2
        for node, (start, end) in zip(nodes, spans, strict=True):
            for match in _GAP.finditer(text, at, start):
                if match["escaped"]:
                    atoms.append(match.span())
                elif match["between"] and atoms:
                    yield atoms
                    atoms = []
            atoms.append(node)
            at = end
        while not is_inside and (trailing := _TRAILING.match(text, at)) is not None:
            if trailing["between"]:
                yield atoms
                atoms = []
            atoms.append(trailing.span("escaped"))
            at = trailing.end()
        if atoms:
            yield atoms

    def document(self, node: Node, is_literal: bool) -> OffsetText:
        """The body of a here-document. is_literal: its delimiter was quoted."""
        start, end = self.text.span(node)
        if is_literal:
            return self.text.piece(start, end)
        pieces = self._inside(node, start, end, "$`\\\n")
        return joined(text for piece in pieces for text in piece.texts)

    def _fields(self, atoms: Sequence[Atom], splits: bool) -> Iterator[OffsetText]:
        spans = [atom if isinstance(atom, tuple) else self.text.span(atom) for atom in atoms]
        start, end = (spans[0][0], spans[-1][1]) if spans else (0, 0)
        word = _Word(self.text.offset(start), self.text.offset(max(start, end - 1)) + 1)
        for piece in self._all_pieces(atoms):
            for position, text in enumerate(piece.texts):
                if position and splits and word.begun:
                    yield word.done()
                elif position and not splits:
                    word.add(OffsetText(" ", ()))
                if splits and piece.splits:
                    yield from word.add_split(text)
                else:
                    word.add(text)
        if word.begun:
            yield word.done()

    def _all_pieces(self, atoms: Sequence[Atom]) -> Iterator[Piece]:
        for atom in atoms:
            if isinstance(atom, tuple):
                yield Piece((_without_escapes(self.text.piece(*atom)),))
            else:
                yield from self._pieces(atom)

    def _pieces(self, node: Node) -> Iterator[Piece]:
        kind = node.type
        start, end = self.text.span(node)
        if kind in ("concatenation", "command_name"):
            for atoms in self._atoms(node.children, is_inside=True):
                yield from self._all_pieces(atoms)
        elif kind in ("string", "translated_string"):
            opening = self.text.text.index('"', start) + 1
            pieces = list(self._inside(node, opening, end - 1, '$`"\\\n'))
            yield from (replace(piece, splits=False) for piece in pieces)
            if not pieces:
                yield Piece((self.text.piece(opening, opening),))
        elif kind == "raw_string":
            yield Piece((self.text.piece(start + 1, end - 1),))
        elif kind == "ansi_c_string":
            inner = self.text.piece(start + 2, end - 1)
            yield Piece((OffsetText(UNKNOWN, ()) if "\\" in inner.text else inner,))
        elif kind == "brace_expression":
            yield self._range(start, end)
        elif kind in _EXPANDED:
            yield from self._expanded(node)
        elif kind in ("ERROR", "array"):
            yield _unknown()
        else:
            yield Piece((_without_escapes(self.text.piece(start, end)),))

    def _inside(self, node: Node, start: int, end: int, escaped: str) -> Iterator[Piece]:
        """What stands between two quotes, or in a here-document: text and what is expanded in it."""
        at = start
        for child in node.children:
            if child.type not in _EXPANDED:
                continue
            begin, child_end = self.text.span(child)
            begin = next((at for at in range(begin, child_end) if self.text.text[at] in "$`"), begin)
            if begin > at:
                yield Piece((_without_escapes(self.text.piece(at, begin), escaped),))
            yield from self._expanded(child)
            at = child_end
        if at < end:
            yield Piece((_without_escapes(self.text.piece(at, end), escaped),))

    def _expanded(self, node: Node) -> Iterator[Piece]:
        if node.type == "arithmetic_expansion":
            yield self._arithmetic(node)
        elif node.type in ("command_substitution", "process_substitution"):
            self._ran(node)
            yield _unknown(self.text.text_of(node))
        else:
            yield from self._variable(node)

    def _arithmetic(self, node: Node) -> Piece:
        inner = [child for child in node.children if child.is_named]
        found = number_of(inner[0], self.text, self.variables.values) if len(inner) == 1 else None
        start, end = self.text.span(node)
        if found is None:
            return _unknown(self.text.text[start:end], is_open=False)
        where = self.text.offset(start)
        return Piece(
            (OffsetText(str(found.value), (where,) * len(str(found.value)), found.is_default, where, end),)
        )

    def _range(self, start: int, end: int) -> Piece:
        match = _RANGE.fullmatch(self.text.text, start, end)
        low, high = (int(match[1]), int(match[2])) if match else (0, MOST_WORDS)
        if abs(high - low) >= MOST_WORDS:
            return _unknown()
        numbers = range(low, high + 1) if low <= high else range(low, high - 1, -1)
        where = (self.text.offset(start),)
        return Piece(tuple(OffsetText(str(each), where * len(str(each))) for each in numbers))

    def _variable(self, node: Node) -> Iterator[Piece]:
        """`$A`, `${A}`, `${A:-8}`, `${A[@]}`, `${#A[@]}`."""
        parts = [child for child in node.children if child.type not in ("$", "${", "}") or child.is_named]
        at = next((n for n, part in enumerate(parts) if part.type in _NAMES), None)
        end = self.text.span(node)[1]
        is_cut = node.type == "simple_expansion" and self.text.text.startswith("\\\n", end)
        if at is None or at > 1 or is_cut:  # bash puts the lines together first: the name may go on
            yield _unknown()
            return
        before = self.text.text_of(parts[0]) if at else ""
        name, index = self._name(parts[at])
        rest = parts[at + 1 :]
        operator = self.text.text_of(rest[0]) if rest else ""
        value = self._indexed(name, index)
        if before == "#" and not rest and isinstance(value, tuple):
            where = (self.text.offset(self.text.span(node)[0]),)
            yield Piece((OffsetText(str(len(value)), where * len(str(len(value)))),))
        elif before or (operator and operator not in (*_UNSET, ":+", "+", ":?", "?")):
            yield _unknown()
        else:
            yield from self._with_operator(name, index, value, operator, rest[1:])

    def _with_operator(
        self, name: str, index: str, value: Value, operator: str, words: Sequence[Node]
    ) -> Iterator[Piece]:
        values = self.variables.values
        is_set = name in values
        is_empty = value == () or (isinstance(value, OffsetText) and not value.text)
        if operator in (":+", "+"):
            if not is_set or value is None:
                yield _unknown(name)
            elif not (is_empty and operator == ":+"):
                for word in words:
                    yield from self._pieces(word)
            return
        if operator in _UNSET and name and (not is_set or (is_empty and operator.startswith(":"))):
            if not is_set and name.startswith(_SET_BY_LAUNCHERS):
                yield _unknown(name, is_open=False)
                return
            pieces = [_as_default(piece) for word in words for piece in self._pieces(word)]
            if operator.endswith("=") and len(pieces) == 1 and len(pieces[0].texts) == 1:
                values[name] = pieces[0].texts[0]
            yield from pieces
            return
        if value is None:
            yield _unknown(f"{name}[{index}]")
        elif isinstance(value, OffsetText):
            yield Piece((self.variables.spend(value),), splits=True)
        elif index == "*":
            yield Piece((joined(value, " "),), splits=True)
        else:
            yield Piece(tuple(self.variables.spend(each) for each in value), splits=True)

    def _name(self, node: Node) -> tuple[str, str]:
        """A variable's name, and what stands in its brackets; `@` for `$@`."""
        if node.type != "subscript":
            name = self.text.text_of(node)
            return (name, name) if name in "@*" else (name, "")
        name_node, index = node.child_by_field_name("name"), node.child_by_field_name("index")
        return (
            self.text.text_of(name_node) if name_node else "",
            self.text.text_of(index) if index else "@",
        )

    def _indexed(self, name: str, index: str) -> Value:
        value = self.variables.values.get("@" if name == "*" else name)
        if not isinstance(value, tuple) or index in ("@", "*"):
            return value if index in ("", "@", "*", "0") else None
        position = int(index) if index.isdigit() and len(index) < 5 else (0 if not index else None)
        return value[position] if position is not None and position < len(value) else None


_EXPANDED = (
    "simple_expansion",
    "expansion",
    "command_substitution",
    "process_substitution",
    "arithmetic_expansion",
)
_NAMES = ("variable_name", "special_variable_name", "subscript")


class _Word:
    """One word being put together."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.begun = False
        self._clear()

    def _clear(self) -> None:
        self.text: list[str] = []
        self.offsets: list[int] = []
        self.length = 0
        self.is_default = self.is_open = False

    def add(self, text: OffsetText) -> None:
        offsets = text.offsets or (self.start,) * len(text.text)
        if self.length + len(text.text) > LONGEST_VALUE:
            text, offsets = OffsetText(UNKNOWN, ()), (self.start,)
        self.length += len(text.text)
        self.begun = True
        self.text.append(text.text)
        self.offsets.extend(offsets)
        self.is_default |= text.is_default
        self.is_open |= text.is_open

    def add_split(self, text: OffsetText) -> Iterator[OffsetText]:
        """Add what may hold blanks: each blank ends the word."""
        offsets = text.offsets or (self.start,) * len(text.text)
        at = 0
        for match in re.finditer(r"\S+", text.text):
            if match.start() > at and self.begun:
                yield self.done()
            begin, at = match.span()
            self.add(replace(text, text=match[0], offsets=tuple(offsets[begin:at])))
        if at < len(text.text) and self.begun:
            yield self.done()

    def done(self) -> OffsetText:
        text = "".join(self.text)
        is_open = self.is_open and text.rstrip(JOBS_OWN) == UNKNOWN
        whole = OffsetText(text, tuple(self.offsets), self.is_default, self.start, self.end, is_open)
        self.begun = False
        self._clear()
        return whole


def _as_default(piece: Piece) -> Piece:
    return Piece(tuple(replace(text, is_default=True) for text in piece.texts), piece.splits)


def _unknown(source: str = "", is_open: bool = True) -> Piece:
    """source: what it is made of."""
    mark = JOBS_OWN if _OF_THE_JOB.search(source) and "$(" not in source[3:] else ""
    return Piece((OffsetText(UNKNOWN + mark, (), is_open=is_open),))


def joined(texts: Iterable[OffsetText], between: str = "") -> OffsetText:
    """As one text."""
    parts: list[str] = []
    offsets: list[int] = []
    is_default = False
    for position, each in enumerate(texts):
        last = offsets[-1:] or [0]
        if position and between:
            parts.append(between)
            offsets.extend(last * len(between))
        parts.append(each.text)
        offsets.extend(each.offsets or last * len(each.text))
        is_default |= each.is_default
    return OffsetText("".join(parts), tuple(offsets), is_default)


def lines_with(words: Sequence[OffsetText]) -> OffsetText | None:
    """Of a file these words, and what nobody knows."""
    return joined((OffsetText(UNKNOWN, ()), *words), UNKNOWN) if words else None


def appended(old: Value, new: Value) -> Value:
    """`A+=new`."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        return (*old, *new) if len(old) + len(new) < MOST_WORDS else None
    if isinstance(old, OffsetText) and isinstance(new, OffsetText):
        whole = joined((old, new))
        return whole if len(whole.text) <= LONGEST_VALUE else None
    return None


def _without_escapes(piece: OffsetText, escaped: str | None = None) -> OffsetText:
    """Without its backslashes: before every character, or before those of `escaped`. A line that is continued
    loses its break.
    """
    text = piece.text
    if "\\" not in text:
        return piece
    letters: list[str] = []
    offsets: list[int] = []
    at = 0
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text) and (escaped is None or text[at + 1] in escaped):
            at += 1
            if text[at] == "\n":
                at += 1
                continue
        letters.append(text[at])
        offsets.append(piece.offsets[at])
        at += 1
    return replace(piece, text="".join(letters), offsets=tuple(offsets))
