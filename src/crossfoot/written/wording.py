"""pydantic's errors in plain words: what a value must be, and the change that makes it so."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from crossfoot.phrases import counted, listed
from crossfoot.written.shown import shown

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of ordinary size",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "string_sub_type": "text",
    "string_unicode": "valid Unicode text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "a section with keys",
    "model_attributes_type": "a section with keys",
    "dict_type": "a section with keys",
    "finite_number": "a finite number",
    "string_too_short": "some text",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def wanted(error: Mapping[str, Any]) -> str:
    """What must stand there, to follow "must be": `a whole number`, `at least 1`, `none, linear or sqrt`."""
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        limit = context[bound]
        if kind == "less_than" and isinstance(limit, int) and limit > 10**6:
            return f"at most {limit - 1}"
        return f"{words} {limit:,}" if isinstance(limit, int) else f"{words} {limit:g}"
    if kind == "literal_error":
        return listed(_choices(error), "or")
    if kind == "string_pattern_mismatch":
        return (
            "text without slash or invisible characters, not beginning with a dot"
            if _is_name(context)
            else "text on one line, without invisible characters"
        )
    if kind in ("too_short", "too_long"):
        words, bound = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        count = context[bound]
        return f"a list with {words} {counted(count, 'entry', 'entries')}"
    return _KINDS.get(kind, f"valid ({str(error['msg']).rstrip('.').lower()})")


def repairs(error: Mapping[str, Any]) -> tuple[str, ...]:
    """Changes to make, when the value itself says what was meant."""
    kind, value, text = error["type"], error["input"], replacement(error)
    if text is None and kind == "literal_error" and isinstance(value, str):
        close = difflib.get_close_matches(value.lower(), _choices(error), n=1, cutoff=0.5)
        return (f"write {close[0]}",) if close else ()
    if text is None:
        return ()
    if kind in ("int_type", "float_type") and isinstance(value, str):
        return (f"write {text} without quotes",)
    return (f"write it in quotes: {text}",) if kind == "string_type" else (f"write {text}",)


def replacement(error: Mapping[str, Any]) -> str | None:
    """YAML text that says the same thing in the right type; None when it would be a guess."""
    kind, value = error["type"], error["input"]
    if kind == "literal_error" and isinstance(value, str) and value.lower() in _choices(error):
        return value.lower()
    if kind in ("int_type", "int_from_float") and isinstance(value, float) and math.isfinite(value):
        whole = round(value)
        return str(whole) if whole == value and abs(value) < 2**53 else None
    if kind in ("int_type", "float_type") and isinstance(value, str) and _is_number(value, kind):
        return value.strip()
    if kind in ("list_type", "tuple_type") and isinstance(value, str) and value:
        return f"[{value}]"
    if kind == "bool_type" and str(value).lower() in ("yes", "on", "y", "1"):
        return "true"
    if kind == "bool_type" and str(value).lower() in ("no", "off", "n", "0"):
        return "false"
    if kind == "string_type" and isinstance(value, (int, float)):
        return f"'{shown(value)}'"
    return None


def _is_name(context: Mapping[str, Any]) -> bool:
    return "/" in str(context.get("pattern"))


def _is_number(text: str, kind: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and (kind == "float_type" or text.strip().lstrip("+-").isdecimal())


def _choices(error: Mapping[str, Any]) -> list[str]:
    """The words of a Literal, out of pydantic's "'a', 'b' or 'c'"."""
    return str(error["ctx"]["expected"]).split("'")[1::2]
