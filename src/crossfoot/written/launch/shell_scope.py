"""What a command of a shell script finds, and changes for those behind it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tree_sitter import Node

from crossfoot.written.launch.shell_tree import OffsetText, ShellText
from crossfoot.written.launch.shell_words import Value, Variables, joined
from crossfoot.written.launch.statement import UNKNOWN, Alternative

MOST_COMMANDS = 5_000
"""That are looked at, loops and calls unrolled."""

Made = dict[str, OffsetText | None]
"""Files that a script writes itself: path -> the text, None where it is not known. Where a command writes
lines of a hostfile, its words with `slots=`.
"""
_UNSET = ("unset",)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def made_name(path: str) -> str:
    """The key of a path among the files that a script writes."""
    return os.path.normpath(path)


@dataclass(frozen=True)
class RawCommand:
    """Words after expansion. doubt: why it may not run, "" when it does. alternative: where that is only
    since one of several ways runs. folder: None when it cannot be known. document: what a here-document
    hands it. is_background: `&` stands behind it.
    """

    words: tuple[OffsetText, ...]
    exports: Mapping[str, Value]
    doubt: str = ""
    alternative: Alternative | None = None
    folder: str | None = ""
    document: OffsetText | None = None
    is_background: bool = False


@dataclass
class Budget:
    """What all scopes of a script share. choices: so many ifs and cases were seen. called:
    functions. carried_out: nodes of assignments that were moved in front of a pipeline."""

    made: Made
    commands: int = MOST_COMMANDS
    depth: int = 0
    choices: int = 0
    called: set[str] = field(default_factory=set)
    carried_out: set[int] = field(default_factory=set)

    def writes(self, path: str, text: OffsetText | None) -> None:
        """A command writes that file, or to its end."""
        path = made_name(path)
        known = self.made.get(path)
        both = known is not None and text is not None and not (known.is_known or text.is_known)
        self.made[path] = joined((known, text), UNKNOWN) if known and text and both else text


@dataclass
class Scope:
    """What a command changes for those behind it. ended: by exit, return, break or continue."""

    variables: Variables
    folder: str | None
    functions: dict[str, tuple[ShellText, Node]] = field(default_factory=dict)
    doubt: str = ""
    alternative: Alternative | None = None
    ended: str = ""
    is_background: bool = False

    def fork(self, doubt: str = "", alternative: Alternative | None = None) -> Scope:
        """A copy, in which commands run or not."""
        return replace(
            self,
            variables=self.variables.copy(),
            functions=dict(self.functions),
            doubt=self.doubt or doubt,
            alternative=alternative if not self.doubt else None,
        )

    def join(self, ways: Sequence[Scope]) -> None:
        """Go on behind several ways: what is not the same in all that go on is unknown."""
        going = [way for way in ways if not way.ended]
        if not going:
            self.ended = ways[0].ended
            return
        first, values = going[0], self.variables.values
        names = {name for way in going for name in way.variables.values}
        for name in names:
            found = [comparable(way.variables.values.get(name, _UNSET)) for way in going]
            same = all(each == found[0] for each in found)
            if same and name in first.variables.values:
                values[name] = first.variables.values[name]
            else:
                values[name] = None
        self.variables.exported |= {name for way in going for name in way.variables.exported}
        self.variables.characters_left = min(way.variables.characters_left for way in ways)
        self.functions.update(first.functions)
        self.folder = first.folder if all(way.folder == first.folder for way in going) else None


def comparable(value: object) -> object:
    """Of a variable's value, what makes it another one: not where it is written."""
    if isinstance(value, tuple):
        return tuple(comparable(each) for each in value)
    return (value.text, value.is_default) if isinstance(value, OffsetText) else value


def take_positional(variables: Variables, words: Sequence[OffsetText] | None) -> dict[str, Value]:
    """Make words $1, $2, ... $@, or unknown without any; returns those that were."""
    values = variables.values
    were = {name: values.pop(name) for name in list(values) if name == "@" or name.isdigit()}
    if words is not None:
        values["@"] = tuple(words)
        values.update({str(number): word for number, word in enumerate(words, 1)})
    return were


def name_in(text: str) -> str:
    """The name that a text begins with, as of a variable; empty without one."""
    match = _NAME.match(text)
    return match[0] if match else ""
