"""From the words of another trainer to the keys of a run config: what is carried over, and what is not.

The words stand in one table (written/foreign_keys.py). Here is what needs more than a word: lists, files, keys
that only count together, and values that crossfoot does not have yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from crossfoot.importing.datasets import DATA_KEYS, DataFiles, data_files
from crossfoot.importing.recipe import Given, Recipe, as_text, origin, read_value
from crossfoot.phrases import listed
from crossfoot.written.foreign_keys import foreign
from crossfoot.written.known_keys import Suggestion, choices, counterpart, is_optional, ours
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
    ("model.dtype", "float16"): ("bfloat16", "a checkpoint does not hold float16's loss scale yet"),
    ("lr.schedule", "cosine_with_restarts"): ("cosine", "there are no restarts yet"),
    ("lr.schedule", "warmup_stable_decay"): ("constant", "there is no decay at the end yet"),
    ("lr.schedule", "polynomial"): ("linear", "there is no polynomial decay"),
    ("lr.schedule", "inverse_sqrt"): ("cosine", "there is no inverse square root"),
    ("optimizer.name", "adamw_bnb_8bit"): ("adamw", "the optimizer's state is float32"),
    ("optimizer.name", "adamw_8bit"): ("adamw", "the optimizer's state is float32"),
    ("optimizer.name", "paged_adamw_8bit"): ("adamw", "the optimizer's state is float32"),
    ("optimizer.name", "paged_adamw_32bit"): ("adamw", "the optimizer's state is not paged"),
    ("optimizer.name", "adafactor"): ("adamw", "there is no adafactor"),
}
"""Our key and a value of it that is not there yet -> the nearest that is, and why. One line goes when it is."""

_CALLED: Mapping[tuple[str, str], str] = {
    ("axolotl", "optimizer"): "optim",
    ("axolotl", "lr_scheduler"): "lr_scheduler_type",
}
"""Words that mean something else in the table, where one trainer has its own for it."""

_BESIDE = ("tracking.", "checkpoint.", "validation.", "run.", "faults.")
"""Sections of which nothing that is trained hangs."""

_RANKS_WAIT = "it is long there since ranks wait for the tokenising; here that is done before they start"
_ALL_LINEAR = ("all", "all-linear", "all_linear")


@dataclass
class Carrying:
    """A recipe on its way."""

    recipe: Recipe
    entries: dict[str, Entry] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)

    def put(self, path: str, value: str, given: Given) -> None:
        """One line. A second word for the same key is named."""
        nearest, why = NOT_YET.get((path, value.strip("\"'")), ("", ""))
        value = nearest or value
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
        return asked.is_true if asked else any(_our_key(key).startswith("lora.") for key in given)


def carry(recipe: Recipe) -> Carried:
    """All of it: every key becomes an entry or is left with its reason."""
    carrying = Carrying(recipe)
    for given in recipe.given.values():
        if not given.is_known:
            carrying.leave(given, "the file does not say which", _saying(given))
        elif given.key not in DATA_KEYS:
            _WAYS.get(given.key, _by_the_table)(carrying, given)
    files = data_files(recipe)
    _files(carrying, files)
    _defaults(carrying)
    _together(carrying)
    return Carried(MappingProxyType(carrying.entries), tuple(carrying.left))


def _files(carrying: Carrying, found: DataFiles) -> None:
    for path, files, given in (
        ("data.train", found.train, found.train_given),
        ("data.validation", found.validation, found.validation_given),
    ):
        if files and given is not None:
            carrying.put(path, as_text(list(files)), given)
    for given, why, help_, trains in found.left:
        carrying.leave(given, why, help_, trains)


def _our_key(key: str) -> str:
    meant = counterpart(key, None)
    return meant.path if meant else ""


def _saying(given: Given) -> str:
    path = _our_key(given.key)
    return f"say it behind the file: {path}=VALUE" if path else ""


def _by_the_table(carrying: Carrying, given: Given) -> None:
    name = _CALLED.get((carrying.recipe.stack.name, given.key), given.key)
    word, meant = foreign(name), counterpart(name, given.text)
    if given.value is None:
        carrying.leave(given, "it has no value", trains=False)
    elif meant is None:
        carrying.leave(given, "crossfoot does not know this key", f"look up what {given.key} does there")
    elif not meant.path:
        carrying.leave(given, meant.note, trains=word is not None and word.trains)
    elif meant.path == "model.attention":
        carrying.leave(given, "model.attention is auto: the kernel that is installed", trains=False)
    elif (value := _ours(meant)) is not None:
        carrying.put(meant.path, _in_yaml(meant.path, value), given)
    elif (meant.path, given.text) in NOT_YET:
        carrying.put(meant.path, given.text, given)
    else:
        default = f"{meant.path} is {listed(choices(meant.path), 'or')}, and is left at its default"
        why = meant.note or (default if choices(meant.path) else meant.help)
        carrying.leave(given, why, trains=not meant.path.startswith(_BESIDE))


def _ours(meant: Suggestion) -> str | None:
    """The value, where its key can have it, also later."""
    value = meant.value
    if value is None or (meant.path, value) in NOT_YET or not choices(meant.path):
        return value
    return ours(meant.path, value)


def _in_yaml(path: str, value: str) -> str:
    is_text = path.rpartition(".")[2] in ("path", "dir", "name", "project") or path == "deepspeed"
    return in_yaml(value) if is_text else value


def _put_list(path: str) -> Callable[[Carrying, Given], None]:
    def put(carrying: Carrying, given: Given) -> None:
        names = given.names
        if given.asks_for_nothing or [name.lower() for name in names] in ([name] for name in _ALL_LINEAR):
            carrying.leave(given, "the default is all linear layers of a block", trains=False)
        elif given.value is True or given.text == "true":
            carrying.leave(given, "all linear layers of a block are the default", trains=False)
        else:
            carrying.put(path, as_text(list(names)), given)

    return put


def _lora(carrying: Carrying, given: Given) -> None:
    kind = given.text.lower()
    if kind == "qlora":
        carrying.leave(given, "there is no quantisation yet: the base is trained as it is", "plan more memory")
    elif kind in ("freeze", "oft"):
        carrying.leave(given, f"there is no {kind}: all weights are trained", "add a section lora:")
    else:
        what = "a section lora:" if carrying.trains_lora else "no section lora: all weights are trained"
        carrying.leave(given, f"it is {what}", trains=False)


def _split(carrying: Carrying, given: Given) -> None:
    recipe = carrying.recipe
    if given.number == 0 or (recipe.stack.name == "alpaca2" and not recipe.is_pretraining):
        carrying.leave(given, "no part is split off there either", trains=False)
    else:
        help_ = "write those samples to a file of their own: data.validation: [FILE.json]"
        carrying.leave(given, "no part of the data is split off: all of it is trained", help_)


def _epochs(carrying: Carrying, given: Given) -> None:
    number = given.number
    limit = carrying.recipe.get("max_steps")
    if limit is not None and (limit.number or 0) > 0:
        carrying.leave(given, f"max_steps {limit.text} counts instead, there too", trains=False)
    elif number is not None and number % 1:
        carrying.leave(given, "a part of an epoch is counted in steps", "set train.max_steps")
        whole = max(1, round(number))
        carrying.entries["train.epochs"] = Entry(str(whole), f"{given.key}, rounded", given)
    else:
        carrying.put("train.epochs", given.text if number is None else str(int(number)), given)


def _max_steps(carrying: Carrying, given: Given) -> None:
    if given.number is not None and given.number <= 0:
        carrying.leave(given, "it means no limit", trains=False)
    else:
        carrying.put("train.max_steps", given.text, given)


def _interval(path: str, *strategies: str) -> Callable[[Carrying, Given], None]:
    """A number of steps, where the strategy beside it counts in steps."""

    def put(carrying: Carrying, given: Given) -> None:
        strategy = carrying.recipe.get(*strategies)
        if strategy is not None and strategy.text != "steps":
            carrying.leave(given, f"{strategy.key} is {strategy.text}: it has no effect", trains=False)
        elif given.number is not None and 0 < given.number < 1:
            help_ = f"set {path} to so many steps"
            carrying.leave(given, "a share of all steps is no interval here", help_, trains=False)
        else:
            carrying.put(path, given.text, given)

    return put


def _strategy(path: str) -> Callable[[Carrying, Given], None]:
    def put(carrying: Carrying, given: Given) -> None:
        if given.text in ("no", "false", "none") and is_optional(path):
            carrying.put(path, "null", given)
        elif given.text == "steps":
            carrying.leave(given, f"{path} counts in steps", trains=False)
        else:
            carrying.leave(given, f"here it counts in steps: {path}", f"set {path}", trains=False)

    return put


def _warmup_steps(carrying: Carrying, given: Given) -> None:
    number = given.number
    if number is not None and 0 < number < 1:  # transformers 5
        carrying.put("lr.warmup_fraction", given.text, given)
    elif number == 0:
        carrying.leave(given, "it means none", trains=False)
    else:
        carrying.put("lr.warmup_steps", given.text.removesuffix(".0"), given)


def _steps_of_axolotl(carrying: Carrying, given: Given) -> None:
    """axolotl's batch_size is that of one GPU and step."""
    micro = carrying.recipe.get("micro_batch_size")
    if carrying.recipe.stack.name != "axolotl":
        carrying.put("batch.micro_batch_size", given.text, given)
    elif given.number and micro is not None and micro.number:
        carrying.put("batch.grad_accum_steps", str(int(given.number // micro.number)), given)
    else:
        carrying.leave(given, "without micro_batch_size it cannot be divided", "say batch.micro_batch_size=4")


def _beta(carrying: Carrying, given: Given) -> None:
    first, second = carrying.recipe.get("adam_beta1"), carrying.recipe.get("adam_beta2")
    if "optimizer.betas" not in carrying.entries:
        one = first.text if first else "0.9"
        other = second.text if second else "0.999"
        carrying.put("optimizer.betas", f"[{one}, {other}]", given)


def _deepspeed(carrying: Carrying, given: Given) -> None:
    if isinstance(given.value, dict):
        carrying.leave(given, "it is written out here, and a file is needed", "write it to ds.json, and name it")
    elif given.text:
        carrying.put("deepspeed", in_yaml(given.text), given)
    else:
        carrying.leave(given, "it has no value", trains=False)


def _bf16(carrying: Carrying, given: Given) -> None:
    if given.text in ("auto", "full"):
        carrying.put("model.dtype", "bfloat16", given)
    else:
        _by_the_table(carrying, given)


def _torch_dtype(carrying: Carrying, given: Given) -> None:
    if given.text == "auto":
        carrying.leave(given, "bf16 and fp16 say in which precision it trains", trains=False)
    else:
        _by_the_table(carrying, given)


def _report_to(carrying: Carrying, given: Given) -> None:
    names = [name.lower() for name in given.names]
    if "wandb" in names or "all" in names:
        carrying.put("tracking.wandb", "online", given)
    else:
        carrying.leave(given, "the ledger has every number; the mirror is tracking.wandb", trains=False)


def _drop_last(carrying: Carrying, given: Given) -> None:
    why = "it drops unfinished forwards; here all samples are trained, and the last step of an epoch is shorter"
    carrying.leave(given, why)


def _ignore(why: str) -> Callable[[Carrying, Given], None]:
    return lambda carrying, given: carrying.leave(given, why, trains=False)


_WAYS: Mapping[str, Callable[[Carrying, Given], None]] = {
    **dict.fromkeys(
        ("trainable", "lora_target", "lora_target_modules", "target_modules", "lora_target_linear"),
        _put_list("lora.target_modules"),
    ),
    **dict.fromkeys(
        ("modules_to_save", "additional_target", "lora_modules_to_save"), _put_list("lora.modules_to_save")
    ),
    **dict.fromkeys(
        """finetuning_type adapter train_type tuner_type sft_type use_lora use_peft use_peft_lora peft
        full_finetuning""".split(),
        _lora,
    ),
    **dict.fromkeys(("val_size", "val_set_size", "validation_split_percentage"), _split),
    **dict.fromkeys(("num_train_epochs", "num_epochs"), _epochs),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _beta),
    "max_steps": _max_steps,
    "batch_size": _steps_of_axolotl,
    "warmup_steps": _warmup_steps,
    "eval_steps": _interval("validation.every_steps", "eval_strategy", "evaluation_strategy"),
    "save_steps": _interval("checkpoint.every_steps", "save_strategy"),
    "save_strategy": _strategy("checkpoint.every_steps"),
    "eval_strategy": _strategy("validation.every_steps"),
    "evaluation_strategy": _strategy("validation.every_steps"),
    "deepspeed": _deepspeed,
    "bf16": _bf16,
    "torch_dtype": _torch_dtype,
    **dict.fromkeys(("dataloader_drop_last", "drop_last"), _drop_last),
    "report_to": _report_to,
    "ddp_timeout": _ignore(_RANKS_WAIT),
    "load_best_model_at_end": _ignore("the best checkpoint is kept; the run ends with its last"),
    "bias": lambda carrying, given: carrying.leave(
        given, "biases are not trained", trains=given.text != "none"
    ),
    "load_in_kbits": lambda carrying, given: carrying.leave(
        given, "the base model is trained as it is", trains=given.text != "16"
    ),
}
"""What is more than a word of the table. Data files have a module of their own (datasets.py)."""


def _defaults(carrying: Carrying) -> None:
    """What that trainer takes by itself."""
    recipe, entries = carrying.recipe, carrying.entries
    stack, is_lora = recipe.stack, carrying.trains_lora
    for path, default in stack.defaults.items():
        is_beside = path == "train.epochs" and "train.max_steps" in entries
        if path not in entries and not is_beside and (is_lora or not path.startswith("lora.")):
            said = default.key if default.key.startswith("peft") else f"{stack.version}: {default.key}"
            entries[path] = Entry(default.value, f"default of {said}")
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
