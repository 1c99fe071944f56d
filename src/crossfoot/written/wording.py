"""pydantic's errors in plain words: what a value must be, and the change that makes it so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from crossfoot.phrases import counted, listed
from crossfoot.written.foreign_keys import OTHER_VALUES
from crossfoot.written.meant_value import HELD_OUT, meant_value, nearest_word

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
_THOUSANDS = re.compile(r"([1-9]\d{0,5})[kK]", re.ASCII)
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_EITHER = {
    HELD_OUT: "a list of files, a share such as 0.05, or a number of samples",
    "lora.trainable_token_indices": "new, or a list of ids and ranges such as 5-9",
}


def wanted(error: Mapping[str, Any]) -> str:
    """What must stand there, to follow "must be": `a whole number`, `at least 1`, `none, linear or sqrt`."""
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind in ("list_type", "literal_error") and (either := _EITHER.get(_key(error))):
        return either
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
    if text is None:
        return tuple(_perhaps(error))
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.strip() == text:
        return (f"write {text} without quotes",)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (f"write it in quotes: {text}",) if kind == "string_type" and is_number else (f"write {text}",)


def replacement(error: Mapping[str, Any]) -> str | None:
    """YAML text that says the same thing in the right type; None when it would be a guess."""
    choices = _choices(error) if error["type"] == "literal_error" else []
    return meant_value(_key(error), error["type"], error["input"], choices)


def other_words(error: Mapping[str, Any]) -> tuple[str, ...]:
    """What a value is that looks like one of the choices, and is another thing."""
    note = OTHER_VALUES.get(_key(error), {}).get(str(error["input"]).lower())
    return (note,) if note and error["type"] == "literal_error" else ()


def _perhaps(error: Mapping[str, Any]) -> Iterator[str]:
    """What may have been meant, when that is for a person to say."""
    kind, value = error["type"], error["input"]
    if kind == "literal_error" and isinstance(value, str) and not other_words(error):
        near = nearest_word(value, _choices(error))
        if near is not None:
            yield f"the nearest is {near}"
    elif kind == "int_type" and isinstance(value, str) and (thousands := _THOUSANDS.fullmatch(value)):
        count = int(thousands[1])
        yield f"write {count * 1000}, or {count * 1024}"
    elif _key(error) == HELD_OUT and value == 0:
        yield "leave it out, for no validation"
    elif (kind, _key(error)) == ("less_than", HELD_OUT) and value > 100:
        yield f"write {round(value)} if so many samples are meant"
    elif (kind == "less_than_equal" and error["ctx"]["le"] == 1 and value <= 100) or (
        (kind, _key(error)) == ("less_than", HELD_OUT)
    ):
        yield f"write {value / 100:g} if {value:g} % is meant: it is a share"
    elif kind == "string_type" and isinstance(value, dict) and _key(error) == "deepspeed":
        yield "write these settings into a JSON file, and its path here"
    elif kind == "greater_than_equal" and value == -1 and _key(error) == "train.max_steps":
        yield "leave it out to train by train.epochs"


def _key(error: Mapping[str, Any]) -> str:
    return ".".join(str(key) for key in error["loc"] if not isinstance(key, int))


def _is_name(context: Mapping[str, Any]) -> bool:
    return "/" in str(context.get("pattern"))


def _choices(error: Mapping[str, Any]) -> list[str]:
    """The words of a Literal, out of pydantic's "'a', 'b' or 'c'"."""
    return str(error["ctx"]["expected"]).split("'")[1::2]
