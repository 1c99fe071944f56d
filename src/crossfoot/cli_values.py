"""What the words of a command line can be: numbers, spans of time, paths. Each raises argparse's errors."""

from __future__ import annotations

import argparse

from crossfoot.written.paths import at_home, fault_of


def counts(text: str) -> tuple[int, ...]:
    """`10`, or `1,5,10`: each at least 1."""
    return tuple(map(count, text.split(",")))


def seconds(text: str) -> float:
    """A span, at least 0."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("at least 0")
    return number


def loss(text: str) -> float:
    """In nats a token, above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("above 0")
    return number


def path(text: str) -> str:
    """A path that no shell has read: of ~ in quotes it is the home."""
    if (fault := fault_of(text)) is not None:
        raise argparse.ArgumentTypeError(f"must be {fault.wanted}, and is {text}; {fault.helps[0]}")
    return at_home(text)


def whole(text: str) -> int:
    """A number, at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("at least 0")
    return number


def budget(text: str) -> int | None:
    """`auto`, or a number of tokens."""
    return None if text == "auto" else count(text)


def count(text: str) -> int:
    """A number, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
