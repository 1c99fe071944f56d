"""A launch script as the commands that it would run, with the variables assigned in it filled in.

Nothing is executed. A subshell, a part of a pipeline and `$( )` keep their folder and variables to
themselves. A loop over written words runs for each; a function runs where it is called; a test of known
values decides. What stands in any other if, case or while, or behind `||`, may run or not: its commands carry
the doubt, and a variable changed there is unknown afterwards. So is what only the run can tell: `$(...)`,
SLURM's variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from tree_sitter import Node

from crossfoot.written.launch.shell_arithmetic import assigned_in
from crossfoot.written.launch.shell_flow import ControlFlow
from crossfoot.written.launch.shell_scope import Budget, Made, RawCommand, Scope, name_in, take_positional
from crossfoot.written.launch.shell_tree import OffsetText, ShellText
from crossfoot.written.launch.shell_words import (
    MOST_WORDS,
    Value,
    Variables,
    Words,
    appended,
    joined,
    lines_with,
)
from crossfoot.written.launch.statement import UNKNOWN

DEEPEST = 60
_WRITING = (">", ">>", ">|", "&>", "&>>")


def run_script(
    text: str,
    offsets: Sequence[int],
    made: Made,
    exports: Mapping[str, Value] | None = None,
    folder: str | None = "",
    given: Mapping[str, Value] | None = None,
) -> Iterator[RawCommand]:
    """The commands of a script, in order. exports: variables that it finds; given: those that are its own;
    folder: where it begins. made is filled with the files that it writes.
    """
    values: dict[str, Value] = {name: OffsetText(".", (0,)) for name in ("SLURM_SUBMIT_DIR", "PWD")}
    scope = Scope(Variables({**values, **(given or {}), **(exports or {})}, set(exports or ())), folder)
    shell = _Shell(ShellText(text, offsets), scope, Budget(made))
    yield from shell.run(shell.text.root)
    yield from shell.never_called()


class _Shell(ControlFlow):
    """Commands, assignments, redirections and calls."""

    def __init__(self, text: ShellText, scope: Scope, budget: Budget) -> None:
        self.text, self.scope, self.budget = text, scope, budget
        self.words = Words(text, scope.variables, self._substitution)
        self._waiting: list[RawCommand] = []

    def run(self, node: Node, document: OffsetText | None = None) -> Iterator[RawCommand]:
        """The commands of a node."""
        if self.scope.ended or self.budget.commands <= 0 or self.budget.depth > DEEPEST:
            return
        self.budget.depth += 1
        visit = _VISITS.get(node.type, _Shell._sequence)
        for found in visit(self, node):
            yield found if document is None or found.document else replace(found, document=document)
        yield from self._substituted()
        self.budget.depth -= 1

    def never_called(self) -> Iterator[RawCommand]:
        """What stands in functions that the script does not call."""
        for name, (text, body) in list(self.scope.functions.items()):
            if name not in self.budget.called:
                scope = replace(
                    self.scope.fork(f"in the function {name}, which is not called here"), ended=""
                )
                yield from _Shell(text, scope, self.budget).run(body)

    def _in(self, scope: Scope) -> _Shell:
        return _Shell(self.text, scope, self.budget)

    def _substitution(self, node: Node) -> None:
        """The commands of `$( )` run too, apart from the rest."""
        scope = replace(self.scope.fork(), ended="")
        if self.budget.depth <= DEEPEST:
            self.budget.depth += 1
            self._waiting.extend(self._in(scope)._sequence(node))
            self.budget.depth -= 1

    def _substituted(self) -> Iterator[RawCommand]:
        found, self._waiting = self._waiting, []
        yield from found

    def _braces(self, node: Node) -> Iterator[RawCommand]:
        """`{ ...; }`, and `(( ... ))`."""
        if node.children and node.children[0].type == "((":
            self._forget_arithmetic(node)
            return
        yield from self._sequence(node)

    def _not_understood(self, node: Node) -> Iterator[RawCommand]:
        doubt, self.scope.doubt = self.scope.doubt, self.scope.doubt or "in lines that were not understood"
        yield from self._sequence(node)
        self.scope.doubt = doubt

    def _function(self, node: Node) -> Iterator[RawCommand]:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None:
            self.scope.functions[self.text.text_of(name)] = (self.text, body)
        return iter(())

    def _call(self, name: str, words: Sequence[OffsetText]) -> Iterator[RawCommand]:
        """A function's body, with the words behind its name as $1, $2 ..."""
        text, body = self.scope.functions[name]
        self.budget.called.add(name)
        were = take_positional(self.scope.variables, words)
        yield from _Shell(text, self.scope, self.budget).run(body)
        take_positional(self.scope.variables, None)
        self.scope.variables.values.update(were)
        if self.scope.ended == "return":
            self.scope.ended = ""

    def _redirected(self, node: Node) -> Iterator[RawCommand]:
        document, targets, more = self._redirects(node)
        body = node.child_by_field_name("body")
        if body is not None:
            is_copied = self.text.text_of(body).strip() == "cat" and document is not None
            slots: list[OffsetText] = []
            for found in self.run(body, document):
                slots.extend(word for word in found.words if "slots=" in word.text)
                yield found
            for target in targets:
                self.budget.writes(target, document if is_copied else lines_with(slots))
        for each in more:
            name = each.child_by_field_name("name")
            if document is not None and name is not None and self.text.text_of(name) == "tee":
                words = [word.text for word in self.words.words(each.children_by_field_name("argument"))]
                for word in words:
                    if not word.startswith("-"):
                        self.budget.writes(word, document)
            else:
                yield from self._in(self.scope.fork()).run(each, document)

    def _redirects(self, node: Node) -> tuple[OffsetText | None, list[str], list[Node]]:
        """(what a here-document says, the files written, commands that stand on its first line)."""
        document: OffsetText | None = None
        targets: list[str] = []
        more: list[Node] = []
        for child in node.children:
            if child.type == "file_redirect":
                targets.extend(self._target(child))
            elif child.type == "heredoc_redirect":
                start = next((each for each in child.children if each.type == "heredoc_start"), None)
                body = next((each for each in child.children if each.type == "heredoc_body"), None)
                is_literal = start is not None and any(each in self.text.text_of(start) for each in "'\"\\")
                document = self.words.document(body, is_literal) if body else OffsetText("", ())
                for each in child.children:
                    if each.type == "file_redirect":
                        targets.extend(self._target(each))
                    elif each.type == "pipeline":
                        more.extend(part for part in each.children if part.is_named)
                    elif each.type in _STATEMENTS:
                        more.append(each)
        return document, targets, more

    def _target(self, node: Node) -> Iterator[str]:
        operator = next((child.type for child in node.children if not child.is_named), "")
        destination = node.child_by_field_name("destination")
        if operator in _WRITING and destination is not None:
            yield from (word.text for word in self.words.words([destination]))

    def _assignment(self, node: Node) -> Iterator[RawCommand]:
        for child in node.children if node.type == "variable_assignments" else (node,):
            self._assign(child)
        return iter(())

    def _assign(self, node: Node) -> str:
        """Carry out `NAME=value`; returns the name."""
        name_node, value_node = node.child_by_field_name("name"), node.child_by_field_name("value")
        name = self.text.text_of(name_node) if name_node else ""
        values = self.scope.variables.values
        if name_node is None or name_node.type != "variable_name":
            self._assign_unknown(node)
            return name_in(name)
        value = self._value(value_node)
        if any(child.type == "+=" for child in node.children):
            value = appended(values.get(name), value)
        values[name] = value
        return name

    def _assign_unknown(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        self.scope.variables.values[name_in(self.text.text_of(name)) if name else ""] = None

    def _value(self, node: Node | None) -> Value:
        if node is None:
            return OffsetText("", ())
        if node.type != "array":
            return self.words.value(node)
        parts = [child for child in node.children if child.is_named and child.type != "comment"]
        if any(self.text.text_of(part).startswith("[") for part in parts):
            return None
        words = tuple(self.words.words(parts))
        return words if len(words) < MOST_WORDS else None

    def _declaration(self, node: Node) -> Iterator[RawCommand]:
        kind = node.children[0].type
        is_export = kind == "export" or (kind == "declare" and " -x" in self.text.text_of(node))
        for child in node.children[1:]:
            if child.type == "variable_assignment":
                name = self._assign(child)
            elif child.type == "variable_name":
                name = self.text.text_of(child)
            else:
                continue
            if is_export:
                self.scope.variables.exported.add(name)
        return iter(())

    def _unset(self, node: Node) -> Iterator[RawCommand]:
        for child in node.children:
            if child.type in ("variable_name", "word"):
                self.scope.variables.values[self.text.text_of(child)] = None
        return iter(())

    def _forget_arithmetic(self, node: Node) -> None:
        """What `((...))` assigns is unknown."""
        self.scope.variables.values.update(dict.fromkeys(assigned_in(self.text.text_of(node))))

    def _test(self, node: Node) -> Iterator[RawCommand]:
        if node.children and node.children[0].type == "((":
            self._forget_arithmetic(node)
        for child in node.children:
            if child.is_named:
                self._substitutions(child)
        return iter(())

    def _substitutions(self, node: Node) -> None:
        if node.type in ("command_substitution", "process_substitution"):
            self._substitution(node)
            return
        for child in node.children:
            self._substitutions(child)

    def _command(self, node: Node) -> Iterator[RawCommand]:
        self.budget.commands -= 1
        name_node = node.child_by_field_name("name")
        if name_node is None:
            return
        early, assignments = self._assignments(node, name_node)
        for child in early:
            if child.id in self.budget.carried_out:
                self.budget.carried_out.remove(child.id)
            else:
                self._assign(child)
        own = self.scope.variables.copy()
        before = self._in(replace(self.scope, variables=own))
        for child in assignments:
            own.exported.add(before._assign(child))
        if assignments and self.text.are_one_word(assignments[-1], name_node):
            self._assign_unknown(assignments[-1])  # the grammar ends it before a backslash
            return
        parts = [name_node, *node.children_by_field_name("argument")]
        if self.text.is_descriptor(parts[-1]):
            parts.pop()
        expanded = tuple(self.words.words(parts))
        yield from self._substituted()
        if expanded:
            yield from self._dispatch(expanded, own)

    def _dispatch(self, expanded: tuple[OffsetText, ...], own: Variables) -> Iterator[RawCommand]:
        name = expanded[0].text
        if name in self.scope.functions:
            yield from self._call(name, expanded[1:])
        elif name == "eval":
            yield from self._eval(expanded[1:])
        elif name in _BUILTINS:
            _BUILTINS[name](self, expanded)
            if name == "printf":
                yield self._raw(expanded, own)
        else:
            yield self._raw(expanded, own)
            if name == "exec" and len(expanded) > 1:
                self.scope.ended = "exit"

    def _assignments(self, node: Node, name: Node) -> tuple[list[Node], list[Node]]:
        """The assignments in front of a command: those of a line of its own, and the command's. Behind a line
        with several the grammar goes on to the command on the next.
        """
        found = [child for child in node.children if child.type == "variable_assignment"]
        ends = (n for n, pair in enumerate(pairwise((*found, name)), 1) if self.text.is_broken(*pair))
        own = max(ends, default=0)
        return found[:own], found[own:]

    def _carry_out(self, node: Node) -> None:
        """The assignments of a line that the grammar put into the first command of a pipeline."""
        while node.type in ("pipeline", "redirected_statement", "list") and node.children:
            node = node.children[0]
        name = node.child_by_field_name("name") if node.type == "command" else None
        for child in self._assignments(node, name)[0] if name is not None else ():
            self._assign(child)
            self.budget.carried_out.add(child.id)

    def _raw(self, words: tuple[OffsetText, ...], variables: Variables) -> RawCommand:
        exports = {name: variables.values.get(name) for name in variables.exported}
        scope = self.scope
        return RawCommand(
            words, exports, scope.doubt, scope.alternative, scope.folder, is_background=scope.is_background
        )

    def _eval(self, words: Sequence[OffsetText]) -> Iterator[RawCommand]:
        """The words joined, run as a script here."""
        text = joined(words, " ")
        if text.text.strip(UNKNOWN + " ") and self.budget.depth < DEEPEST:
            shell = _Shell(ShellText(text.text, text.offsets), self.scope, self.budget)
            yield from shell.run(shell.text.root)
        elif words:
            yield self._raw(tuple(words), self.scope.variables)

    def _forget(self, words: Sequence[OffsetText]) -> None:
        """The variables that these words name have a value that cannot be known."""
        if words[0].text == "printf" and "-v" not in [word.text for word in words[1:2]]:
            return
        for word in words[1:]:
            self.scope.variables.values[name_in(word.text)] = None

    def _declare(self, words: Sequence[OffsetText]) -> None:
        """`export A=8`, where the grammar saw a command."""
        for word in words[1:]:
            name = name_in(word.text)
            if word.text[len(name) : len(name) + 1] == "=":
                self.scope.variables.values[name] = word.after(len(name) + 1)
            if words[0].text == "export":
                self.scope.variables.exported.add(name)

    def _leave(self, words: Sequence[OffsetText]) -> None:
        self.scope.ended = words[0].text

    def _set(self, words: Sequence[OffsetText]) -> None:
        """`set -- a b`."""
        if [word.text for word in words[1:2]] == ["--"]:
            take_positional(self.scope.variables, words[2:])

    def _shift(self, words: Sequence[OffsetText]) -> None:
        kept = self.scope.variables.values.get("@")
        count = int(words[1].text) if len(words) > 1 and words[1].text.isdigit() else 1
        take_positional(self.scope.variables, kept[count:] if isinstance(kept, tuple) else None)

    def _change_folder(self, words: Sequence[OffsetText]) -> None:
        target = words[1].text if len(words) > 1 else UNKNOWN
        folder = self.scope.folder
        if UNKNOWN in target or target.startswith(("~", "-")) or folder is None:
            self.scope.folder = None
        else:
            path = os.path.normpath(os.path.join(folder or ".", target))
            self.scope.folder = "" if path == "." else path


_BUILTINS: Mapping[str, Callable[[_Shell, Sequence[OffsetText]], None]] = {
    "cd": _Shell._change_folder,
    "pushd": _Shell._change_folder,
    "set": _Shell._set,
    "shift": _Shell._shift,
    **dict.fromkeys(("export", "declare", "typeset", "local", "readonly"), _Shell._declare),
    **dict.fromkeys(("exit", "return", "break", "continue"), _Shell._leave),
    **dict.fromkeys(("read", "let", "mapfile", "readarray", "getopts", "printf", "unset"), _Shell._forget),
}
_VISITS: Mapping[str, Callable[[_Shell, Node], Iterator[RawCommand]]] = {
    "subshell": _Shell._apart,
    "pipeline": _Shell._pipeline,
    "compound_statement": _Shell._braces,
    "list": _Shell._list,
    "if_statement": _Shell._if,
    "case_statement": _Shell._case,
    "for_statement": _Shell._for,
    "c_style_for_statement": _Shell._for,
    "while_statement": _Shell._while,
    "function_definition": _Shell._function,
    "redirected_statement": _Shell._redirected,
    "variable_assignment": _Shell._assignment,
    "variable_assignments": _Shell._assignment,
    "declaration_command": _Shell._declaration,
    "unset_command": _Shell._unset,
    "test_command": _Shell._test,
    "command": _Shell._command,
    "ERROR": _Shell._not_understood,
}
_STATEMENTS = tuple(_VISITS)
