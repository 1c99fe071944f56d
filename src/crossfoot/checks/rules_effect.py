"""CF030: keys of the run config that somebody wrote, and that nothing follows from beside the others.

A key that has no effect under some other key's value belongs into WISHES; a test asks of every key there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from crossfoot.arithmetic.impossible import alternatives
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.rules_rate import RULE_OF
from crossfoot.extras import missing_of
from crossfoot.findings.finding import Finding, Severity
from crossfoot.phrases import after_steps, counted
from crossfoot.written.section import Unsure
from crossfoot.written.shown import shown


@dataclass(frozen=True)
class Wish:
    """A key that may have no effect. why: what makes that so, as a sentence; None when the key has one. help:
    a change that gives it an effect, where there is one. is_note: a note, not a warning.
    """

    key: str
    why: Callable[[Facts], str | None]
    help: str | Callable[[Facts], str | None]
    is_note: bool = False


def _no_rule(facts: Facts) -> str | None:
    lr, batch = facts.run.config.lr, facts.batch
    is_by_tokens = facts.run.config.batch.target_trained_tokens is not None
    is_other = batch is not None and batch.global_batch_size != lr.reference_batch
    is_said = is_other and not is_by_tokens  # by CF204
    if lr.rule != "none" or is_said:
        return None
    return "lr.rule is none, so the rate is lr.reference, whatever the batch"


def _no_fall(facts: Facts) -> str | None:
    """With the schedule wsd."""
    lr = facts.run.config.lr
    if lr.schedule == "wsd":
        return None if lr.decay_fraction else "lr.decay_fraction is 0, and the rate never falls"
    return f"lr.schedule is {lr.schedule}, and only wsd has a decay of its own"


def _no_decay(facts: Facts) -> str | None:
    return None if facts.run.config.lr.schedule == "wsd" else _no_fall(facts)


def _no_cycles(facts: Facts) -> str | None:
    schedule = facts.run.config.lr.schedule
    is_used = schedule == "cosine_with_restarts"
    return None if is_used else f"lr.schedule is {schedule}, and only cosine_with_restarts has cycles"


def _no_floor(facts: Facts) -> str | None:
    lr = facts.run.config.lr
    if lr.schedule == "wsd" and lr.min_ratio:
        return _no_fall(facts)
    is_flat = lr.schedule == "constant" and lr.min_ratio
    return "lr.schedule is constant, and the rate never falls" if is_flat else None


def _no_slope(facts: Facts) -> str | None:
    lr = facts.run.config.lr
    is_flat = lr.schedule != "constant" and lr.min_ratio == 1
    return "lr.min_ratio is 1, so the rate stays at its peak" if is_flat else None


def _no_adapter(facts: Facts) -> str | None:
    return None if facts.run.config.model.adapter is not None else "there is no model.adapter to use"


def _by_sgd(facts: Facts) -> str | None:
    is_sgd = facts.run.config.optimizer.name == "sgd"
    return "optimizer.name is sgd, which trains without momentum and without decay here" if is_sgd else None


def _decay_by_sgd(facts: Facts) -> str | None:
    return _by_sgd(facts) if facts.run.config.optimizer.weight_decay else None


def _never_validated(facts: Facts) -> str | None:
    config, schedule = facts.run.config, facts.schedule
    if not config.data.validation:  # no files, and no part
        return "data.validation is empty"
    every = config.validation.every_steps
    if schedule is None or every is None or every < schedule.total_steps:
        return None
    return f"the run has {schedule.total_steps:,} steps, and validates at its end in any case"


def _no_start_loss(facts: Facts) -> str | None:
    config = facts.run.config
    is_idle = config.validation.at_start and not config.data.validation
    return "data.validation is empty" if is_idle else None


def _never_impatient(facts: Facts) -> str | None:
    config, schedule = facts.run.config, facts.schedule
    every, patience = config.validation.every_steps, config.validation.patience
    if patience is None:
        return None
    if not config.data.validation or every is None:
        return "the run is validated at its end only"
    taken = None if schedule is None else math.ceil(schedule.total_steps / every) - 1
    if taken is None or taken > patience:
        return None
    return (
        f"{counted(taken, 'validation')} before the end of the run cannot hold so many without a lower loss"
    )


def _no_patience(facts: Facts) -> str | None:
    is_given = facts.run.config.validation.patience is not None
    return None if is_given else "validation.patience is not given, and nothing else asks for an improvement"


def _no_best(facts: Facts) -> str | None:
    config, schedule = facts.run.config, facts.schedule
    every, saves = config.validation.every_steps, config.checkpoint.every_steps
    if not config.checkpoint.best:
        return None
    if not config.data.validation or every is None:
        return "there is no validation before the end of the run, so no checkpoint has a validation loss"
    if saves is None:
        return "checkpoint.every_steps is null, so no checkpoint falls on a validation"
    first = math.lcm(every, saves)
    if schedule is None or first < schedule.total_steps:
        return None
    return (
        f"the first checkpoint on a validation would be {after_steps(first)}, and the run has "
        f"{schedule.total_steps:,}"
    )


def _nothing_asked(facts: Facts) -> str | None:
    return None if facts.run.config.evaluation.tasks else "evaluation.tasks is empty"


def _asked_at_the_end(facts: Facts) -> str | None:
    every, schedule = facts.run.config.evaluation.every_steps, facts.schedule
    if (why := _nothing_asked(facts)) is not None:
        return why
    if schedule is None or every is None or every < schedule.total_steps:
        return None
    return f"the run has {schedule.total_steps:,} steps, and evaluates at its end in any case"


def _no_loss_scale(facts: Facts) -> str | None:
    dtype = facts.run.config.model.dtype
    return None if dtype == "float16" else f"model.dtype is {dtype}, and only float16 has a loss scale"


def _no_float32(facts: Facts) -> str | None:
    model = facts.run.config.model
    if model.matmul == "auto" or model.dtype == "float32":
        return None
    return f"model.dtype is {model.dtype}, and this is how float32 matrices are multiplied"


def _no_tracker(facts: Facts) -> str | None:
    return "tracking.wandb is off" if facts.run.config.tracking.wandb == "off" else None


def _no_prompt(facts: Facts) -> str | None:
    is_plain = facts.run.config.data.task == "pretrain"
    return "data.task is pretrain, and documents have no prompt" if is_plain else None


def _no_records(facts: Facts) -> str | None:
    is_plain = facts.run.config.data.task == "pretrain"
    return "data.task is pretrain, and its blocks are never too long" if is_plain else None


def _no_next_epoch(facts: Facts) -> str | None:
    config, schedule = facts.run.config, facts.schedule
    if schedule is not None and schedule.step_size(0) >= schedule.num_samples:
        return None  # CF518 speaks of it
    is_only = config.data.last_step == "carry" and config.train.epochs == 1
    return "the run has one epoch, and no next one to carry its tail into" if is_only else None


def _right_rule(facts: Facts) -> str | None:
    if facts.run.config.batch.target_trained_tokens is not None:
        return None
    name = facts.run.config.optimizer.name
    return f"set lr.rule to {RULE_OF[name]}, the rule for {name}"


def _falling(facts: Facts) -> str | None:
    can_fall = facts.run.config.lr.min_ratio < 1
    return "set lr.schedule to cosine, or to wsd with a decay" if can_fall else None


def _a_tracker(_: Facts) -> str | None:
    return None if missing_of("tracking") else "set tracking.wandb to online or offline"


WISHES: tuple[Wish, ...] = (
    Wish("lr.reference_batch", _no_rule, _right_rule, is_note=True),
    Wish("model.adapter_use", _no_adapter, "name the adapter in model.adapter"),
    Wish("model.matmul", _no_float32, "set model.dtype to float32"),
    Wish("lr.min_ratio", _no_floor, _falling),
    Wish("lr.schedule", _no_slope, "lower lr.min_ratio"),
    Wish("lr.cycles", _no_cycles, "set lr.schedule to cosine_with_restarts"),
    Wish("lr.decay_fraction", _no_decay, "set lr.schedule to wsd"),
    Wish("lr.decay_shape", _no_fall, "set lr.schedule to wsd, and lr.decay_fraction to 0.1"),
    Wish("optimizer.beta2_reference_batch", _by_sgd, "set optimizer.name to adamw"),
    Wish("optimizer.betas", _by_sgd, "set optimizer.name to adamw"),
    Wish("optimizer.eps", _by_sgd, "set optimizer.name to adamw"),
    Wish("optimizer.weight_decay", _decay_by_sgd, "set optimizer.name to adamw"),
    Wish(
        "validation.every_steps", _never_validated, "give data.validation, and a number of steps in the run"
    ),
    Wish("validation.at_start", _no_start_loss, "give data.validation"),
    Wish("validation.patience", _never_impatient, "validate more often, with validation.every_steps"),
    Wish("validation.min_improvement", _no_patience, "give validation.patience"),
    Wish(
        "evaluation.every_steps",
        _asked_at_the_end,
        "give evaluation.tasks, and a number of steps in the run",
    ),
    *(
        Wish(f"evaluation.{key}", _nothing_asked, "give evaluation.tasks")
        for key in ("scorer", "shots", "subjects")
    ),
    Wish("checkpoint.best", _no_best, "validate where a checkpoint is written, before the run's end"),
    Wish("faults.overflow", _no_loss_scale, "leave it to runs in float16"),
    Wish("tracking.project", _no_tracker, _a_tracker),
    *(
        Wish(f"data.{key}", _no_prompt, "train on conversations, with data.task: sft")
        for key in ("template", "system_prompt", "train_on")
    ),
    Wish("data.over_long", _no_records, "train on conversations, with data.task: sft"),
    Wish("data.last_step", _no_next_epoch, "set data.last_step to short or drop"),
)


@rule("CF030", "warning", "note", name="wish-without-effect")
def without_effect(facts: Facts) -> Iterator[Finding]:
    """CF030: a key of the run config has no effect, because of another key or of the run's length.

    Whoever wrote it meant something by it: a floor for a rate that never falls (`lr.min_ratio` with a
    constant schedule), validations without validation data, betas for sgd, a W&B project with the tracker
    off. Either the key is left over, or the other one is not what was meant. Only what is written is named,
    and in a resolved config, which has every key, only what is no default. `lr.reference_batch` without a
    rule is a note: it says where `lr.reference` comes from, and CF204 speaks when the batch is another one.
    """
    is_resolved = all(facts.run.is_named(wish.key) for wish in WISHES)
    for wish in WISHES:
        with suppress(Unsure):
            why = wish.why(facts) if facts.run.is_written(wish.key) else None
            section, name = getattr(facts.run.config, wish.key.split(".")[0]), wish.key.split(".")[1]
            value, default = getattr(section, name), type(section).model_fields[name].default
            if why is not None and not (is_resolved and value == default):
                severity: Severity = "note" if wish.is_note else "warning"
                change = wish.help if isinstance(wish.help, str) else wish.help(facts)
                yield Finding(
                    "CF030",
                    f"{wish.key} {shown(value)} has no effect: {why}",
                    severity=severity,
                    place=facts.run.place(wish.key),
                    helps=alternatives([f"remove {wish.key}", *((change,) if change else ())]),
                )
