"""What a value of the wrong kind says all the same: `3%`, `６４`, `"4"`, `yes`, `a.json, b.json`, `fp16`. A
guess is none: what could train otherwise is left to a person.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from crossfoot.written.foreign_keys import synonym
from crossfoot.written.known_keys import is_optional, likeness, plainly
from crossfoot.written.look_alikes import to_ascii
from crossfoot.written.shown import shown

_TRUE, _FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")
NOTHING = ("none", "null", "nil", "~", "false", "no")
_GROUPED = re.compile(r"[+-]?\d{1,3}([,_]\d{3})+", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PERCENT = re.compile(r"(\d+\.?\d*|\.\d+)\s*%", re.ASCII)
_WORD = re.compile(r"\w+", re.ASCII)
_FIRST_KEYS = {"model": "path", "tokenizer": "path", "lr": "reference"}
"""Sections of which a single value can only be one of their keys."""
NEAR, CLEARLY = 0.7, 0.1
HELD_OUT = "data.validation"
"""A list, or a number."""


def meant_value(key: str, kind: str, value: Any, choices: Sequence[str]) -> str | None:
    """The value as YAML text of the right kind; None when it would be a guess. key: dotted. kind: pydantic's
    name of the error.
    """
    text = to_ascii(value).strip().rstrip(",;") if isinstance(value, str) else ""
    bare = text.strip("\"'").strip()
    if is_optional(key) and (value is False or bare.lower() in NOTHING) and kind != "literal_error":
        return "null"
    if kind == "literal_error":
        return _choice(key, bare or str(value), choices)
    if kind in ("int_type", "int_from_float"):
        if key == "cluster.gpus_per_node" and "," in bare and not _GROUPED.fullmatch(bare):
            return _list(key, bare, bare)
        return _whole(value) if isinstance(value, float) else _count(bare)
    if kind == "float_type":
        return _number(bare)
    if key == HELD_OUT and isinstance(value, str) and (number := _number(bare)) is not None:
        return number
    if kind in ("list_type", "tuple_type") and isinstance(value, str) and value:
        return _list(key, value, text)
    if kind == "bool_type":
        word = bare.lower() or str(value)
        return "true" if word in _TRUE else "false" if word in _FALSE else None
    if kind == "string_type" and isinstance(value, (int, float)):
        return f"'{shown(value)}'"
    if kind in ("model_type", "model_attributes_type"):
        return _section(key, value)
    return None


def nearest_word(word: str, choices: Sequence[str]) -> str | None:
    """The one choice that differs from `word` by a slip of the keyboard; digits are no slips."""
    same_digits = [choice for choice in choices if re.sub(r"\D", "", choice) == re.sub(r"\D", "", word)]
    ranked = sorted(((likeness(word, choice), choice) for choice in same_digits), reverse=True)
    if not ranked or ranked[0][0] < NEAR or (ranked[1:] and ranked[1][0] > ranked[0][0] - CLEARLY):
        return None
    return ranked[0][1]


def _choice(key: str, word: str, choices: Sequence[str]) -> str | None:
    """The same word in another spelling, or another trainer's for the same thing."""
    same = [choice for choice in choices if plainly(choice) == plainly(word)]
    return same[0] if len(same) == 1 else synonym(key, word)


def _whole(number: float) -> str | None:
    if not math.isfinite(number) or round(number) != number or abs(number) >= 2**53:
        return None
    return str(round(number))


def _count(text: str) -> str | None:
    """A whole number, thousands grouped or not."""
    if _INTEGER.fullmatch(text):
        return text
    if _GROUPED.fullmatch(text):
        return re.sub("[,_]", "", text)
    return _whole(float(text)) if _NUMBER.fullmatch(text) else None


def _number(text: str) -> str | None:
    """A number; `3%` is 0.03, and `0,5` is 0.5 where the comma cannot group thousands."""
    percent = _PERCENT.fullmatch(text)
    if percent:
        return f"{(Decimal(percent[1]) / 100).normalize():f}"
    if text.count(",") == 1 and not _GROUPED.fullmatch(text):
        text = text.replace(",", ".")
    return text if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else None


def _list(key: str, value: str, text: str) -> str | None:
    """One text where a list is wanted: its entries. A file that is there is one entry, whatever its name."""
    if os.path.exists(value):
        return f"[{value}]"
    inside = text.strip("[](){}").strip()
    if inside.startswith("-"):
        entries = re.split(r"\s+-", inside[1:])
    elif "," in inside or ";" in inside:
        entries = re.split("[,;]", inside)
    else:
        words = inside.split()
        is_many = all(map(os.path.exists, words)) or (
            key.startswith("lora.") and all(map(_WORD.fullmatch, words))
        )
        entries = words if is_many else [inside]
    entries = [entry.strip().strip("\"'") for entry in entries if entry.strip()]
    if entries in (["all"], ["all-linear"]):
        return "all-linear" if key == "lora.target_modules" else None
    if not entries:
        return None
    return f"[{', '.join(entries)}]"


def _section(key: str, value: Any) -> str | None:
    """A section of which one value is given, or that is only switched on."""
    if key == "lora" and (value is True or str(value).lower() in (*_TRUE, "lora")):
        return "{}"
    if key in _FIRST_KEYS and isinstance(value, (str, float)) and value:
        return f"{{{_FIRST_KEYS[key]}: {value}}}"
    return None
