"""The ways of single keys: what needs more than a word of the one table (written/foreign_keys.py), such as
lists, counts that are written otherwise, and keys that only count together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crossfoot.importing.carried import NOT_YET, Carrying, Entry
from crossfoot.importing.datasets import SPLIT_KEYS, VALIDATION_KEYS, part_split_off
from crossfoot.importing.recipe import Given, as_text, origin
from crossfoot.phrases import listed
from crossfoot.written.foreign_keys import foreign, words_for
from crossfoot.written.known_keys import Suggestion, choices, counterpart, is_optional, ours
from crossfoot.written.lora_section import LoraSection

_BESIDE = ("tracking.", "checkpoint.", "validation.", "run.", "faults.")
"""Sections of which nothing that is trained hangs."""

_RANKS_WAIT = "it is long there since ranks wait for the tokenising; here that is done before they start"
_ALL_LINEAR = ("all", "all-linear", "all_linear", "true")
"""All linear layers of a block: in a Llama, those of the default."""


def by_the_table(carrying: Carrying, given: Given) -> None:
    """A key that is a word of the table, or none."""
    name = carrying.called(given)
    word, meant = foreign(name), counterpart(name, given.text)
    if not given.text:
        carrying.leave(given, "it has no value", trains=False)
    elif meant is None:
        carrying.leave(given, "crossfoot does not know this key", f"look up what {given.key} does there")
    elif not meant.path:
        carrying.leave(given, meant.note, trains=word is not None and word.trains)
    elif meant.path == "model.attention":
        carrying.leave(given, "model.attention is auto: the kernel that is installed", trains=False)
    elif (value := _ours(meant)) is not None:
        carrying.put(meant.path, value, given)
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


def _put_list(path: str) -> Callable[[Carrying, Given], None]:
    def put(carrying: Carrying, given: Given) -> None:
        if given.asks_for_nothing:
            carrying.leave(given, "it asks for nothing", trains=False)
        elif given.text.lower() in _ALL_LINEAR:
            carrying.put(path, as_text(list(LoraSection().target_modules)), given)
        else:
            carrying.put(path, as_text(list(given.names)), given)

    return put


def _lora(carrying: Carrying, given: Given) -> None:
    kind = given.text.lower()
    if isinstance(given.value, dict):
        carrying.leave(given, "it is a section of its own there", "write its values below lora:")
    elif kind == "qlora":
        carrying.leave(
            given, "there is no quantisation yet: the base is trained as it is", "plan more memory"
        )
    elif kind in ("freeze", "oft"):
        carrying.leave(given, f"there is no {kind}: all weights are trained", "add a section lora:")
    else:
        what = (
            "the section lora: says it" if carrying.trains_lora else "without lora: all weights are trained"
        )
        carrying.leave(given, what, trains=False)


def _split(carrying: Carrying, given: Given) -> None:
    part = part_split_off(carrying.recipe)
    if part is None:
        carrying.leave(given, "no part is split off there either", trains=False)
    elif (files := carrying.recipe.get(*VALIDATION_KEYS)) is not None and not files.asks_for_nothing:
        carrying.leave(given, f"{files.key} says the files", trains=False)
    else:
        carrying.put("data.validation", as_text(part), given)


def _epochs(carrying: Carrying, given: Given) -> None:
    number = given.number
    limit = carrying.recipe.get("max_steps")
    if limit is not None and (limit.number or 0) > 0:
        carrying.leave(given, f"max_steps {limit.text} counts instead, there too", trains=False)
    elif number is not None and number % 1:
        carrying.leave(given, "epochs are whole; a part of one is so many steps", "set train.max_steps")
        whole = max(1, round(number))
        carrying.entries["train.epochs"] = Entry(
            str(whole), f"{origin(given.place)} {given.key}: {given.text}, rounded", given
        )
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
        carrying.leave(
            given, "it is written out here, and a file is needed", "write it to ds.json, and name it"
        )
    elif given.text:
        carrying.put("deepspeed", given.text, given)
    else:
        carrying.leave(given, "it has no value", trains=False)


def _torch_dtype(carrying: Carrying, given: Given) -> None:
    if given.text == "auto":
        carrying.leave(given, "bf16 and fp16 say in which precision it trains", trains=False)
    else:
        by_the_table(carrying, given)


def _report_to(carrying: Carrying, given: Given) -> None:
    names = [name.lower() for name in given.names]
    if "tensorboard" in names:
        carrying.put("tracking.tensorboard", "true", given)
    if "wandb" in names or "all" in names:
        carrying.put("tracking.wandb", "online", given)
    if not {"tensorboard", "wandb", "all"} & set(names):
        carrying.leave(given, "the ledger has every number", trains=False)


def _drop_last(carrying: Carrying, given: Given) -> None:
    why = (
        "it drops unfinished forwards; here all samples are trained, and the last step of an epoch is shorter"
    )
    carrying.leave(given, why)


def _ignore(why: str) -> Callable[[Carrying, Given], None]:
    return lambda carrying, given: carrying.leave(given, why, trains=False)


_TEMPLATES = {"llama2": "llama2", "llama2_zh": "alpaca2", "tokenizer_default": "tokenizer"}
"""Their names of templates -> ours of the same text."""


def _template(carrying: Carrying, given: Given) -> None:
    ours = _TEMPLATES.get(given.text.lower())
    if ours is None:
        help_ = "take the model's own chat template: data.template: tokenizer; or a Jinja file"
        carrying.leave(given, "the text of that template is not here", help_)
    else:
        carrying.put("data.template", ours, given)


def _kbits(carrying: Carrying, given: Given) -> None:
    kind = {"4": "nf4", "8": "int8"}.get(given.text)
    if kind is None:
        carrying.leave(given, "the base model is trained as it is", trains=given.text != "16")
    else:
        carrying.put("model.quantization", kind, given)


WAYS: Mapping[str, Callable[[Carrying, Given], None]] = {
    **dict.fromkeys(
        ("trainable", "lora_target", "lora_target_modules", "target_modules", "lora_target_linear"),
        _put_list("lora.target_modules"),
    ),
    **dict.fromkeys(
        ("modules_to_save", "additional_target", "lora_modules_to_save"), _put_list("lora.modules_to_save")
    ),
    **dict.fromkeys((*words_for("lora"), "adapter"), _lora),
    **dict.fromkeys(SPLIT_KEYS, _split),
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
    "torch_dtype": _torch_dtype,
    **dict.fromkeys(("dataloader_drop_last", "drop_last"), _drop_last),
    "report_to": _report_to,
    "ddp_timeout": _ignore(_RANKS_WAIT),
    **dict.fromkeys(
        ("accelerate.gradient_accumulation_steps", "accelerate.gradient_clipping"),
        _ignore("the trainer's own option is taken; accelerate's is a second opinion"),
    ),
    "load_best_model_at_end": _ignore("the best checkpoint is kept; the run ends with its last"),
    "bias": lambda carrying, given: carrying.leave(
        given, "biases are not trained", trains=given.text != "none"
    ),
    "load_in_kbits": _kbits,
    **dict.fromkeys(("template", "chat_template"), _template),
}
"""What is more than a word of the table. Data files have a module of their own (datasets.py)."""
