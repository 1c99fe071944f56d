"""What a value of a DeepSpeed file is to DeepSpeed: right, understood all the same, or wrong."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass

from crossfoot.checks.deepspeed.vocabulary import Entry, Key, vocabulary
from crossfoot.phrases import listed

BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
PRECISION_OF = {"fp16": "float16", "bf16": "bfloat16", "bfloat16": "bfloat16"}
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")
LARGEST_EXACT = 2**53


@dataclass(frozen=True)
class Wrong:
    """wanted: to follow "must be". text: the JSON that was meant, when that is clear; the first help writes
    it. works: DeepSpeed understands it all the same, or crossfoot does and writes that value itself.
    """

    wanted: str
    helps: tuple[str, ...] = ()
    text: str | None = None
    works: bool = False
    notes: tuple[str, ...] = ()


def is_owned(entry: Entry) -> bool:
    """Whether crossfoot writes this value itself, whatever the file says."""
    is_switch = len(entry.path) == 2 and entry.path[0] in PRECISION_OF and entry.path[1] == "enabled"
    return entry.dotted in (*BATCH, "gradient_clipping") or is_switch


def wrong_value(entry: Entry, key: Key) -> Wrong | None:
    """What is wrong with a value; None when nothing is."""
    value = entry.value
    if key.kind == "any" or (value is None and key.nullable):
        return None
    if value == "auto" and key.kind != "object":
        return None
    if isinstance(value, str) and key.kind not in ("string", "object") and value.strip().lower() == "auto":
        return Wrong(_wanted(entry, key), ('write "auto"',), '"auto"')
    check = {"int": _number, "float": _number, "bool": _switch, "string": _text}.get(key.kind, _container)
    return check(entry, key)


def _wanted(entry: Entry, key: Key) -> str:
    if key.choices:
        choices = [
            json.dumps(c) for c in key.choices if len(key.choices) < 5 or c in ("bf16", "fp16", "fp32")
        ]
        words = listed(choices, "or")
    else:
        words = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "string": "text",
            "list": "a list",
        }.get(key.kind, "an object")
    if key.at_least is not None:
        words += f", {key.at_least:g} or more"
    if key.more_than is not None:
        words += f", more than {key.more_than:g}"
    if key.at_most is not None:
        words += f", at most {key.at_most:g}"
    if key.less_than is not None:
        words += f", less than {key.less_than:g}"
    if key.kind == "bool" and is_owned(entry):
        return 'true, false or "auto"'
    return f'{words}, or "auto"' if is_owned(entry) else words


def _remove_owned(entry: Entry) -> tuple[str, ...]:
    return ("remove it: crossfoot writes its own number there",) if is_owned(entry) else ()


def _number(entry: Entry, key: Key) -> Wrong | None:
    value, wanted = entry.value, _wanted(entry, key)
    if isinstance(value, str):
        return _number_in_text(entry, key, value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _in_range(value, key):
        return Wrong(wanted, _remove_owned(entry))
    if key.choices and value not in key.choices:
        return Wrong(wanted)
    if key.kind == "int" and isinstance(value, float):
        if not value.is_integer():
            return Wrong(wanted, _remove_owned(entry))
        if entry.path[0] in BATCH:
            return Wrong(wanted, (f"write {int(value)}",), str(int(value)), works=True)
    return None


def _number_in_text(entry: Entry, key: Key, value: str) -> Wrong:
    wanted, number = _wanted(entry, key), _number_of(value, key)
    if number is None or not _in_range(number, key) or (key.choices and number not in key.choices):
        return Wrong(wanted, _remove_owned(entry))
    text = value.strip() if _is_json(value, key) else _as_json(number)
    help_ = f"write {text} without quotes" if text == value.strip() else f"write {text}"
    is_read = entry.block.reader == "model" and _model_reads(value, key)
    notes = (f"DeepSpeed reads it as {text}",) if is_read else ()
    return Wrong(wanted, (help_,), text, is_read or is_owned(entry), notes)


def _as_json(number: float) -> str:
    return json.dumps(int(number) if number.is_integer() and abs(number) < LARGEST_EXACT else number)


def _is_json(text: str, key: Key) -> bool:
    try:
        number = json.loads(text)
    except ValueError:
        return False
    return isinstance(number, int) or key.kind == "float"


def _number_of(text: str, key: Key) -> float | None:
    """The number that a text means: 5e8, 0x10, 1,000 and 1_000 too."""
    plain = text.strip().replace(",", "").replace("_", "")
    try:
        number = float(int(plain, 16)) if plain.lower().startswith("0x") else float(plain)
    except (ValueError, OverflowError):
        return None
    is_fit = math.isfinite(number) and (key.kind == "float" or number.is_integer())
    return number if is_fit else None


def _model_reads(text: str, key: Key) -> bool:
    """Whether pydantic takes this text for the number."""
    try:
        float(text) if key.kind == "float" else int(text)
    except ValueError:
        return False
    return True


def _in_range(value: float, key: Key) -> bool:
    return (
        (isinstance(value, int) or math.isfinite(value))
        and (key.at_least is None or value >= key.at_least)
        and (key.more_than is None or value > key.more_than)
        and (key.at_most is None or value <= key.at_most)
        and (key.less_than is None or value < key.less_than)
    )


def _switch(entry: Entry, key: Key) -> Wrong | None:
    value, wanted = entry.value, _wanted(entry, key)
    if isinstance(value, bool):
        return None
    word = str(value).strip().lower()
    if word not in (*TRUE_WORDS, *FALSE_WORDS) or isinstance(value, float):
        return Wrong(wanted, _remove_owned(entry))
    meant = "true" if word in TRUE_WORDS else "false"
    help_ = f"write {meant} without quotes" if word == meant else f"write {meant}"
    # Text is always true to a reader that asks `if value`.
    works = not isinstance(value, str) or entry.block.reader == "model"
    is_lie = isinstance(value, str) and entry.block.reader == "plain" and meant == "false"
    notes = (f"DeepSpeed reads it as {meant}",) if works else ()
    return Wrong(
        wanted,
        (help_,),
        meant,
        works,
        ("text is not false: DeepSpeed takes it for true, or stops",) if is_lie else notes,
    )


def _text(entry: Entry, key: Key) -> Wrong | None:
    value = entry.value
    if not isinstance(value, str):
        return Wrong(_wanted(entry, key))
    fold = str.lower if key.any_case else str
    if not key.choices or fold(value) in [fold(choice) for choice in key.choices]:
        return None
    close = difflib.get_close_matches(
        value.lower(), [choice.lower() for choice in key.choices], n=1, cutoff=0.5
    )
    found = next((choice for choice in key.choices if close and choice.lower() == close[0]), None)
    return Wrong(_wanted(entry, key), (f"write {json.dumps(found)}",) if found else ())


def _container(entry: Entry, key: Key) -> Wrong | None:
    value, wanted = entry.value, _wanted(entry, key)
    if isinstance(value, list if key.kind == "list" else dict):
        return None
    if entry.path == ("zero_optimization",) and value in (0, 1, 2, 3):
        text = f'{{"stage": {int(value)}}}'
        is_old_form = isinstance(value, bool)
        notes = (f"DeepSpeed takes it for stage {int(value)}, an old form",) if is_old_form else ()
        return Wrong(wanted, (f"write {text}",), text, is_old_form, notes)
    inside = vocabulary().blocks.get(key.block or "")
    if isinstance(value, bool) and inside is not None and "enabled" in inside.keys:
        text = f'{{"enabled": {json.dumps(value)}}}'
        return Wrong(wanted, (f"write {text}",), text, works=entry.path[0] in PRECISION_OF)
    return Wrong(wanted)
