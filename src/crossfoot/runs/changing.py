"""What may change between two attempts at a run, what may not, and what may when it is said on purpose.

Step k is a function of the data, the seed, the global batch and `data.last_step`. As long as those stay, the
steps after a checkpoint hold exactly the samples that were not trained before it, on any topology. So they
are never changed, but for a batch that changes behind the samples that are trained: every step that is done
stays as it is. What only decides how a step moves the weights (rates, length, the optimizer's numbers,
precision) is the same run in name only when it changes: it is refused with both values, can be allowed with
`--allow KEY`, and the receipt says so. Where and how fast a step is computed is nobody's promise.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from crossfoot.arithmetic.batch import GLOBAL, Thresholds, batches_from, batches_written
from crossfoot.findings.finding import Finding, Refused
from crossfoot.runs.attempts import Change
from crossfoot.runs.findings import bad_allow, changed_since, never_changes
from crossfoot.runs.mixture_change import mixture_change
from crossfoot.shell_words import quoted
from crossfoot.written.known_keys import sections
from crossfoot.written.run_file import RunFile

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
    run: RunFile,
    before: tuple[int, Mapping[str, Any]],
    now: Mapping[str, Any],
    allow: Sequence[str] = (),
    *,
    trained_samples: int = 0,
    is_past_kept: bool = False,
) -> tuple[Change, ...]:
    """Hold the plan of a new attempt against the lock in force. Returns the changes that were allowed.

    before: from `lock_in_force`. now: the lock of the new plan. allow: keys given on the command line.
    trained_samples: of the steps that are done. is_past_kept: in the new plan these are the same steps, so
    that the batch may be another one behind them. Raises Refused with every difference that is neither free
    nor allowed, and every word of `allow` that cannot be.
    """
    attempt, lock = before
    findings = [*refusals_of_allow(allow)]
    allowed = []
    differences = changes(lock, now)
    explained = any(change.key in NEVER or change.key.startswith("train.") for change in differences)
    for change in differences:
        is_later_batch = change.key == GLOBAL and None not in (change.before, change.now)
        if is_later_batch and is_past_kept:
            allowed.append(change)
        elif (why := NEVER.get(change.key)) is not None:
            helps = _from_here(change, trained_samples) if is_later_batch else ()
            findings.append(never_changes(run, change, attempt, why, helps=helps))
        elif change.key in allow:
            allowed.append(change)
        else:
            why = ALLOWABLE.get(change.key, "it is not known what this key changes")
            findings.append(changed_since(run, change, attempt, why))
    if not explained and not _same(lock, now, ("plan", "batches_sha256")):  # the program deals otherwise
        shas = (str(_at(side, "plan", "batches_sha256"))[:12] for side in (lock, now))
        findings.append(never_changes(run, Change("batches_sha256", *shas), attempt, _OTHER_STEPS))
    if findings:
        raise Refused(findings)
    return tuple(allowed)


def batches_of(lock: Mapping[str, Any]) -> Thresholds | None:
    """The batch that a lock plans; None where a step is measured in tokens."""
    batch = _batch(lock)
    return None if batch is None else _pairs(batch)


def _pairs(batch: Any) -> Thresholds:
    """Of what `_batch` gives."""
    return ((0, batch),) if isinstance(batch, int) else tuple((first, size) for first, size in batch)


def _from_here(change: Change, trained_samples: int) -> tuple[str, ...]:
    """How the batch can be changed behind the samples that are trained; nothing before the first is."""
    later = batches_from(_pairs(change.before), _pairs(change.now), trained_samples)
    if not trained_samples or later == _pairs(change.before):
        return ()
    word = quoted(f"{GLOBAL}={batches_written(later)}")
    return (f"or change it behind the {trained_samples:,} samples that are trained: {word}",)


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
        findings.append(bad_allow(key, near, ALLOWABLE, NEVER.get(key)))
    return findings


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
