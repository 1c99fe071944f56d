"""CF309 and CF318: values of the DeepSpeed file that are not of the kind DeepSpeed's vocabulary asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crossfoot.checks.deepspeed.handed_over import MONITORS, ZERO, why_left_out
from crossfoot.checks.deepspeed.refused_parts import is_refused_whole
from crossfoot.checks.deepspeed.values import BATCH, Wrong, is_owned, wrong_value
from crossfoot.checks.deepspeed.vocabulary import Entry, entries
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Edit, Finding, Severity
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.shown import shown


@rule("CF309", "error", "warning", "note")
def wrong_json_type(facts: Facts) -> Iterator[Finding]:
    """CF309: a value of the DeepSpeed file has the wrong type, or is out of range.

    What DeepSpeed reads key by key it takes without a word: 2.5 forwards, `"8"`, `true` for a number, and the
    text `"false"` is not false. Inside `zero_optimization`, `fp16`, `bf16` and the monitors it stops
    instead. Batch numbers are whole and at least 1, clipping is 0 or more, switches are true or false,
    objects are objects; "auto" is filled by crossfoot for the numbers that it owns. A warning: it is
    understood all the same (`"5000"`, `1` for true, `"zero_optimization": false` for stage 0), and DeepSpeed
    is handed what was meant. A note: the value is not handed over, because its block is off, is of a
    precision that this run does not use, or belongs to another ZeRO stage. (lie J3)
    """
    deepspeed, understood = facts.deepspeed, facts.understood
    if deepspeed is None or understood is None:
        return
    for entry in entries(deepspeed.values):
        if entry.key is None or _is_told_elsewhere(understood, entry):
            continue
        wrong = wrong_value(entry, entry.key)
        if wrong is None or (entry.path == (ZERO, "stage") and not wrong.works):  # which is CF308
            continue
        if wrong.works and _is_another_number(facts, understood, entry):
            continue
        severity: Severity = "warning" if wrong.works else "error"
        notes = wrong.notes
        if reason := why_left_out(understood.values, facts.run.config, entry.path):
            severity, notes = "note", (f"it is not handed over: {reason}",)
        yield Finding(
            "CF309",
            f"{entry.dotted} must be {wrong.wanted}, and is {shown(entry.value)}",
            severity=severity,
            place=deepspeed.place(*entry.path),
            notes=notes,
            helps=wrong.helps or _without_it(entry) or (f"set {entry.path[-1]} to {wrong.wanted}",),
            fix=_edits(deepspeed, entry, wrong),
        )


def _is_another_number(facts: Facts, understood: DeepSpeedFile, entry: Entry) -> bool:
    """Whether a number that crossfoot owns is not the run's: CF101 to CF103 and CF304 say so."""
    ours: dict[str, float] = {"gradient_clipping": facts.run.config.optimizer.max_grad_norm}
    if (batch := facts.batch) is not None:
        numbers = (batch.capacity_samples, batch.micro_batch_size, batch.grad_accum_steps)
        ours |= zip(BATCH, numbers, strict=True)
    return entry.dotted in ours and understood.get(*entry.path) != ours[entry.dotted]


def _without_it(entry: Entry) -> tuple[str, ...]:
    if entry.key is None or not entry.key.has_default or entry.key.default is None:
        return ()
    return (f"leave {entry.path[-1]} out: DeepSpeed then takes {_what_holds(entry)}",)


def _edits(deepspeed: DeepSpeedFile, entry: Entry, wrong: Wrong) -> tuple[Edit, ...]:
    if wrong.text is not None:
        return deepspeed.replacing(*entry.path, text=wrong.text)
    return deepspeed.removing(*entry.path) if is_owned(entry) else ()


def _is_told_elsewhere(understood: DeepSpeedFile, entry: Entry) -> bool:
    """What is refused as a whole, a monitor that is on (CF331), and where is offloaded to (CF312)."""
    path = entry.path
    if is_refused_whole(understood.values, path) or (entry.value is True and entry.dotted in MONITORS):
        return True
    is_offloading = path[0] == ZERO and len(path) > 1 and path[1].startswith("offload_")
    return is_offloading and ((len(path) == 2 and not isinstance(entry.value, bool)) or path[-1] == "device")


# ---- "auto"

_BUCKETS = ((ZERO, "reduce_bucket_size"), (ZERO, "allgather_bucket_size"))


@rule("CF318", "note")
def nobody_fills_auto(facts: Facts) -> Iterator[Finding]:
    """CF318: "auto" where nobody fills it in.

    "auto" is a word of transformers. crossfoot fills the three batch numbers, `gradient_clipping`, the
    `enabled` of `bf16` and `fp16`, and the sizes of the two buckets (`reduce_bucket_size` and
    `allgather_bucket_size`: as many elements as are trained, 50 million at most); every other "auto" is left
    out, and DeepSpeed's own default holds. transformers would also write `stage3_prefetch_bucket_size` (0.9 x
    hidden_size squared) and `stage3_param_persistence_threshold` (10 x hidden_size). They change no result,
    only memory and speed, so this is a note. A stage on "auto" is CF308. (lies J3, B14/15)
    """
    deepspeed, understood = facts.deepspeed, facts.understood
    if deepspeed is None or understood is None:
        return
    left = [
        entry
        for entry in entries(deepspeed.values)
        if entry.value == "auto"
        and entry.key is not None
        and entry.key.kind not in ("any", "object")
        and entry.key.default != "auto"
        and not is_owned(entry)
        and entry.path not in ((ZERO, "stage"), *_BUCKETS)
        and not _is_told_elsewhere(understood, entry)
        and not why_left_out(understood.values, facts.run.config, entry.path)
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
        helps=('write a number in the place of "auto", if the default is not what you want',),
    )


def _what_holds(entry: Entry) -> str:
    if entry.key is None or not entry.key.has_default:
        return "is left out"
    default: Any = entry.key.default
    is_count = isinstance(default, int) and not isinstance(default, bool)
    return f"{default:,}" if is_count else shown(default)
