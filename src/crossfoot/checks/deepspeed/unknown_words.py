"""What a key that DeepSpeed does not have was probably meant to be: one answer for each, so that one mistake
gives one finding.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal

from crossfoot.checks.deepspeed.refused_parts import is_refused_whole
from crossfoot.checks.deepspeed.values import FALSE_WORDS, TRUE_WORDS
from crossfoot.checks.deepspeed.vocabulary import Entry, Key, KeyPath, entries, vocabulary
from crossfoot.written.foreign_keys import ELSEWHERE
from crossfoot.written.known_keys import sections

FOREIGN: Mapping[str, str] = MappingProxyType(
    {
        **ELSEWHERE,
        "max_grad_norm": "optimizer.max_grad_norm",
        "weight_decay": "optimizer.weight_decay",
        "adam_epsilon": "optimizer.eps",
        "betas": "optimizer.betas",
        "lr": "lr.reference",
        "warmup_steps": "lr.warmup_steps",
        "max_steps": "train.max_steps",
        "epochs": "train.epochs",
        "gradient_checkpointing": "model.gradient_checkpointing",
        "mixed_precision": "model.dtype",
        "num_machines": "cluster.num_nodes",
        "num_nodes": "cluster.num_nodes",
        "gpus_per_node": "cluster.gpus_per_node",
        "micro_batch_size": "batch.micro_batch_size",
        "grad_accum_steps": "batch.grad_accum_steps",
        "global_batch_size": "batch.global_batch_size",
        "max_seq_len": "data.max_seq_len",
        "seed": "run.seed",
    }
)
"""Words of transformers, of accelerate and of ours: their place in the run config."""

THEIR_HOMES: Mapping[str, KeyPath] = MappingProxyType(
    {
        # accelerate's own words for what stands in a DeepSpeed file (its deepspeed_config section).
        "zero_stage": ("zero_optimization", "stage"),
        "offload_optimizer_device": ("zero_optimization", "offload_optimizer", "device"),
        "offload_param_device": ("zero_optimization", "offload_param", "device"),
        "zero3_save_16bit_model": ("zero_optimization", "stage3_gather_16bit_weights_on_model_save"),
    }
)

NEAR, ALIKE, SAME_WORD, MOST_HOMES = 0.75, 0.85, 0.6, 3
SHORT = 2
_WORDS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])")
MOST_UNKNOWN = 50
"""A file with more keys that DeepSpeed does not have is no DeepSpeed file; the rest is not looked at."""

Meaning = Literal["comment", "refused", "former", "foreign", "elsewhere", "near", "wrapper", "nothing"]


@dataclass(frozen=True)
class Unknown:
    """An entry that DeepSpeed does not have.

    meaning: comment (of a person), refused and former (older versions had it), foreign (`ours` is its place
    in the run config), elsewhere (`homes` are its paths in this file), near (`names` are the nearest keys of
    the same object, nearest first; is_sure: there is no other candidate), wrapper (an object around `names`,
    keys of the top of the file), nothing. What is suggested takes the kind of value that is written.
    """

    entry: Entry
    meaning: Meaning
    names: tuple[str, ...] = ()
    homes: tuple[KeyPath, ...] = ()
    ours: str = ""
    is_sure: bool = False

    @property
    def meant(self) -> tuple[KeyPath, ...]:
        """Paths that it was probably meant to be."""
        near = ((*self.entry.path[:-1], name) for name in self.names[:1] if self.meaning == "near")
        return (*self.homes, *near, *((name,) for name in self.names if self.meaning == "wrapper"))


def unknown_entries(values: Mapping[str, Any]) -> Iterator[Unknown]:
    """The entries that DeepSpeed 0.19 does not have, with what was probably meant: the first 50."""
    unknown = (entry for entry in entries(values) if entry.key is None)
    told = (entry for entry in unknown if not is_refused_whole(values, entry.path))
    for entry in islice(told, MOST_UNKNOWN):
        around = _value_at(values, entry.path[:-1])
        yield _diagnose(entry, frozenset(around) - {entry.path[-1]})


def is_meant(values: Mapping[str, Any], path: KeyPath) -> bool:
    """Whether an entry that DeepSpeed does not have was probably meant to be `path`, or something in it."""
    return any(place[: len(path)] == path for unknown in unknown_entries(values) for place in unknown.meant)


def _diagnose(entry: Entry, written: frozenset[str]) -> Unknown:
    words, name, block = vocabulary(), entry.path[-1], entry.block
    at_top = block.path == ""
    if name in words.refused.get(block.path, ()):
        return Unknown(entry, "refused")
    if at_top and name in words.no_longer_read:
        return Unknown(entry, "former")
    if at_top and (name[:1] in "_#/$" or name.lower() in ("comment", "comments", "description")):
        return Unknown(entry, "comment")
    fitting = {key: kind for key, kind in block.keys.items() if _takes(kind, entry.value)}
    same = [key for key in fitting if _plainly(key) == _plainly(name)]
    if same:
        return Unknown(entry, "near", names=tuple(same), is_sure=same[0] not in written)
    if at_top and name in THEIR_HOMES:
        return Unknown(entry, "elsewhere", homes=(THEIR_HOMES[name],))
    wrapped = _own_keys(entry.value, words.blocks[""].keys)
    if at_top and isinstance(entry.value, dict) and name in sections() and not wrapped:
        return Unknown(entry, "foreign", ours=name)
    if at_top and name in FOREIGN and not isinstance(entry.value, dict):
        return Unknown(entry, "foreign", ours=FOREIGN[name])
    homes = [home for home in words.homes(name) if _takes(_key_at(home), entry.value)]
    if name == "allgather_size":  # of the form before zero_optimization was an object
        homes = []
    if 0 < len(homes) <= MOST_HOMES:
        return Unknown(entry, "elsewhere", homes=tuple(homes))
    near = nearest(name, fitting)
    if near:
        free = [key for key in near if key not in written]
        is_sure = len(free) == 1 and _likeness(name, free[0]) >= ALIKE
        return Unknown(
            entry, "near", names=(*free, *(key for key in near if key in written)), is_sure=is_sure
        )
    return Unknown(entry, "wrapper", names=wrapped) if wrapped else Unknown(entry, "nothing")


def _takes(key: Key, value: Any) -> bool:
    """Whether a key may have a value of this kind: a number, a switch, text, an object of its own keys."""
    if key.kind == "any" or value is None or (value == "auto" and key.kind != "object"):
        return True
    if key.kind != "object":
        is_switch = isinstance(value, bool) or str(value).lower() in (*TRUE_WORDS, *FALSE_WORDS)
        fits = {"bool": is_switch, "string": isinstance(value, str), "list": isinstance(value, list)}
        return fits.get(key.kind, isinstance(value, (int, float, str)) and not isinstance(value, bool))
    block = vocabulary().blocks.get(key.block or "")
    if not isinstance(value, dict) or not value or block is None or block.reader == "open":
        return isinstance(value, dict) or (isinstance(value, bool) and block is not None)
    return bool(_own_keys(value, block.keys))


def _own_keys(value: Any, known: Mapping[str, Key]) -> tuple[str, ...]:
    """Those of an object's keys that are `known`, when they are the half of them or more."""
    own = tuple(key for key in value if key in known) if isinstance(value, dict) else ()
    return own if own and 2 * len(own) >= len(value) else ()


def _key_at(path: KeyPath) -> Key:
    return vocabulary().blocks[".".join(path[:-1])].keys[path[-1]]


def nearest(name: str, known: Mapping[str, Any]) -> list[str]:
    """The keys of `known` that look like `name`, the likest first: camelCase, British spelling and slips.
    One of which a whole word is another one is none of them.
    """
    plain = {_plainly(key): key for key in reversed(list(known))}
    close = difflib.get_close_matches(_plainly(name), plain, n=3, cutoff=NEAR)
    return [plain[key] for key in close if _has_every_word(plain[key], name)]


def _has_every_word(key: str, name: str) -> bool:
    words = [word for word in _WORDS.split(name) if len(word) > SHORT]
    return all(difflib.get_close_matches(_plainly(word), key.split("_"), cutoff=SAME_WORD) for word in words)


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, _plainly(one), _plainly(other)).ratio()


def _plainly(name: str) -> str:
    """`zeroOptimisation` and `zero_optimization` are one word."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).replace("optimis", "optimiz")


def _value_at(values: Mapping[str, Any], path: KeyPath) -> Mapping[str, Any]:
    for key in path:
        values = values[key]
    return values
