"""What may change between two attempts at a run, what may not, and what may when it is said on purpose.

Step k is a function of the data, the seed, the global batch and `data.last_step`. As long as those stay, the
steps after a checkpoint hold exactly the samples that were not trained before it, on any topology. So they
are never changed. What only decides how a step moves the weights (rates, length, the optimizer's numbers,
precision) is the same run in name only when it changes: it is refused with both values, can be allowed with
`--allow KEY`, and the receipt says so. Where and how fast a step is computed is nobody's promise.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.runs.attempts import Change
from crossfoot.runs.mixture_change import mixture_change
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.known_keys import sections
from crossfoot.written.overriding import another_run_dir
from crossfoot.written.run_file import RunFile
from crossfoot.written.shown import shown

_OTHER_STEPS = (
    "which samples a step holds follows from it: steps after the checkpoint would repeat and miss some"
)
_OTHER_SHAPE = "the checkpoint holds tensors of the old shape, and they mean nothing in the new one"

NEVER: Mapping[str, str] = {
    **dict.fromkeys(
        ("run.seed", "data.train", "data.validation", "data.last_step", "data.bad_samples"),
        _OTHER_STEPS,
    ),
    **dict.fromkeys(("batch.global_batch_size", "batch.target_trained_tokens"), _OTHER_STEPS),
    **dict.fromkeys(
        (
            *("data.task", "data.template", "data.system_prompt", "data.train_on", "data.columns"),
            *("data.max_seq_len", "data.over_long", "data.special_text", "tokenizer.path"),
        ),
        "the samples would be other tokens than those that were trained",
    ),
    **dict.fromkeys(
        (
            "lora",
            *map(
                "lora.{}".format,
                ("r", "dora", "target_modules", "modules_to_save", "trainable_token_indices"),
            ),
        ),
        _OTHER_SHAPE,
    ),
    **dict.fromkeys(
        ("lora.alpha", "lora.scaling"),
        "what the adapter has learned would count more, or less, all at once",
    ),
    **dict.fromkeys(
        ("model.adapter", "model.adapter_use", "model.quantization", "lora.init"),
        "the run would stand on other weights than it was trained on",
    ),
    "optimizer.name": "the checkpoint holds the state of the old optimizer, and the new one needs its own",
}
"""Keys that make another run of it, and why. Data, tokenizer, batch and length are compared by what they come
to, not by how they are written: the same files may lie elsewhere, and files of data.validation may change.
"""

ALLOWABLE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *(f"lr.{key}" for key in ("reference", "reference_batch", "rule", "schedule", "min_ratio")),
            *(f"lr.{key}" for key in ("warmup_steps", "warmup_fraction", "warmup_samples")),
            *(f"lr.{key}" for key in ("cycles", "decay_fraction", "decay_shape", "groups")),
        ),
        "the rate would jump at the step where the run continues",
    ),
    **dict.fromkeys(
        ("train.epochs", "train.max_steps"),
        "the rate's schedule ends with the run, so later rates change too",
    ),
    **dict.fromkeys(
        (
            f"optimizer.{key}"
            for key in ("betas", "beta2_reference_batch", "eps", "weight_decay", "max_grad_norm")
        ),
        "the optimizer would make other updates of the same gradients",
    ),
    "model.dtype": "forwards would be rounded otherwise; the trained weights stay float32 in the checkpoint",
    "model.path": "frozen weights are not in the checkpoint: allow it when the same weights lie there",
    "lora.dropout": "the model would be trained with another regularisation",
}
"""Keys that may be changed with --allow, and what that does."""

FREE: frozenset[str] = frozenset(
    (
        *("run.name", "run.dir", "model.attention", "model.gradient_checkpointing"),
        *("model.matmul", "model.kernels", "train.noise_scale_every_steps"),
        *(
            "data.layout",
            "data.index_dir",
            "data.ignored_fields",
            "batch.micro_batch_size",
            "batch.micro_batch_tokens",
            "batch.grad_accum_steps",
        ),
        *("cluster", "deepspeed", "validation", "evaluation", "tracking", "checkpoint", "faults", "checks"),
    )
)
"""Keys, and whole sections, that may change as they like: where a step is computed, how fast, what is
shown.
"""

_BY_CONTENT = (
    "data.train",
    "data.task",
    "data.template",
    "data.system_prompt",
    "data.train_on",
    "data.columns",
    "data.max_seq_len",
    "data.over_long",
    "data.bad_samples",
    "data.special_text",
    "tokenizer.path",
)
_RATE = (
    *(
        ("plan", "learning_rate", key)
        for key in (
            "peak",
            "peaks",
            "schedule",
            "min_ratio",
            "cycles",
            "decay_steps",
            "decay_shape",
            "group_peaks",
        )
    ),
    ("plan", "warmup_steps"),
)
_HELD_OUT = ("plan", "held_out_samples")
"""Of the same index the same contents, however that part is written."""
_UNORDERED = ("lora.target_modules", "lora.modules_to_save")


@rule_docs("CF743")
def changed_since(run: RunFile, change: Change, attempt: int) -> Finding:
    """CF743: a run is to be continued with another value than it was trained with so far.

    The rates, the length of the run, the optimizer's numbers and the precision belong to the plan that the
    receipt is held against. One that changes unnoticed makes a curve that nobody can explain later. Write the
    old value back, and the run is the one that was planned; or say `--allow KEY` for exactly this key, and
    the change is written into attempt.json and shown by every receipt of this run. Topology, micro batch,
    accumulation, ZeRO stage, engine and everything else that does not touch the weights needs no allowing.
    """
    key = change.key
    now, before = shown(change.now, whole=True), shown(change.before, whole=True)
    return Finding(
        "CF743",
        f"{key} is {now}, and the run was trained with {before} so far",
        place=_place(run, key),
        label=f"attempt {attempt} had {before}",
        notes=(ALLOWABLE.get(key, "it is not known what this key changes"),),
        helps=(
            f"write {before} back" if change.before is not None else f"remove {key}",
            f"or change it on purpose: --allow {key} (the receipt says so)",
        ),
    )


@rule_docs("CF744")
def bad_allow(key: str, near: Sequence[str], why: str | None = None) -> Finding:
    """CF744: --allow was given a word that is no key of the config that may be changed on purpose.

    It takes one key, exactly as in the config with dots: `--allow lr.reference`. Give it once for each key.
    Data, seed, global batch and the shape of the adapter cannot be allowed (CF745).
    """
    if why is not None:
        return Finding(
            "CF744",
            f"--allow {key}: it can never be changed between attempts",
            place=Place(COMMAND_LINE),
            notes=(why,),
            helps=(f"leave out --allow {key}",),
        )
    return Finding(
        "CF744",
        f"--allow {shown(key)} names no key that may be changed on purpose",
        place=Place(COMMAND_LINE),
        helps=(f"the nearest is {near[0]}",) if near else (f"keys that may be: {', '.join(ALLOWABLE)}",),
    )


@rule_docs("CF745")
def never_changes(run: RunFile, change: Change, attempt: int, why: str, title: str | None = None) -> Finding:
    """CF745: a value was changed that makes it another run, and that cannot be allowed.

    Data, seed, global batch and what becomes of an epoch's last step decide which samples each step holds.
    With another of them, the steps after the checkpoint would train some samples again and leave others out,
    and no receipt could say otherwise. The shape of the adapter and the kind of optimizer decide what the
    tensors of the checkpoint mean. A run with other ones is another run: train it into a folder of its own.
    Files are compared by content: data and tokenizer may lie in another place.
    """
    now, before = shown(change.now, whole=True), shown(change.before, whole=True)
    return Finding(
        "CF745",
        title or f"{change.key} is {now}, and a run that was trained with {before} cannot be continued so",
        place=_place(run, change.key),
        label=f"attempt {attempt} had {before}",
        notes=(why,),
        helps=(
            f"write {before} back" if change.before is not None else f"remove {change.key}",
            f"or train another run: {another_run_dir(run.run_dir)}",
        ),
    )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """Everything that is not free to change and differs between two locks, in the order of the config's keys.

    Keys that the older lock does not know did not exist when it was written, and are passed over.
    """
    found = {change.key: change for change in _written_changes(before["config"], now["config"])}
    written = {key: found.pop(key) for key in _BY_CONTENT if key in found}
    if not _same(before, now, ("index", "address")):
        written.pop("data.train", None)
        found |= written
        if _sources(before) != _sources(now):
            files = Change("data.train", _named_sources(before), _named_sources(now))
            found[files.key] = files
        elif not written:  # the same files, read in the same way, make other tokens
            addresses = (f"index {_at(lock, 'index', 'address')}" for lock in (before, now))
            found["tokenizer.path"] = Change("tokenizer.path", *addresses)
    found.pop("data.validation", None)
    if _same(before, now, ("index", "address")) and not _same(before, now, _HELD_OUT):
        found["data.validation"] = Change("data.validation", *map(_validation, (before, now)))
    if not found.keys() & {"data.train", "data.validation"} and (mixture := mixture_change(before, now)):
        found[mixture.key] = mixture
    found.pop("model.adapter", None)
    if not _same(before, now, ("adapter",)):
        found["model.adapter"] = Change("model.adapter", _named_adapter(before), _named_adapter(now))
    for key, commit in (_at(now, "commits") or {}).items():
        if (was := _at(before, "commits", key)) not in (None, commit) and key not in found:
            path = _at(now, "config", *key.split("."))
            found[key] = Change(key, f"{path} ({was[:7]})", f"{path} ({commit[:7]})")
    if _same(before, now, *_RATE):
        _forget(found, "lr.")
    if _same(before, now, ("plan", "total_steps"), ("plan", "batches_sha256")):
        _forget(found, "train.")
    batch = Change("batch.global_batch_size", *map(_batch, (before, now)))
    found.pop(batch.key, None)
    if batch.before != batch.now:
        found[batch.key] = batch
    return tuple(sorted(found.values(), key=lambda change: _order().index(change.key)))


def hold_against(
    run: RunFile, before: tuple[int, Mapping[str, Any]], now: Mapping[str, Any], allow: Sequence[str] = ()
) -> tuple[Change, ...]:
    """Hold the plan of a new attempt against the lock in force. Returns the changes that were allowed.

    before: from `lock_in_force`. now: the lock of the new plan. allow: keys given on the command line. Raises
    Refused with every difference that is neither free nor allowed, and every word of `allow` that cannot be.
    """
    attempt, lock = before
    findings = [*refusals_of_allow(allow)]
    allowed = []
    differences = changes(lock, now)
    explained = any(change.key in NEVER or change.key.startswith("train.") for change in differences)
    for change in differences:
        if (why := NEVER.get(change.key)) is not None:
            findings.append(never_changes(run, change, attempt, why))
        elif change.key in allow:
            allowed.append(change)
        else:
            findings.append(changed_since(run, change, attempt))
    if not explained and not _same(lock, now, ("plan", "batches_sha256")):  # the program deals otherwise
        shas = (str(_at(side, "plan", "batches_sha256"))[:12] for side in (lock, now))
        findings.append(never_changes(run, Change("batches_sha256", *shas), attempt, _OTHER_STEPS))
    if findings:
        raise Refused(findings)
    return tuple(allowed)


def refusals_of_allow(allow: Iterable[str]) -> list[Finding]:
    """What is wrong with the words given with --allow: keys that nobody knows, or that can never be allowed.
    A key that is free to change may be named.
    """
    findings = []
    for key in dict.fromkeys(allow):
        if key in ALLOWABLE or _is_free(key):
            continue
        near = difflib.get_close_matches(key, ALLOWABLE, n=1, cutoff=0.6)
        near = near or [known for known in ALLOWABLE if known.rpartition(".")[2] == key.rpartition(".")[2]]
        findings.append(bad_allow(key, near, NEVER.get(key)))
    return findings


@rule_docs("CF031", name="allow-without-continue")
def allow_without_continue(allow: Iterable[str]) -> Finding:
    """CF031: --allow was given for a run that begins, and there is nothing that it would allow.

    It names keys that may differ from those of the run that is continued. A run that begins has whatever its
    config says. Most often --continue was forgotten, or the run folder is another one.
    """
    keys = ", ".join(dict.fromkeys(allow))
    return Finding(
        "CF031",
        f"--allow {keys} means nothing here: no run is continued",
        place=Place(COMMAND_LINE),
        helps=("name the run with --continue RUN_DIR", "or leave out --allow"),
    )


def _written_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Differences between two configs as they are written, key by key, free ones left out."""
    found = []
    for section, value in now.items():
        if section in FREE or section not in before:
            continue
        old = before[section]
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            pairs = [(f"{section}.{key}", old[key], value[key]) for key in value if key in old]
        elif section == "tokenizer":  # the model's own, or one of its own
            pairs = [("tokenizer.path", *(side and side["path"] for side in (old, value)))]
        else:
            pairs = [(section, old, value)]
        for key, was, becomes in pairs:
            as_set = key in _UNORDERED
            if key not in FREE and (sorted(was) != sorted(becomes) if as_set else was != becomes):
                found.append(Change(key, was, becomes))
    return found


def _validation(lock: Mapping[str, Any]) -> Any:
    return _at(lock, "config", "data", "validation")


def _sources(lock: Mapping[str, Any]) -> list[str]:
    """sha256 of each data file, in order."""
    return [str(source["sha256"]) for source in _at(lock, "index", "sources") or ()]


def _named_sources(lock: Mapping[str, Any]) -> list[str]:
    """The data files with the first digits of their sha256."""
    return [f"{s['path']} ({str(s['sha256'])[:7]})" for s in _at(lock, "index", "sources") or ()]


def _named_adapter(lock: Mapping[str, Any]) -> str | None:
    """The adapter that a run starts from, with the first digits of its weights' sha256."""
    sha = _at(lock, "adapter", "weights_sha256")
    return f"{_at(lock, 'config', 'model', 'adapter')} ({str(sha)[:7]})" if sha else None


def _forget(found: dict[str, Change], prefix: str) -> None:
    """Drop the changes of a section: they come to the same numbers."""
    for key in [key for key in found if key.startswith(prefix)]:
        del found[key]


def _batch(lock: Mapping[str, Any]) -> Any:
    """Samples of a step: a number, or pairs where it changes; None where a step is measured in tokens."""
    plan = _at(lock, "plan")
    if _at(plan, "target_trained_tokens") is not None:
        return None
    return _at(plan, "batch_from_samples") or _at(plan, "global_batch_size")


def _at(lock: Mapping[str, Any], *keys: str) -> Any:
    value: Any = lock
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _same(before: Mapping[str, Any], now: Mapping[str, Any], *paths: tuple[str, ...]) -> bool:
    return all(_at(before, *path) == _at(now, *path) for path in paths)


@cache
def _order() -> tuple[str, ...]:
    """Every section and every key, in the order of the config."""
    every = ((section, *(f"{section}.{key}" for key in keys)) for section, keys in sections().items())
    return tuple(key for keys in every for key in keys)


def _is_free(key: str) -> bool:
    section, _, name = key.partition(".")
    inside = sections().get(section)
    if key in FREE:
        return True
    return section in FREE and inside is not None and (name in inside or not name)


def _place(run: RunFile, key: str) -> Place:
    """Where a key is written; the file, when it is none of the config's."""
    path = tuple(key.split("."))
    return run.place(*path) if path[0] in sections() else Place(run.path)
