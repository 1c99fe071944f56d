"""The keys that a run config may have, and the nearest one to a key that it may not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import get_args

from crossfoot.written.config import Config, Section

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "per_device_train_batch_size": "batch.micro_batch_size",
        "train_micro_batch_size_per_gpu": "batch.micro_batch_size",
        "gradient_accumulation_steps": "batch.grad_accum_steps",
        "train_batch_size": "batch.global_batch_size",
        "batch_size": "batch.micro_batch_size",
        "learning_rate": "lr.reference",
        "lr_scheduler_type": "lr.schedule",
        "warmup_ratio": "lr.warmup_fraction",
        "num_train_epochs": "train.epochs",
        "gradient_clipping": "optimizer.max_grad_norm",
        "model_name_or_path": "model.path",
        "tokenizer_name_or_path": "tokenizer.path",
        "torch_dtype": "model.dtype",
        "output_dir": "run.dir",
        "lora_rank": "lora.r",
        "lora_alpha": "lora.alpha",
        "lora_dropout": "lora.dropout",
        "trainable": "lora.target_modules",
        "block_size": "data.max_seq_len",
        "cutoff_len": "data.max_seq_len",
        "nnodes": "cluster.num_nodes",
        "nproc_per_node": "cluster.gpus_per_node",
    }
)
"""What Hugging Face, DeepSpeed and Chinese-LLaMA-Alpaca-2 call our keys."""

SURELY_MEANT = 0.88
"""Likeness (difflib's ratio) from which a misspelt key may be renamed without asking."""


@dataclass(frozen=True)
class Suggestion:
    """`path`: the key that was probably meant, dotted; `help`: the change to make. is_sure: it is another
    framework's word for it, or differs by a letter or two.
    """

    path: str
    help: str
    is_sure: bool = False


def section_type(annotation: object) -> type[Section] | None:
    """The section class inside `X` or `X | None`; None for a plain value."""
    for choice in (annotation, *get_args(annotation)):
        if isinstance(choice, type) and issubclass(choice, Section):
            return choice
    return None


@cache
def sections() -> Mapping[str, tuple[str, ...]]:
    """Every top-level key with the keys inside it; a plain value (`deepspeed`) has none."""
    found = {}
    for name, info in Config.model_fields.items():
        inside = section_type(info.annotation)
        found[name] = tuple(inside.model_fields) if inside else ()
    return MappingProxyType(found)


def is_known(path: tuple[str, ...]) -> bool:
    """Whether `path` names a section, or a key in it."""
    if len(path) == 1:
        return path[0] in sections()
    return len(path) == 2 and path[1] in sections().get(path[0], ())


def may_be_null(path: tuple[str, ...]) -> bool:
    """Whether null is a value of a known key: left out."""
    fields = Config.model_fields
    inside = section_type(fields[path[0]].annotation) if len(path) == 2 else None
    info = fields[path[0]] if inside is None else inside.model_fields[path[1]]
    return type(None) in get_args(info.annotation)


def suggest(path: tuple[str, ...], taken: Iterable[str] = ()) -> Suggestion | None:
    """The key most likely meant by an unknown `path`. `taken`: keys already written in that place."""
    section, name = path[0], path[-1]
    if name in ELSEWHERE:
        return Suggestion(ELSEWHERE[name], f"here it is called {ELSEWHERE[name]}", is_sure=True)
    if len(path) == 1:
        return _nearest("section", name, tuple(sections()), "", taken) or _elsewhere(name, None)
    if section not in sections():
        nearest = _nearest("section", section, tuple(sections()), "", ())
        if nearest is None or not is_known((nearest.path, *path[1:])):
            return nearest or _elsewhere(name, None)
        dotted = ".".join((nearest.path, *path[1:]))
        return Suggestion(dotted, f"write {dotted}")
    elsewhere = _elsewhere(name, section)
    if elsewhere and elsewhere.path.endswith(f".{name}"):
        return elsewhere
    return _nearest(f"key of {section}", name, sections()[section], f"{section}.", taken) or elsewhere


def _nearest(
    what: str, name: str, known: tuple[str, ...], prefix: str, taken: Iterable[str]
) -> Suggestion | None:
    """The most similar of `known`, one that is not written yet before one that is."""
    similar = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    similar += [key for key in known if len(name) > 2 and (name in key or (len(key) > 3 and key in name))]
    if not similar:
        return None
    written = set(taken)
    free = [key for key in similar if key not in written]
    if free:
        is_sure = difflib.SequenceMatcher(None, name, free[0]).ratio() >= SURELY_MEANT
        return Suggestion(prefix + free[0], f"the nearest {what} is {free[0]}", is_sure)
    return Suggestion(prefix + similar[0], f"the nearest {what} is {similar[0]}, which is written too")


def _elsewhere(name: str, section: str | None) -> Suggestion | None:
    """`name` in another section: the same word, then a similar one."""
    exact = [f"{other}.{name}" for other, keys in sections().items() if name in keys and other != section]
    if exact:
        homes = " or ".join(exact)
        return Suggestion(exact[0], f"{name} belongs to another section: write {homes}")
    everywhere = {key: other for other, keys in sections().items() for key in keys if other != section}
    close = difflib.get_close_matches(name, everywhere, n=1, cutoff=0.8)
    if not close:
        return None
    dotted = f"{everywhere[close[0]]}.{close[0]}"
    return Suggestion(dotted, f"the nearest key is {dotted}")
