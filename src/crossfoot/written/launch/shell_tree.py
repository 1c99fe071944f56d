"""Shell text as a syntax tree in which every node knows where its characters stand in the file. The grammar
is tree-sitter's for bash; what it cannot read becomes an ERROR node, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from crossfoot.written.launch.statement import UNKNOWN

_BASH = Language(tree_sitter_bash.language())
_STAND_IN = "\ufffc"
"""For UNKNOWN in what the parser sees: to it a NUL ends the text."""


@dataclass(frozen=True)
class OffsetText:
    """Characters and the offset of each. is_default: an exported variable may overrule them. start, end:
    where they stand on the command, as offsets. is_open: an unquoted variable that is not known: any number
    of words.
    """

    text: str
    offsets: tuple[int, ...]
    is_default: bool = False
    start: int = 0
    end: int = 0
    is_open: bool = False

    def after(self, count: int) -> OffsetText:
        """Without the first `count` characters."""
        return replace(self, text=self.text[count:], offsets=self.offsets[count:], is_open=False)

    def first(self, count: int) -> OffsetText:
        """The first `count` characters."""
        return replace(self, text=self.text[:count], offsets=self.offsets[:count], is_open=False)

    @property
    def is_known(self) -> bool:
        """Whether no part of it depends on the run."""
        return UNKNOWN not in self.text

    @property
    def is_contiguous(self) -> bool:
        """Whether it is known and stands in the file as it is, in one piece."""
        offsets = self.offsets
        whole = bool(offsets) and offsets[-1] - offsets[0] == len(offsets) - 1
        return whole and self.is_known and len(offsets) == len(self.text)


class ShellText:
    """`text`, whose characters stand at `offsets` of the file, and its tree."""

    def __init__(self, text: str, offsets: Sequence[int]) -> None:
        self.text, self.offsets = text, offsets
        raw = text.replace(UNKNOWN, _STAND_IN).encode("utf-8", "replace")
        self.root: Node = Parser(_BASH).parse(raw).root_node

    @cached_property
    def _characters(self) -> list[int] | None:
        """Of every byte, the character that it belongs to; None where they are the same."""
        if self.text.isascii() and UNKNOWN not in self.text:
            return None
        positions: list[int] = []
        for position, character in enumerate(self.text.replace(UNKNOWN, _STAND_IN)):
            positions.extend([position] * len(character.encode("utf-8", "replace")))
        return [*positions, len(self.text)]

    def span(self, node: Node) -> tuple[int, int]:
        """Where a node begins and ends, in characters of the text."""
        if self._characters is None:
            return node.start_byte, node.end_byte
        return self._characters[node.start_byte], self._characters[node.end_byte]

    def text_of(self, node: Node) -> str:
        """The characters of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def documents(self) -> list[tuple[int, int]]:
        """The spans of all here-documents, their last lines included, in order."""
        found, waiting = [], [self.root]
        while waiting:
            node = waiting.pop()
            if node.type in ("heredoc_body", "heredoc_end"):
                found.append(self.span(node))
            elif "<<" in self.text_of(node):
                waiting.extend(node.children)
        return sorted(found)

    def is_descriptor(self, node: Node) -> bool:
        """Whether a word is the number of a redirection, `2>`: behind a continued line the grammar takes it
        for an argument.
        """
        start, end = self.span(node)
        return self.text[start:end].isdigit() and self.text[end : end + 1] in ("<", ">")

    def are_one_word(self, first: Node, second: Node) -> bool:
        """Whether nothing stands between two nodes, or only what a backslash escapes."""
        between = self.text[self.span(first)[1] : self.span(second)[0]]
        return re.fullmatch(r"(\\.)*", between, re.DOTALL) is not None

    def is_broken(self, first: Node, second: Node) -> bool:
        """Whether a line ends between two nodes, and is not continued."""
        between = self.text[self.span(first)[1] : self.span(second)[0]]
        return "\n" in between.replace("\\\n", "")

    def piece(self, start: int, end: int) -> OffsetText:
        """text[start:end] with its offsets."""
        return OffsetText(self.text[start:end], tuple(self.offsets[start:end]))

    def offset(self, position: int) -> int:
        """Of a character, as an offset in the file; of the last one for the end."""
        return self.offsets[min(position, len(self.text) - 1)] if self.text else 0
