"""The one way by which words reach the user: at once, what was asked for to stdout, the rest to stderr."""

from __future__ import annotations

import sys


def say(text: str = "", end: str = "\n") -> None:
    """To stdout: what a verb was asked for. Raises OSError where nobody reads, or the disk behind is full."""
    print(text, end=end, flush=True)


def tell(text: str, end: str = "\n") -> None:
    """To stderr: how it goes meanwhile. Raises as `say`."""
    print(text, end=end, file=sys.stderr, flush=True)
