"""From the words of another trainer to the keys of a run config: each becomes a line, or is left with why."""

from __future__ import annotations

from types import MappingProxyType

from crossfoot.importing.carried import Carried, Carrying, Entry
from crossfoot.importing.datasets import DATA_KEYS, DataFiles, data_files
from crossfoot.importing.recipe import Recipe, as_text, origin, read_value
from crossfoot.importing.ways import WAYS, by_the_table


def carry(recipe: Recipe) -> Carried:
    """All of it: every key becomes an entry or is left with its reason."""
    carrying = Carrying(recipe)
    for given in recipe.given.values():
        if not given.is_known:
            carrying.leave(given, "the file does not say which", _saying(carrying.our_key(given)))
        elif given.key not in DATA_KEYS:
            WAYS.get(given.key, by_the_table)(carrying, given)
    files = data_files(recipe)
    _files(carrying, files)
    _defaults(carrying)
    _together(carrying)
    return Carried(MappingProxyType(carrying.entries), tuple(carrying.left))


def _files(carrying: Carrying, found: DataFiles) -> None:
    for path, text, given in (
        ("data.train", found.train_text, found.train_given),
        ("data.validation", as_text(list(found.validation)), found.validation_given),
    ):
        if given is not None and text != "[]":
            carrying.put(path, text, given)
    for given, why, help_, trains in found.left:
        carrying.leave(given, why, help_, trains)


def _saying(path: str) -> str:
    return f"say it behind the file: {path}=VALUE" if path else ""


def _defaults(carrying: Carrying) -> None:
    """What that trainer takes by itself."""
    recipe, entries = carrying.recipe, carrying.entries
    stack, is_lora = recipe.stack, carrying.trains_lora
    stated = {carrying.our_key(left.given): left.given for left in carrying.left if left.trains}
    for path, default in stack.defaults.items():
        is_beside = path == "train.epochs" and "train.max_steps" in entries
        if path not in entries and not is_beside and (is_lora or not path.startswith("lora.")):
            said = f"default of {default.by or stack.version}: {default.key}"
            given = stated.get(path)
            lost = f"{origin(given.place)} {given.key} not carried over; " if given else ""
            entries[path] = Entry(default.value, lost + said)
    if stack.name == "llamafactory" and is_lora and "lora.alpha" not in entries:
        rank = read_value(entries["lora.r"].value)
        twice = str(2 * rank) if isinstance(rank, int) else "16"
        entries["lora.alpha"] = Entry(twice, f"default of {stack.version}: twice lora_rank")
    if stack.name == "axolotl" and not any(path.startswith("lr.warmup") for path in entries):
        entries["lr.warmup_fraction"] = Entry("0.03", f"default of {stack.version}: at most 100 steps of it")
    if recipe.is_pretraining:
        entries.setdefault("data.task", Entry("pretrain", recipe.program))


def _together(carrying: Carrying) -> None:
    """Keys that have an effect only beside others."""
    entries = carrying.entries
    if "data.validation" not in entries:
        _take_back(carrying, "validation.every_steps", "there is no file for validation")
    if "validation.every_steps" not in entries:
        _take_back(carrying, "validation.patience", "there is no validation during the run")
    if "tracking.wandb" not in entries:
        _take_back(carrying, "tracking.project", "tracking.wandb is off: nothing says wandb")
    for path in tuple(entries):
        if path.startswith("lora.") and not carrying.trains_lora:
            _take_back(carrying, path, "all weights are trained, there too")
    schedule = entries.get("lr.schedule")
    if schedule is not None and schedule.given is not None and schedule.given.text == "constant":
        for path in ("lr.warmup_steps", "lr.warmup_fraction"):
            _take_back(carrying, path, "transformers' constant has no warm-up; constant_with_warmup has")
    if "lr.warmup_steps" in entries:
        _take_back(carrying, "lr.warmup_fraction", "warmup_steps counts, there too")


def _take_back(carrying: Carrying, path: str, why: str) -> None:
    entry = carrying.entries.pop(path, None)
    if entry is not None and entry.given is not None:
        carrying.leave(entry.given, why, trains=False)
