"""The manual: one page per finding code, written as the docstring of the one function that makes that
finding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

_pages: dict[str, Callable[..., object]] = {}


def page(code: str) -> Callable[[F], F]:
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
        _pages[code] = function
        return function

    return register


def page_text(code: str) -> str | None:
    """The page of `code`, dedented; None when no imported module has one."""
    function = _pages.get(code)
    return None if function is None else inspect.cleandoc(function.__doc__ or "")


def page_function(code: str) -> Callable[..., object]:
    """The function whose docstring is the page of `code`; KeyError when there is none."""
    return _pages[code]


def known_codes() -> tuple[str, ...]:
    """Every code with a page, sorted, among the modules that are imported."""
    return tuple(sorted(_pages))
