"""Names of nodes in a sentence, and nodes that say the same thing together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from crossfoot.phrases import listed

T = TypeVar("T")
_MOST_NAMED = 4


def together(answers: Iterable[tuple[str, T | None]]) -> Iterator[tuple[str, T]]:
    """From (node, answer): each answer that is not None once, with the names of the nodes that give it."""
    groups: dict[T, list[str]] = {}
    for name, answer in answers:
        if answer is not None:
            groups.setdefault(answer, []).append(name)
    for answer, names in groups.items():
        yield named(names), answer


def named(names: Sequence[str]) -> str:
    """`node1`, `node1 and node2`, `node1, node2, node3, node4 and 12 more`."""
    more = len(names) - _MOST_NAMED
    return listed((*names[:_MOST_NAMED], f"{more} more") if more > 0 else names)
