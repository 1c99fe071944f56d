"""What the arithmetic says when numbers cannot be met: facts and changes; the checks add the places."""

from __future__ import annotations

from collections.abc import Sequence


class Impossible(ValueError):
    """Numbers that a person wrote and that no run can have.

    title: the fact, lower case, no full stop. keys: config keys involved, the one to point at first. notes:
    what is no change to make. helps: changes to make, each with its numbers; following any one of them
    resolves this mistake.
    """

    def __init__(
        self, title: str, keys: Sequence[str], *, notes: Sequence[str] = (), helps: Sequence[str] = ()
    ) -> None:
        self.title = title
        self.keys = tuple(keys)
        self.notes = tuple(notes)
        self.helps = tuple(helps)
        super().__init__(title)


def alternatives(changes: Sequence[str]) -> tuple[str, ...]:
    """Changes of which one is enough, as helps: the second and later ones begin with "or"."""
    return tuple(change if place == 0 else f"or {change}" for place, change in enumerate(changes))
