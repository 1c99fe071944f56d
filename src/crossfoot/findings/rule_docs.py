"""The manual: one page per finding code, written as the docstring of the one function that makes that
finding; the causes of a ledger, which are rows of one table, have theirs from that table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

_pages: dict[str, Callable[..., object]] = {}
_table_pages: dict[str, str] = {}


def rule_docs(code: str) -> Callable[[F], F]:
    """Decorator: the function's docstring is the manual page of `code`. Two functions for one code:
    RuntimeError.
    """

    def register(function: F) -> F:
        known = _pages.get(code)
        if known is not None and (known.__module__, known.__qualname__) != (
            function.__module__,
            function.__qualname__,
        ):
            raise RuntimeError(
                f"{code} has two manual pages: {known.__qualname__} and {function.__qualname__}"
            )
        if not function.__doc__:
            raise RuntimeError(f"{code} has no manual page: {function.__qualname__} needs a docstring")
        if code in _table_pages:
            raise RuntimeError(f"{code} has two manual pages: {function.__qualname__} and a table's")
        _pages[code] = function
        return function

    return register


def table_docs(code: str, text: str) -> None:
    """The manual page of a code whose findings are rows of a table. A second page for it: RuntimeError."""
    if code in _pages or _table_pages.get(code, text) != text:
        raise RuntimeError(f"{code} has two manual pages")
    _table_pages[code] = text


def docs_text(code: str) -> str | None:
    """The page of `code`, dedented; None when no imported module has one."""
    if code in _table_pages:
        return _table_pages[code]
    function = _pages.get(code)
    return None if function is None else inspect.cleandoc(function.__doc__ or "")


def docs_function(code: str) -> Callable[..., object] | None:
    """The function whose docstring is the page of `code`; None when there is none, or a table's."""
    return _pages.get(code)


def known_codes() -> tuple[str, ...]:
    """Every code with a page, sorted, among the modules that are imported."""
    return tuple(sorted({*_pages, *_table_pages}))
