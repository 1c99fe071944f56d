"""What of a shell script runs, how often, and what is known behind it: lists, branches, loops, subshells."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Self

from tree_sitter import Node

from crossfoot.written.launch.shell_arithmetic import is_true
from crossfoot.written.launch.shell_scope import Budget, RawCommand, Scope, comparable
from crossfoot.written.launch.shell_tree import OffsetText, ShellText
from crossfoot.written.launch.shell_words import Words
from crossfoot.written.launch.statement import UNKNOWN, Alternative

_MOST_TURNS = 50
_TRUE = ("true", ":")


class ControlFlow(ABC):
    """One text, run in a scope."""

    text: ShellText
    scope: Scope
    budget: Budget
    words: Words

    @abstractmethod
    def run(self, node: Node) -> Iterator[RawCommand]:
        """The commands of a node."""

    @abstractmethod
    def _in(self, scope: Scope) -> Self:
        """The same text in another scope."""

    @abstractmethod
    def _carry_out(self, node: Node) -> None:
        """What belongs in front of a statement that is run apart."""

    @abstractmethod
    def _substituted(self) -> Iterator[RawCommand]:
        """The commands of the `$( )` in the words that were expanded last."""

    def _sequence(self, node: Node) -> Iterator[RawCommand]:
        """One behind the other; before `&` apart from the rest."""
        children = node.children
        for position, child in enumerate(children):
            if not child.is_named or child.type == "comment":
                continue
            behind = children[position + 1].type if position + 1 < len(children) else ""
            if behind == "&":
                self._carry_out(child)
                yield from self._in(replace(self.scope.fork(), is_background=True)).run(child)
            else:
                yield from self.run(child)

    def _apart(self, node: Node) -> Iterator[RawCommand]:
        yield from self._in(self.scope.fork())._sequence(node)

    def _pipeline(self, node: Node) -> Iterator[RawCommand]:
        self._carry_out(node)
        for child in node.children:
            if child.is_named:
                yield from self._in(self.scope.fork()).run(child)

    def _list(self, node: Node) -> Iterator[RawCommand]:
        """`A && B`, `A || B`."""
        left, operator, right = node.children[0], node.children[1].type, node.children[-1]
        yield from self.run(left)
        if self.scope.ended:
            return
        known = self._decided(left)
        if known is not None:
            if known == (operator == "&&"):
                yield from self.run(right)
            return
        is_open = operator == "||" or left.type == "test_command"
        doubt = "behind ||" if operator == "||" else "behind a test"
        way = self.scope.fork(doubt if is_open else "")
        yield from self._in(way).run(right)
        if is_open or way.ended:
            self.scope.join([self.scope.fork(), way])
        else:
            self.scope.join([way])

    def _decided(self, node: Node) -> bool | None:
        """Whether a condition holds, where that is known."""
        if node.type == "negated_command":
            inner = next((child for child in node.children if child.is_named), None)
            known = self._decided(inner) if inner else None
            return None if known is None else not known
        if node.type == "command" and self.text.text_of(node) in (*_TRUE, "false"):
            return self.text.text_of(node) in _TRUE
        return is_true(node, self.text, self.words.value) if node.type == "test_command" else None

    def _if(self, node: Node) -> Iterator[RawCommand]:
        """Every branch, or the one that tests of known values take."""
        branches = _branches(node)
        while branches:
            conditions, body = branches[0]
            yield from self._all(conditions)
            known = self._decided(conditions[0]) if len(conditions) == 1 else (None if conditions else True)
            if known:
                yield from self._all(body)
                return
            if known is None:
                break
            branches = branches[1:]
        else:
            return
        has_else = not branches[-1][0]
        self.budget.choices += 1
        choice, ways = self.budget.choices, []
        for number, (conditions, body) in enumerate(branches):
            way = self.scope.fork(
                "in an if", Alternative(choice, number, len(branches)) if has_else else None
            )
            if number:
                yield from self._in(way)._all(conditions)
            yield from self._in(way)._all(body)
            ways.append(way)
        self.scope.join(ways if has_else else [self.scope.fork(), *ways])

    def _case(self, node: Node) -> Iterator[RawCommand]:
        """The item that a known word takes, or every one."""
        items = [child for child in node.children if child.type == "case_item"]
        value = node.child_by_field_name("value")
        word = self.words.value(value) if value else OffsetText(UNKNOWN, ())
        patterns = [[self._pattern(each) for each in fields(item, "value")] for item in items]
        bodies = [_behind(item, ")") for item in items]
        if word.is_known and not word.is_default and all(None not in each for each in patterns):
            for each, body in zip(patterns, bodies, strict=True):
                if any(pattern is not None and fnmatchcase(word.text, pattern) for pattern in each):
                    yield from self._all(body)
                    return
            return
        self.budget.choices += 1
        choice, ways = self.budget.choices, []
        has_rest = any("*" in each for each in patterns)
        for number, body in enumerate(bodies):
            alternative = Alternative(choice, number, len(items)) if has_rest else None
            way = self.scope.fork("in a case", alternative)
            yield from self._in(way)._all(body)
            ways.append(way)
        self.scope.join(ways if has_rest else [self.scope.fork(), *ways])

    def _pattern(self, node: Node) -> str | None:
        text = self.text.text_of(node)
        return text if node.type in ("word", "extglob_pattern", "number") and "\\" not in text else None

    def _all(self, nodes: Sequence[Node]) -> Iterator[RawCommand]:
        for node in nodes:
            yield from self.run(node)

    def _for(self, node: Node) -> Iterator[RawCommand]:
        """For each word that is written; once for words that cannot be known."""
        variable, body = node.child_by_field_name("variable"), node.child_by_field_name("body")
        if body is None or (node.children and node.children[0].type == "select"):
            return
        name = self.text.text_of(variable) if variable else ""
        turns = list(self.words.words(fields(node, "value")))
        yield from self._substituted()
        is_known = all(word.is_known and not re.search(r"[*?\[]", word.text) for word in turns)
        if variable is not None and turns and is_known and len(turns) <= _MOST_TURNS:
            for word in turns:
                self.scope.variables.values[name] = word
                yield from self.run(body)
                if self._leaves_loop():
                    return
            return
        if name:
            self.scope.variables.values[name] = None
        yield from self._turns(body, self.scope)

    def _while(self, node: Node) -> Iterator[RawCommand]:
        body = node.child_by_field_name("body")
        conditions = [each for each in fields(node, "condition") if each.is_named]
        yield from self._all(conditions)
        known = self._decided(conditions[0]) if len(conditions) == 1 else None
        if node.children[0].type == "until":
            known = None if known is None else not known
        if body is None or known is False:
            return
        if known:
            yield from self._turns(body, self.scope)
            return
        way = self.scope.fork("in a loop")
        yield from self._in(way)._turns(body, way)
        self.scope.join([self.scope.fork(), way])

    def _turns(self, body: Node, scope: Scope) -> Iterator[RawCommand]:
        """A body that runs nobody knows how often: what it changes is unknown in it, and behind it."""
        probe = scope.fork()
        for _ in self._in(probe).run(body):
            pass
        before = {name: comparable(value) for name, value in scope.variables.values.items()}
        for name, value in probe.variables.values.items():
            if name not in before or before[name] != comparable(value):
                scope.variables.values[name] = None
        if probe.folder != scope.folder:
            scope.folder = None
        yield from self._in(scope).run(body)
        self._leaves_loop()

    def _leaves_loop(self) -> bool:
        """Whether the loop ends here; `continue` and `break` end nothing behind it."""
        ended = self.scope.ended
        if ended in ("continue", "break"):
            self.scope.ended = ""
        return ended not in ("", "continue")


def fields(node: Node, name: str) -> list[Node]:
    """The named children of a node in one of its fields."""
    return [child for child in node.children_by_field_name(name) if child.is_named]


def _branches(node: Node) -> list[tuple[list[Node], list[Node]]]:
    """(conditions, body) of every branch of an if; an else has no conditions."""
    found: list[tuple[list[Node], list[Node]]] = [([], [])]
    is_body = False
    for child in node.children:
        if child.type in ("elif_clause", "else_clause"):
            found.extend(_branches(child))
        elif child.type in ("then", "else"):
            is_body = True
        elif child.is_named and child.type != "comment":
            found[0][is_body].append(child)
    return found


def _behind(node: Node, mark: str) -> list[Node]:
    """The statements behind a token of a node."""
    at = next((n for n, child in enumerate(node.children) if child.type == mark), -1)
    return [child for child in node.children[at + 1 :] if child.is_named and child.type != "comment"]
