"""CF309 and CF318: values of the DeepSpeed file that are not of the kind DeepSpeed's vocabulary asks for."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crossfoot.checks.deepspeed.refused_parts import is_refused_whole
from crossfoot.checks.deepspeed.vocabulary import Entry, Key, entries, vocabulary, zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Edit, Finding, Severity
from crossfoot.phrases import listed
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.shown import shown

BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
PRECISION_OF = {"fp16": "float16", "bf16": "bfloat16", "bfloat16": "bfloat16"}
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")
LARGEST_EXACT = 2**53


@dataclass(frozen=True)
class _Wrong:
    """wanted: to follow "must be". works: DeepSpeed understands it all the same, as `meant`. helps: the first
    one writes `text`, when there is one.
    """

    wanted: str
    helps: tuple[str, ...] = ()
    text: str | None = None
    works: bool = False
    notes: tuple[str, ...] = ()


@rule("CF309", "error", "warning", "note")
def wrong_json_type(facts: Facts) -> Iterator[Finding]:
    """CF309: a value of the DeepSpeed file has the wrong type, or is out of range.

    What DeepSpeed reads key by key it takes without a word: 2.5 forwards, `"8"`, `true` for a number, and the
    text `"false"` is not false. Inside `zero_optimization`, `fp16`, `bf16` and the monitors it stops
    instead. Batch numbers are whole and at least 1, clipping is 0 or more, switches are true or false,
    objects are objects; "auto" is filled by crossfoot for the numbers that it owns. A warning: DeepSpeed
    understands the value all the same (`"5000"`, `1` for true). A note: the value stands in the block of a
    precision that this run does not use, and is not handed over. (lie J3)
    """
    deepspeed = facts.deepspeed
    if deepspeed is None:
        return
    for entry in entries(deepspeed.values):
        if entry.key is None or _is_told_elsewhere(deepspeed, entry):
            continue
        wrong = _wrong(entry, entry.key)
        if wrong is None:
            continue
        severity: Severity = "warning" if wrong.works else "error"
        notes = wrong.notes
        if len(entry.path) > 1 and entry.path[-1] != "enabled" and is_unused_precision(facts, entry.path[0]):
            severity = "note"
            notes = (not_handed_over(facts),)
        yield Finding(
            "CF309",
            f"{entry.dotted} must be {wrong.wanted}, and is {shown(entry.value)}",
            severity=severity,
            place=deepspeed.place(*entry.path),
            notes=notes,
            helps=wrong.helps or _without_it(entry) or (f"set {entry.path[-1]} to {wrong.wanted}",),
            fix=_edits(deepspeed, entry, wrong),
        )


def _without_it(entry: Entry) -> tuple[str, ...]:
    if entry.key is None or not entry.key.has_default or entry.key.default is None:
        return ()
    return (f"leave {entry.path[-1]} out: DeepSpeed then takes {_what_holds(entry)}",)


def _edits(deepspeed: DeepSpeedFile, entry: Entry, wrong: _Wrong) -> tuple[Edit, ...]:
    if wrong.text is not None:
        return deepspeed.replacing(*entry.path, text=wrong.text)
    return deepspeed.removing(*entry.path) if _is_owned(entry) else ()


def _is_told_elsewhere(deepspeed: DeepSpeedFile, entry: Entry) -> bool:
    """What is refused as a whole, the ZeRO stage (CF308), offloading (CF312)."""
    path = entry.path
    if path == ("zero_optimization", "stage") or is_refused_whole(deepspeed.values, path):
        return True
    if path[0] == "zero_optimization" and len(path) > 1 and path[1].startswith(("offload_", "cpu_offload")):
        return (len(path) == 2 and not isinstance(entry.value, bool)) or path[-1] == "device"
    return path[:2] == ("zero_optimization", "leaf_module") and len(path) > 2


def _is_owned(entry: Entry) -> bool:
    is_switch = len(entry.path) == 2 and entry.path[0] in PRECISION_OF and entry.path[1] == "enabled"
    return entry.dotted in (*BATCH, "gradient_clipping") or is_switch


def is_unused_precision(facts: Facts, block: str) -> bool:
    """Whether `block` is of a precision that this run does not use: nothing of it is handed over."""
    return block in PRECISION_OF and facts.run.config.model.dtype != PRECISION_OF[block]


def not_handed_over(facts: Facts) -> str:
    """The note on a mistake in such a block."""
    alone = f"DeepSpeed {vocabulary().version} alone would stop at it"
    return f"it is not handed over: model.dtype is {facts.run.config.model.dtype}; {alone}"


def _wrong(entry: Entry, key: Key) -> _Wrong | None:
    """What is wrong with a value; None when nothing is."""
    value = entry.value
    if key.kind == "any" or (value is None and key.nullable):
        return None
    if value == "auto" and key.kind != "object":
        return None
    if isinstance(value, str) and key.kind not in ("string", "object") and value.strip().lower() == "auto":
        return _Wrong(_wanted(entry, key), ('write "auto"',), '"auto"')
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
    if key.kind == "bool" and _is_owned(entry):
        return 'true, false or "auto"'
    return f'{words}, or "auto"' if _is_owned(entry) else words


def _remove_owned(entry: Entry) -> tuple[str, ...]:
    return ("remove it: crossfoot writes its own number there",) if _is_owned(entry) else ()


def _number(entry: Entry, key: Key) -> _Wrong | None:
    value, wanted = entry.value, _wanted(entry, key)
    if isinstance(value, str):
        return _number_in_text(entry, key, value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _in_range(value, key):
        return _Wrong(wanted, _remove_owned(entry))
    if key.choices and value not in key.choices:
        return _Wrong(wanted)
    if key.kind == "int" and isinstance(value, float):
        if not value.is_integer():
            return _Wrong(wanted, _remove_owned(entry))
        if entry.path[0] in BATCH:
            return _Wrong(wanted, (f"write {int(value)}",), str(int(value)))
    return None


def _number_in_text(entry: Entry, key: Key, value: str) -> _Wrong:
    wanted, number = _wanted(entry, key), _number_of(value, key)
    if number is None or not _in_range(number, key):
        return _Wrong(wanted, _remove_owned(entry))
    text = value.strip() if _is_json(value, key) else _as_json(number)
    help_ = f"write {text} without quotes" if text == value.strip() else f"write {text}"
    works = entry.block.reader == "model" and _model_reads(value, key)
    return _Wrong(wanted, (help_,), text, works, (f"DeepSpeed reads it as {text}",) if works else ())


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


def _switch(entry: Entry, key: Key) -> _Wrong | None:
    value, wanted = entry.value, _wanted(entry, key)
    if isinstance(value, bool):
        return None
    word = str(value).strip().lower()
    if word not in (*TRUE_WORDS, *FALSE_WORDS) or isinstance(value, float):
        return _Wrong(wanted, _remove_owned(entry))
    meant = "true" if word in TRUE_WORDS else "false"
    help_ = f"write {meant} without quotes" if word == meant else f"write {meant}"
    # Text is always true to a reader that asks `if value`.
    works = not _is_owned(entry) and (not isinstance(value, str) or entry.block.reader == "model")
    is_lie = isinstance(value, str) and entry.block.reader == "plain" and meant == "false"
    notes = (f"DeepSpeed reads it as {meant}",) if works else ()
    return _Wrong(
        wanted,
        (help_,),
        meant,
        works,
        ("text is not false: DeepSpeed takes it for true, or stops",) if is_lie else notes,
    )


def _text(entry: Entry, key: Key) -> _Wrong | None:
    value = entry.value
    if not isinstance(value, str):
        return _Wrong(_wanted(entry, key))
    fold = str.lower if key.any_case else str
    if not key.choices or fold(value) in [fold(choice) for choice in key.choices]:
        return None
    close = difflib.get_close_matches(
        value.lower(), [choice.lower() for choice in key.choices], n=1, cutoff=0.5
    )
    found = next((choice for choice in key.choices if close and choice.lower() == close[0]), None)
    return _Wrong(_wanted(entry, key), (f"write {json.dumps(found)}",) if found else ())


def _container(entry: Entry, key: Key) -> _Wrong | None:
    value, wanted = entry.value, _wanted(entry, key)
    if isinstance(value, list if key.kind == "list" else dict):
        return None
    if entry.path == ("zero_optimization",) and value in (0, 1, 2, 3):
        stage = int(value)
        text = f'{{"stage": {stage}}}'
        if not isinstance(value, bool):
            return _Wrong(wanted, (f"write {text}",), text)
        return _Wrong(
            wanted, (f"write {text}",), text, notes=(f"DeepSpeed takes it for stage {stage}, an old form",)
        )
    inside = vocabulary().blocks.get(key.block or "")
    if isinstance(value, bool) and inside is not None and "enabled" in inside.keys:
        text = f'{{"enabled": {json.dumps(value)}}}'
        return _Wrong(wanted, (f"write {text}",), text)
    return _Wrong(wanted)


# ---- "auto"


@rule("CF318", "note")
def nobody_fills_auto(facts: Facts) -> Iterator[Finding]:
    """CF318: "auto" where nobody fills it in.

    "auto" is a word of transformers. crossfoot fills the three batch numbers, `gradient_clipping` and the
    `enabled` of `bf16` and `fp16`; every other "auto" is left out, and DeepSpeed's own default holds.
    transformers would also write `reduce_bucket_size` (hidden_size squared), `stage3_prefetch_bucket_size`
    (0.9 of that) and `stage3_param_persistence_threshold` (10 x hidden_size). They change no result, only
    memory and speed, so this is a note. A stage on "auto" is CF308. (lies J3, B14/15)
    """
    deepspeed = facts.deepspeed
    if deepspeed is None:
        return
    stage = zero_stage(deepspeed.values)
    left = [
        entry
        for entry in entries(deepspeed.values)
        if entry.value == "auto"
        and entry.key is not None
        and entry.key.kind not in ("any", "object")
        and entry.key.default != "auto"
        and not _is_owned(entry)
        and not _is_told_elsewhere(deepspeed, entry)
        and not is_unused_precision(facts, entry.path[0])
        and (stage == 3 or not (entry.key.same_as or entry.path[-1]).startswith("stage3_"))
    ]
    if not left:
        return
    first, *rest = left
    count = f"{len(left)} values are" if rest else f"{first.dotted} is"
    yield Finding(
        "CF318",
        f'{count} "auto", and nobody fills {"them" if rest else "it"} in: '
        f"DeepSpeed's {'defaults hold' if rest else 'default holds'}",
        severity="note",
        place=deepspeed.place(*first.path),
        label=_what_holds(first),
        others=tuple((deepspeed.place(*entry.path), _what_holds(entry)) for entry in rest),
        notes=_bucket_note(facts, left),
        helps=('write a number in the place of "auto", if the default is not what you want',),
    )


def _what_holds(entry: Entry) -> str:
    if entry.key is None or not entry.key.has_default:
        return "is left out"
    default: Any = entry.key.default
    is_count = isinstance(default, int) and not isinstance(default, bool)
    return f"{default:,}" if is_count else shown(default)


def _bucket_note(facts: Facts, left: list[Entry]) -> tuple[str, ...]:
    entry = next((entry for entry in left if entry.path[-1] == "reduce_bucket_size"), None)
    if (
        entry is None
        or entry.key is None
        or facts.deepspeed is None
        or not zero_stage(facts.deepspeed.values)
    ):
        return ()
    dtype = facts.run.config.model.dtype
    gigabytes = entry.key.default * (4 if dtype == "float32" else 2) / 1e9
    return (
        f"reduce_bucket_size is a buffer on every GPU: {gigabytes:.1f} GB in {dtype}; "
        "transformers would write hidden_size x hidden_size",
    )
