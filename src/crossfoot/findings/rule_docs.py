"""The manual: one page per finding code, written as the docstring of the one function that makes that
finding; the causes of a ledger, which are rows of one table, have theirs from that table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from crossfoot.findings.codes import FIRST_VERSION, Code, add_code
from crossfoot.findings.finding import Severity

F = TypeVar("F", bound=Callable[..., object])


def rule_docs(
    code: str,
    *severities: Severity,
    name: str = "",
    since: str = FIRST_VERSION,
    error_is_opinion: bool = False,
) -> Callable[[F], F]:
    """Decorator: the function makes the findings of `code`, and its docstring is their manual page.

    severities: all that they may have, the gravest first; none: error. name: the function's own when it is
    not given. error_is_opinion: of `Code`. A second function for one code or one name: RuntimeError.
    """

    def register(function: F) -> F:
        called = name or kebab(function.__name__)
        given = severities or ("error",)
        add_code(Code(code, called, given, since, function, error_is_opinion=error_is_opinion))
        return function

    return register


def table_docs(code: str, name: str, text: str, constructor: Callable[..., object]) -> None:
    """The manual page of a code whose errors are rows of a table, which `constructor` makes. A second page
    for it: RuntimeError.
    """
    add_code(Code(code, kebab(name), ("error",), FIRST_VERSION, constructor, text))


def kebab(words: str) -> str:
    """`broken_yaml` and `broken yaml` -> `broken-yaml`."""
    return words.replace("_", "-").replace(" ", "-")
