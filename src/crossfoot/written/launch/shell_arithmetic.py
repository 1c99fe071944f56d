"""Whole numbers and tests of a shell script, where all that they need is known: `$((GPUS * NODES))`,
`[ "$N" -gt 1 ]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tree_sitter import Node

from crossfoot.written.launch.shell_tree import OffsetText, ShellText

_WHOLE = re.compile(r"[-+]?(0|[1-9]\d{0,11})", re.ASCII)
_ARITHMETIC_TARGET = re.compile(
    r"([A-Za-z_]\w*)\s*(?:[-+*/%&|^]|<<|>>)?=(?!=)|([A-Za-z_]\w*)(?:\+\+|--)", re.ASCII
)
_DEEPEST = 30
_LARGEST = 10**12


@dataclass(frozen=True)
class Number:
    """A whole number. is_default: an exported variable may overrule a part of it."""

    value: int
    is_default: bool = False


def number_of(node: Node, text: ShellText, values: Mapping[str, object], depth: int = 0) -> Number | None:
    """What an arithmetic expression comes to; None when a part is not known, or is no whole number."""
    if depth > _DEEPEST:
        return None
    kind = node.type
    inner = [child for child in node.children if child.is_named]
    if kind in ("number", "word"):
        return _whole(text.text_of(node)) or _variable(text.text_of(node), values)
    if kind == "variable_name":
        return _variable(text.text_of(node), values)
    if kind in ("simple_expansion", "parenthesized_expression", "string") and len(inner) == 1:
        return number_of(inner[0], text, values, depth + 1)
    if kind == "expansion":
        return _expansion(node, text, values, depth)
    if kind == "unary_expression" and len(inner) == 1 and text.text_of(node.children[0]) in "+-":
        found = number_of(inner[0], text, values, depth + 1)
        sign = -1 if text.text_of(node.children[0]) == "-" else 1
        return Number(sign * found.value, found.is_default) if found else None
    if kind == "binary_expression" and len(node.children) == 3:
        left, right = (number_of(node.children[at], text, values, depth + 1) for at in (0, 2))
        if left is None or right is None:
            return None
        value = _combined(text.text_of(node.children[1]), left.value, right.value)
        return None if value is None else Number(value, left.is_default or right.is_default)
    return None


def _expansion(node: Node, text: ShellText, values: Mapping[str, object], depth: int) -> Number | None:
    """`${N}`, and `${N:-8}`."""
    names = [child for child in node.children if child.type == "variable_name"]
    at = node.children.index(names[0]) if names else 0
    rest = [child for child in node.children[at + 1 :] if text.text_of(child) != "}"]
    if not names or at != 1:
        return None
    name = text.text_of(names[0])
    if not rest:
        return _variable(name, values)
    if text.text_of(rest[0]) not in (":-", "-") or len(rest) != 2:
        return None
    if name in values:
        return _variable(name, values)
    default = number_of(rest[1], text, values, depth + 1)
    return Number(default.value, True) if default else None


def _combined(operator: str, left: int, right: int) -> int | None:
    if operator in ("/", "%") and right:  # bash cuts towards zero, as C does
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        return quotient if operator == "/" else left - quotient * right
    value = {"+": left + right, "-": left - right, "*": left * right}.get(operator)
    return value if value is not None and abs(value) < _LARGEST else None


def _variable(name: str, values: Mapping[str, object]) -> Number | None:
    value = values.get(name)
    found = _whole(value.text) if isinstance(value, OffsetText) else None
    return Number(found.value, value.is_default) if found and isinstance(value, OffsetText) else None


def _whole(text: str) -> Number | None:
    return Number(int(text)) if _WHOLE.fullmatch(text.strip()) else None


_COMPARED = {
    "-eq": lambda left, right: left == right,
    "-ne": lambda left, right: left != right,
    "-lt": lambda left, right: left < right,
    "-le": lambda left, right: left <= right,
    "-gt": lambda left, right: left > right,
    "-ge": lambda left, right: left >= right,
}


def is_true(node: Node, text: ShellText, value: Callable[[Node], OffsetText]) -> bool | None:
    """Whether `[ ... ]` holds; None where what it needs is not known, or may be overruled from outside.
    value: of a word.
    """
    inner = [child for child in node.children if child.is_named]
    if len(inner) != 1 or len(inner[0].children) not in (2, 3):
        return None
    test = inner[0]
    operators = [text.text_of(child) for child in test.children if text.text_of(child) in _OPERATORS]
    words = [value(child) for child in test.children if text.text_of(child) not in _OPERATORS]
    if len(operators) != 1 or any(not word.is_known or word.is_default for word in words):
        return None
    operator, found = operators[0], [word.text for word in words]
    if test.type == "unary_expression" and operator in ("-z", "-n"):
        return (found[0] == "") == (operator == "-z")
    if test.type != "binary_expression" or len(found) != 2:
        return None
    if operator in _COMPARED:
        left, right = _whole(found[0]), _whole(found[1])
        return None if left is None or right is None else _COMPARED[operator](left.value, right.value)
    if node.children[0].type == "[[" and re.search(r"[*?\[]", found[1]):
        return None
    return (found[0] == found[1]) == (operator != "!=")


_OPERATORS = frozenset((*_COMPARED, "-z", "-n", "=", "==", "!="))


def assigned_in(expression: str) -> Iterator[str]:
    """The variables that an arithmetic command changes: `((A = B * 2))`, `((A++))`."""
    for match in _ARITHMETIC_TARGET.finditer(expression):
        yield match[1] or match[2]
