"""CF314 to CF317 and CF319: keys of the DeepSpeed file that DeepSpeed 0.19 does not have, or no longer."""

from __future__ import annotations

import json
from collections.abc import Iterator

from crossfoot.checks.deepspeed.handed_over import (
    MONITORS,
    OFFLOADING,
    ON_THE_CPU,
    ZERO,
    is_off,
    why_left_out,
)
from crossfoot.checks.deepspeed.unknown_words import Unknown, unknown_entries
from crossfoot.checks.deepspeed.vocabulary import Entry, KeyPath, entries, vocabulary, zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Edit, Finding, Severity
from crossfoot.phrases import listed
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.known_keys import sections
from crossfoot.written.shown import shown

TOP = "at the top of the file"
OWNED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
OWNED_BLOCKS = {"optimizer": "the optimizer", "scheduler": "the learning rate"}


@rule("CF314", "error", "warning", "note", name="unknown-deepspeed-key")
def unknown_key(facts: Facts) -> Iterator[Finding]:
    """CF314: a key that DeepSpeed 0.19 does not have.

    At the top of the file, and inside the objects that DeepSpeed reads key by key (`checkpoint`,
    `data_types`, ...), an unknown key passes without a word and the default holds (a warning):
    `zero_optimisation` trains without ZeRO, which is an error in bfloat16 (CF311). Inside
    `zero_optimization`, `bf16` and `fp16` DeepSpeed stops at it, on every node (an error). In a block that is
    not handed over it is a note. The nearest key is one that takes such a value; it is looked for without
    regard to case, underscores and British spelling. A name that begins with `_`, `#` or `/` is taken for a
    comment at the top of the file. (lies J1, J2)
    """
    for unknown in _unknown(facts, "near", "wrapper", "nothing"):
        if unknown.meaning != "wrapper":
            nearest = unknown.names[0] if unknown.names else None
            yield _unknown_key(facts, unknown, nearest, *_consequence(facts, unknown, nearest))
        elif not set(unknown.names) <= set(MONITORS):  # which is CF331
            yield _wrapper(facts, unknown, *_consequence(facts, unknown, None))


def _wrapper(facts: Facts, unknown: Unknown, severity: Severity, note: str) -> Finding:
    deepspeed, entry = _file(facts), unknown.entry
    return Finding(
        "CF314",
        f"{entry.dotted} is not a key of DeepSpeed {vocabulary().version}, and nothing inside it counts",
        severity=severity,
        place=deepspeed.place(*entry.path, part="key"),
        notes=(note,),
        helps=(
            f"move {listed(unknown.names)} out of it, to the top of the file",
            f"or remove {entry.path[-1]}",
        ),
    )


def _unknown_key(
    facts: Facts, unknown: Unknown, nearest: str | None, severity: Severity, note: str
) -> Finding:
    deepspeed, entry = _file(facts), unknown.entry
    path = (*entry.path[:-1], nearest) if nearest else ()
    helps: tuple[str, ...] = (f"remove {entry.path[-1]}",)
    fix: tuple[Edit, ...] = ()
    if nearest and nearest in OWNED_BLOCKS and not entry.path[1:]:
        helps = (f"remove it: crossfoot owns {OWNED_BLOCKS[nearest]}",)
    elif nearest and nearest in OFFLOADING and entry.value is True:
        help_, fix = _in_a_block(deepspeed, entry, OFFLOADING[nearest])
        helps = (help_,)
    elif nearest and deepspeed.get(*path) is not None:
        helps = (f"the nearest key is {nearest}, which is written too: remove one of the two",)
    elif nearest:
        others = [name for name in unknown.names[1:] if deepspeed.get(*entry.path[:-1], name) is None]
        helps = (f"write {nearest}", *(f"or write {name}" for name in others))
        fix = deepspeed.renaming(*entry.path, name=nearest) if unknown.is_sure else ()
    return Finding(
        "CF314",
        f"{entry.dotted} is not a key of DeepSpeed {vocabulary().version}",
        severity=severity,
        place=deepspeed.place(*entry.path, part="key"),
        label="" if not nearest else f"{nearest}?",
        notes=(note,),
        helps=helps,
        fix=fix,
    )


def _consequence(facts: Facts, unknown: Unknown, nearest: str | None) -> tuple[Severity, str]:
    """What follows from an entry that DeepSpeed does not have in this place: severity, and a note."""
    entry, reason = unknown.entry, _why_left_out(facts, unknown.entry.path)
    if entry.value == "auto":
        reason = 'nobody fills in its "auto"'
    if reason and (nearest != "enabled" or entry.path[0] in MONITORS):
        return "note", f"it is not handed over: {reason}"
    if entry.block.reader == "model" and not reason:
        return "error", f"DeepSpeed stops at start-up: {entry.block.path} may have no other keys than its own"
    stage = zero_stage(facts.understood.values) if facts.understood is not None else None
    is_zero = any(path[0] == ZERO for path in unknown.meant) and not stage
    if is_zero and facts.run.config.model.dtype == "bfloat16":
        return "error", "DeepSpeed passes over it: the run would be ZeRO stage 0, which cannot train bfloat16"
    return "warning", _what_holds(facts, entry, nearest)


def _why_left_out(facts: Facts, path: KeyPath) -> str | None:
    return why_left_out(facts.understood.values, facts.run.config, path) if facts.understood else None


@rule("CF315", "error", "warning", "note")
def key_in_the_wrong_place(facts: Facts) -> Iterator[Finding]:
    """CF315: a key of DeepSpeed that stands in the wrong object of its file.

    `stage` counts inside `zero_optimization` only, `gradient_clipping` at the top of the file only. At the
    top such a key passes without a word and its default holds (a warning); inside an object that DeepSpeed
    reads strictly it stops the run (an error), unless that object is not handed over (a note). accelerate's
    words for the same settings (`zero_stage`, `offload_optimizer_device`) are of its own config, not of this
    file. (lies J1, J2)
    """
    for unknown in _unknown(facts, "elsewhere"):
        yield _misplaced(facts, unknown, *_consequence(facts, unknown, None))


def _misplaced(facts: Facts, unknown: Unknown, severity: Severity, note: str) -> Finding:
    deepspeed, entry = _file(facts), unknown.entry
    here = f"inside {entry.block.path}" if entry.block.path else TOP
    homes = [f"inside {'.'.join(home[:-1])}" if home[:-1] else TOP for home in unknown.homes]
    home = unknown.homes[0]
    fix: tuple[Edit, ...] = ()
    if deepspeed.get(*home) is not None:
        helps: tuple[str, ...] = (f"remove it here: {'.'.join(home)} is written too",)
        fix = deepspeed.removing(*entry.path) if deepspeed.get(*home) == entry.value else ()
    elif _why_left_out(facts, home):  # there it would count as little
        helps, fix = (f"remove {entry.path[-1]}",), deepspeed.removing(*entry.path)
    elif not home[:-1]:
        helps = (f"move it out of {entry.block.path}, to the top of the file",)
    else:
        text = json.dumps(entry.value, ensure_ascii=False)
        for key in reversed(home):
            text = f"{{{json.dumps(key)}: {text}}}"
        helps = (f"move it: {text[1:-1]}" if len(text) < 90 else f"move it {homes[0]}",)
    return Finding(
        "CF315",
        f"{entry.path[-1]} belongs {listed(homes, 'or')}, not {here}"
        if entry.path[-1] == home[-1]
        else f"{entry.path[-1]} is accelerate's word for {'.'.join(home)}",
        severity=severity,
        place=deepspeed.place(*entry.path, part="key"),
        notes=(note,),
        helps=helps,
        fix=fix,
    )


@rule("CF316", "error", "warning")
def foreign_key(facts: Facts) -> Iterator[Finding]:
    """CF316: a key of transformers, accelerate or of the run config in the DeepSpeed file.

    DeepSpeed passes over it without a word, so its number counts nowhere: the batch, the rate and the length
    of a run are said in the run config. When the run config says the same, the key only misleads (a warning);
    when it says another batch, rate, precision or length, a person believes in a number that does not train.
    (lies J1, B10)
    """
    for unknown in _unknown(facts, "foreign"):
        deepspeed, entry, ours = _file(facts), unknown.entry, unknown.ours
        name = entry.path[-1]
        if ours in sections():
            title = f"{name} is a section of the run config, and not a key of DeepSpeed"
            yield Finding(
                "CF316",
                title,
                severity="warning",
                place=deepspeed.place(name, part="key"),
                notes=("DeepSpeed passes over it without a word",),
                helps=(f"move it to the run config, and remove {name} here",),
            )
            continue
        section, _, key = ours.partition(".")
        value = getattr(getattr(facts.run.config, section, None), key, None)
        is_same = entry.value == "auto" or _as_said(entry.value) == _as_said(value)
        counts = section in ("batch", "lr", "optimizer", "train") or ours == "model.dtype"
        asked = (
            f"the run config says {ours}: {shown(value)}"
            if value is not None
            else f"{ours} is left out there"
        )
        yield Finding(
            "CF316",
            f"{name} {shown(entry.value)} is not a key of DeepSpeed; it belongs in the run config, as {ours}",
            severity="error" if counts and not is_same else "warning",
            place=deepspeed.place(name, part="key"),
            others=((facts.run.place(ours), "this is what counts"),) if facts.run.is_written(ours) else (),
            notes=(f"DeepSpeed passes over it without a word; {asked}",),
            helps=(f"remove {name} here", *(() if is_same else (f"or set {ours} there to what you want",))),
            fix=deepspeed.removing(name) if is_same else (),
        )


_PRECISION_WORDS = {"bf16": "bfloat16", "fp16": "float16", "no": "float32"}


def _as_said(value: object) -> object:
    """A value however it is written: numbers as numbers, precisions by our names."""
    word = str(value)
    try:
        return float(word)
    except ValueError:
        return _PRECISION_WORDS.get(word, word)


@rule("CF317", "error", "warning", "note")
def former_key(facts: Facts) -> Iterator[Finding]:
    """CF317: a key of an older DeepSpeed, whose feature is gone.

    DeepSpeed 0.19 stops at start-up when one of them is only there, even with `"enabled": false`: `amp`,
    `compression_training`, `curriculum_learning` (at the top), `eigenvalue`, `elasticity`,
    `graph_harvesting`, `nebula`, `progressive_layer_drop`, `quantize_training`, `sparse_attention`,
    `sparse_gradients`; and inside `zero_optimization` MiCS and LoCo. One that is off is left out of what
    crossfoot hands over (a note). `fp32_allreduce` is passed over without a word. None of them may change a
    run behind crossfoot's back anyway: batch, data, order and precision are the run config's. (lies J1, J7)
    """
    version = vocabulary().version
    for unknown in _unknown(facts, "refused", "former"):
        deepspeed, entry = _file(facts), unknown.entry
        severity: Severity = "warning" if entry.value else "note"
        if unknown.meaning == "refused":
            severity = "note" if is_off(entry.value) else "error"
            notes = [f"DeepSpeed {version} stops at start-up when the key is there, on or off"]
            if severity == "note":
                notes = [f"it is off and not handed over; DeepSpeed {version} alone would stop at it"]
            helps = [f"remove {entry.path[-1]}", *_INSTEAD.get(entry.path[-1], ())]
        else:
            today = vocabulary().no_longer_read[entry.path[-1]]
            notes = [f"DeepSpeed {version} passes over it without a word"]
            helps = [f"remove it, or write {today}" if entry.value else f"remove {entry.path[-1]}"]
        yield Finding(
            "CF317",
            f"{entry.dotted} is a key of older versions, and DeepSpeed {version} no longer has it",
            severity=severity,
            place=deepspeed.place(*entry.path, part="key"),
            notes=tuple(notes),
            helps=tuple(helps),
            fix=deepspeed.removing(*entry.path) if is_off(entry.value) else (),
        )


_INSTEAD = {
    "amp": ("model.dtype decides the precision",),
    "elasticity": ("the batch of the run config is kept on any number of GPUs",),
}


@rule("CF319", "error", "warning")
def deprecated_key(facts: Facts) -> Iterator[Finding]:
    """CF319: an old name of a setting, or two names of one setting.

    Old names still work, and DeepSpeed is handed the new ones (a warning): `cpu_offload: true` is
    `offload_optimizer: {"device": "cpu"}`. DeepSpeed stops when the new name is there too. Many ZeRO settings
    have two valid names (`stage3_prefetch_bucket_size` and `prefetch_bucket_size`): one of them may be used.
    `cpu_offload_use_pin_memory` is accepted and does nothing. `bfloat16` is read when there is no `bf16`.
    """
    deepspeed, handed = facts.deepspeed, facts.handed_over
    if deepspeed is None or handed is None:
        return
    for entry in entries(deepspeed.values):
        if entry.key is None or entry.value == "auto":
            continue
        twin = entry.key.same_as or entry.key.deprecated
        if entry.path == ("bfloat16",) and "bf16" in deepspeed.values:
            twin = "bf16"
        if twin is not None and _is_there(deepspeed, (*entry.path[:-1], twin)):
            yield _two_names(deepspeed, entry, twin, stops=handed.get(*entry.path) is not None)
        elif entry.key.deprecated is not None:
            yield _old_name(deepspeed, entry, entry.key.deprecated)


def _two_names(deepspeed: DeepSpeedFile, entry: Entry, twin: str, stops: bool) -> Finding:
    return Finding(
        "CF319",
        f"{entry.dotted} and {twin} are two names of one setting",
        severity="error" if stops else "warning",
        place=deepspeed.place(*entry.path, part="key"),
        others=((deepspeed.place(*entry.path[:-1], twin, part="key"), "here too"),),
        notes=("DeepSpeed stops when both are there" if stops else f"{twin} alone is handed over",),
        helps=(f"remove {entry.path[-1]}",),
        fix=deepspeed.removing(*entry.path),
    )


def _old_name(deepspeed: DeepSpeedFile, entry: Entry, today: str) -> Finding:
    old = entry.path[-1]
    renames = entry.key is not None and entry.key.moves and (old not in OFFLOADING or bool(entry.value))
    fix = deepspeed.renaming(*entry.path, name=today) if renames else deepspeed.removing(*entry.path)
    help_ = f"write {today}" if renames else f"remove {old}"
    if renames and old in OFFLOADING:
        help_, fix = _in_a_block(deepspeed, entry, today)
    return Finding(
        "CF319",
        f"{entry.dotted} is an old name of {today}",
        severity="warning",
        place=deepspeed.place(*entry.path, part="key"),
        notes=() if renames else ("DeepSpeed accepts it, and nothing follows from it",),
        helps=(help_,),
        fix=fix,
    )


def _in_a_block(deepspeed: DeepSpeedFile, entry: Entry, name: str) -> tuple[str, tuple[Edit, ...]]:
    """The help and the fix that make a block of an old switch of offloading."""
    block = json.dumps(dict(ON_THE_CPU))
    renaming = deepspeed.renaming(*entry.path, name=name)
    return f'write "{name}": {block}', (*renaming, *deepspeed.replacing(*entry.path, text=block))


def _is_there(deepspeed: DeepSpeedFile, path: tuple[str, ...]) -> bool:
    around = deepspeed.get(*path[:-1]) if path[:-1] else deepspeed.values
    return isinstance(around, dict) and path[-1] in around and around[path[-1]] != "auto"


def _unknown(facts: Facts, *meanings: str) -> Iterator[Unknown]:
    if facts.deepspeed is not None:
        for unknown in unknown_entries(facts.deepspeed.values):
            if unknown.meaning in meanings:
                yield unknown


def _file(facts: Facts) -> DeepSpeedFile:
    if facts.deepspeed is None:
        raise RuntimeError("no DeepSpeed file")
    return facts.deepspeed


def _what_holds(facts: Facts, entry: Entry, nearest: str | None) -> str:
    """With a key that DeepSpeed passes over, when the nearest one is not written either."""
    passes = "DeepSpeed passes over it without a word"
    key = entry.block.keys.get(nearest) if nearest else None
    if key is None or nearest is None or _is_there(_file(facts), (*entry.path[:-1], nearest)):
        return passes
    if nearest in OWNED:
        return f"{passes}; crossfoot writes {nearest} itself"
    if nearest == ZERO:
        return f"{passes}: the run would be ZeRO stage 0, without sharding"
    if key.kind == "object":
        return f"{passes}, and nothing inside it counts"
    return f"{passes}: {nearest} stays {shown(key.default)}" if key.has_default else passes
