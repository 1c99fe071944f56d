"""What may be tried: the values of each parameter, and which of them have an effect together. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from crossfoot.generating.options import DEFAULTS, ONLY_SAMPLED, SAMPLED

KINDS: Mapping[str, type] = {
    "do_sample": bool,
    "num_beams": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "typical_p": float,
    "repetition_penalty": float,
    "no_repeat_ngram_size": int,
    "length_penalty": float,
    "max_new_tokens": int,
    "dtype": str,
}
"""The parameters, in the order in which they are chosen: what decides on others comes first."""
_UNSET: Mapping[str, Any] = {
    **DEFAULTS,
    **SAMPLED,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
}
"""What each is where nobody says it; it then changes nothing."""
Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """One of these."""

    options: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Whether it is one of them."""
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.options)

    def __str__(self) -> str:
        return ", ".join(map(shown, self.options))


@dataclass(frozen=True)
class Range:
    """From low to high, both possible. step: None: any number. is_whole: of whole numbers."""

    low: float
    high: float
    step: float | None = None
    is_log: bool = False
    is_whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether it lies in it; between two steps is in it too."""
        is_number = isinstance(value, int if self.is_whole else int | float) and not isinstance(value, bool)
        return bool(is_number and self.low <= value <= self.high)

    def rounded(self, value: float) -> float:
        """With as many decimals as tell a thousand values of the range apart; small ones of a logarithmic
        range with three digits.
        """
        if self.is_whole or self.step is not None:
            return value
        if self.is_log:
            near = float(f"{value:.3g}")
        else:
            near = round(value, max(0, 2 - math.floor(math.log10(self.high - self.low))))
        return min(max(near, self.low), self.high)

    def __str__(self) -> str:
        return f"{shown(self.low)} to {shown(self.high)}"


Space: TypeAlias = Mapping[str, Choice | Range]


def has_effect(name: str, values: Values) -> bool:
    """Whether a parameter changes anything beside these others."""
    if name in ONLY_SAMPLED:
        return bool(values.get("do_sample", False))
    return name != "length_penalty" or values.get("num_beams", 1) > 1


def ordered(space: Space) -> Iterator[tuple[str, Choice | Range]]:
    """The parameters, those that decide on others first."""
    return ((name, space[name]) for name in KINDS if name in space)


def combinations(space: Space) -> list[dict[str, Any]] | None:
    """All sets of values that differ in what has an effect; None where a range makes them countless."""
    if not all(isinstance(one, Choice) for one in space.values()):
        return None
    names, lists = zip(*((name, one.options) for name, one in ordered(space)), strict=True)  # type: ignore[union-attr]
    found: list[dict[str, Any]] = []
    for options in itertools.product(*lists):
        whole = dict(zip(names, options, strict=True))
        values = {name: value for name, value in whole.items() if has_effect(name, whole)}
        if values not in found:
            found.append(values)
    return found


def simplicity(values: Values) -> tuple[bool, bool, int]:
    """Sorts the simplest first: greedy, one beam, few values that are not what they are by themselves."""
    said = sum(
        value != _UNSET[name] for name, value in values.items() if name in _UNSET and name != "max_new_tokens"
    )
    return bool(values.get("do_sample")), values.get("num_beams", 1) > 1, said


def words_of(values: Values) -> str:
    """`do_sample true, temperature 0.7`."""
    return ", ".join(f"{name} {shown(value)}" for name, value in values.items()) or "nothing set"


def shown(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
