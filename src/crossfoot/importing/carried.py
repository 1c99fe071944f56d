"""A recipe on its way into a run config: the lines that it becomes, and what is left with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crossfoot.importing.recipe import Given, Recipe, as_written, origin
from crossfoot.written.known_keys import counterpart
from crossfoot.written.yaml_tree import in_yaml


@dataclass(frozen=True)
class Entry:
    """A line of the run config. value: in YAML. origin: who says it. given: what it comes from."""

    value: str
    origin: str
    given: Given | None = None


@dataclass(frozen=True)
class Left:
    """Something that is not carried over. trains: without it something else is trained. help: what to do."""

    given: Given
    why: str
    help: str = ""
    trains: bool = True


@dataclass(frozen=True)
class Carried:
    """What became of a recipe. entries: by our key, dotted."""

    entries: Mapping[str, Entry]
    left: tuple[Left, ...]


NOT_YET: Mapping[tuple[str, str], tuple[str, str]] = {
    ("lr.schedule", "cosine_with_restarts"): ("cosine", "with one cycle, its default, it has no restart"),
    ("lr.schedule", "warmup_stable_decay"): ("wsd", "how long it decays is lr.decay_fraction"),
    ("lr.schedule", "cosine_with_min_lr"): ("cosine", "its floor is lr.min_ratio"),
    ("lr.schedule", "polynomial"): ("linear", "there is no polynomial decay"),
    ("lr.schedule", "inverse_sqrt"): ("cosine", "there is no inverse square root"),
    ("optimizer.name", "adamw_bnb_8bit"): ("adamw", "the optimizer's state is float32"),
    ("optimizer.name", "adamw_8bit"): ("adamw", "the optimizer's state is float32"),
    ("optimizer.name", "paged_adamw_8bit"): ("adamw", "the optimizer's state is float32"),
    ("optimizer.name", "paged_adamw_32bit"): ("adamw", "the optimizer's state is not paged"),
    ("optimizer.name", "adafactor"): ("adamw", "there is no adafactor"),
}
"""Our key and a value of it that is not there yet -> the nearest that is, and why. A line goes when it is."""

_CALLED: Mapping[tuple[str, str], str] = {
    ("axolotl", "optimizer"): "optim",
    ("axolotl", "lr_scheduler"): "lr_scheduler_type",
}
"""Words that mean something else in the table, where one trainer has its own for it."""

_TEXTS = ("run.name", "run.dir", "model.path", "tokenizer.path", "deepspeed", "tracking.project")
"""Keys whose values are text whatever they look like: a folder may be called 20240501."""


@dataclass
class Carrying:
    """A recipe on its way."""

    recipe: Recipe
    entries: dict[str, Entry] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)

    def put(self, path: str, value: str, given: Given) -> None:
        """One line. A second word for the same key is named."""
        nearest, why = NOT_YET.get((path, value.strip("\"'")), ("", ""))
        is_text = path in _TEXTS and given.value is not True
        value = in_yaml(value) if is_text else as_written(nearest or value)
        before = self.entries.get(path)
        if before is not None and before.given is not None and before.value == value:
            self.leave(given, f"{before.given.key} says it too", trains=False)
        elif nearest:
            self.leave(given, why, f"{path} is {nearest} instead")
        said = f"{origin(given.place)} {given.key}" + (f": {given.text}, not carried over" if nearest else "")
        if before is None or before.given is None:
            self.entries[path] = Entry(value, said, given)
        elif before.value != value:
            self.leave(given, f"{before.given.key} says {path} too, and counts")

    def leave(self, given: Given, why: str, help_: str = "", trains: bool = True) -> None:
        """Not carried over. What asks for nothing changes nothing."""
        self.left.append(Left(given, why, help_, trains and not given.asks_for_nothing))

    @property
    def trains_lora(self) -> bool:
        """Whether the recipe trains adapters."""
        given = self.recipe.given
        kind = self.recipe.get("finetuning_type", "adapter", "train_type", "tuner_type", "sft_type")
        if kind is not None:
            return kind.text.lower() in ("lora", "qlora")
        if "full_finetuning" in given and given["full_finetuning"].is_true:
            return False
        if self.recipe.stack.name in ("llamafactory", "alpaca2"):
            return True
        asked = self.recipe.get("use_lora", "use_peft", "use_peft_lora", "peft")
        if self.recipe.stack.name == "axolotl":
            return False
        named = (self.our_key(each).startswith("lora.") for each in given.values() if each.text)
        return asked.is_true if asked else any(named)

    def called(self, given: Given) -> str:
        """The word of the table for a key."""
        return _CALLED.get((self.recipe.stack.name, given.key), given.key)

    def our_key(self, given: Given) -> str:
        """Ours for a key, dotted; "" when there is none."""
        meant = counterpart(self.called(given), None)
        return meant.path if meant else ""
