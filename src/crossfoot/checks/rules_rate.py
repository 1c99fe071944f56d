"""CF204 to CF210: the learning rate against batch, optimizer, the run's length and launch scripts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.whole_numbers import finite_number
from crossfoot.findings.finding import Finding, Place
from crossfoot.written.findings import COMMAND_LINE

SHOWN_FACTOR = 32
"""Goyal et al. 2017: from 256 samples to 8,192 without loss of accuracy; above, the error rises quickly."""
FAR = 4
"""Times the reference batch: from there on the two rules are more than a factor of 2 apart."""
HIGHEST_ADAM_RATE = 1e-2
THREE_DIGITS = 2e-3
"""A rate that somebody worked out and typed is rounded to about three digits."""

_FAMILY = {"linear": "sgd", "sqrt": "adamw"}
_SOURCE = {
    "linear": "linear scaling was found with SGD (Goyal et al. 2017)",
    "sqrt": "the square root follows for Adam (Malladi et al. 2022)",
}
RULE_OF = {"adamw": "sqrt", "sgd": "linear"}


@dataclass(frozen=True)
class _Scaling:
    """The run's batch, the largest where it changes, against lr.reference_batch, in samples per step, and
    what each rule makes of it.
    """

    batch: int
    reference_batch: int
    reference: float
    changes: bool

    @property
    def has(self) -> str:
        return f"up to {self.batch:,}" if self.changes else f"{self.batch:,}"

    @property
    def ratio(self) -> float:
        return self.batch / self.reference_batch

    def factor(self, name: str) -> float:
        return {"none": 1.0, "linear": self.ratio, "sqrt": math.sqrt(self.ratio)}[name]

    def peak(self, name: str) -> str:
        return _rate(self.reference * self.factor(name))


def _rate(value: float) -> str:
    """`0.0008`, `2e-05`: four digits."""
    return f"{value:.4g}"


def _scaling(facts: Facts) -> _Scaling | None:
    """None when the batch is unknown, is the reference's, or there is no reference batch; and of steps that
    have so many trained tokens.
    """
    lr, batch, written = facts.run.config.lr, facts.batch, facts.run.config.batch
    if batch is None or written.target_trained_tokens is not None:
        return None
    if lr.reference_batch in (None, batch.global_batch_size):
        return None
    changes = bool(written.from_samples)
    return _Scaling(batch.global_batch_size, lr.reference_batch, lr.reference, changes)


def _also(facts: Facts, key: str, label: str) -> tuple[tuple[Place, str], ...]:
    """A second place, when somebody wrote that key."""
    return ((facts.run.place(key), label),) if facts.run.is_written(key) else ()


@rule("CF204", "warning")
def unscaled_rate(facts: Facts) -> Iterator[Finding]:
    """CF204: the batch is not the one that lr.reference was right for, and no rule scales the rate.

    `lr.reference_batch` says at how many samples per step `lr.reference` was found. On another batch (more
    GPUs, more accumulation) the same rate is another experiment: with 64 times the samples a step and an
    unscaled rate, an epoch moves the weights far less. `lr.rule: sqrt` (for adamw) or `linear` (for sgd)
    takes the rate along. To keep a rate whatever the batch, leave `lr.reference_batch` out: without it
    crossfoot says nothing.
    """
    config = facts.run.config
    scaling = _scaling(facts)
    if scaling is None or config.lr.rule != "none":
        return
    right = RULE_OF[config.optimizer.name]
    reference = _rate(scaling.reference)
    yield Finding(
        "CF204",
        f"lr.reference {reference} was right at {scaling.reference_batch:,} samples a step, "
        f"this run has {scaling.has}, and lr.rule is none",
        severity="warning",
        place=facts.run.place("lr.reference_batch"),
        label=f"this run: {scaling.has}",
        others=_also(facts, "lr.reference", f"stays {reference}"),
        notes=(
            f"linear (for sgd) would make it {scaling.peak('linear')}, "
            f"sqrt (for adamw) {scaling.peak('sqrt')}",
        ),
        helps=(
            f"set lr.rule to {right}: the peak is then {scaling.peak(right)}",
            f"or remove lr.reference_batch to train at {reference} whatever the batch",
        ),
    )


@rule("CF205", "warning")
def rule_of_another_optimizer(facts: Facts) -> Iterator[Finding]:
    """CF205: the scaling rule belongs to the other kind of optimizer.

    Linear scaling was found with SGD (Goyal et al. 2017, "Accurate, Large Minibatch SGD"), whose step grows
    with the gradient. Adam divides the gradient by its own size; for it the square root of the batch's ratio
    follows (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms"). Away from
    the reference batch the two are far apart: 8 times the samples are 8 or 2.8 times the rate.
    """
    config = facts.run.config
    scaling = _scaling(facts)
    used, right = config.lr.rule, RULE_OF[config.optimizer.name]
    if scaling is None or used in ("none", right):
        return
    yield Finding(
        "CF205",
        f"lr.rule {used} is a rule for {_FAMILY[used]}, and this run trains with {config.optimizer.name}",
        severity="warning",
        place=facts.run.place("lr.rule"),
        label=f"a peak of {scaling.peak(used)}; {right} makes it {scaling.peak(right)}",
        others=_also(facts, "optimizer.name", ""),
        notes=(*_far_apart(scaling), _SOURCE["linear"], _SOURCE["sqrt"]),
        helps=(
            f"set lr.rule to {right}: the peak is then {scaling.peak(right)}",
            f"or set lr.rule to none, lr.reference to {scaling.peak(used)}, and remove lr.reference_batch, "
            "if that is the peak that is meant",
        ),
    )


def _far_apart(scaling: _Scaling) -> tuple[str, ...]:
    """What is said from FAR times on, towards larger batches or smaller ones."""
    times = max(scaling.ratio, 1 / scaling.ratio)
    if times <= FAR:
        return ()
    return (
        f"{times:.4g} times from lr.reference_batch the two are a factor of {math.sqrt(times):.3g} apart",
    )


@rule("CF206", "warning")
def scaled_too_far(facts: Facts) -> Iterator[Finding]:
    """CF206: a rule takes the rate farther than it was shown to hold.

    Goyal et al. 2017 went from 256 samples a step to 8,192, 32 times, at equal accuracy; beyond that it fell
    quickly. A batch more than 32 times `lr.reference_batch` is outside of that. For the square root rule the
    same bound is used: an assumption, not studied. Towards smaller batches nothing is said.
    """
    scaling = _scaling(facts)
    used = facts.run.config.lr.rule
    if scaling is None or used == "none" or scaling.ratio <= SHOWN_FACTOR:
        return
    yield Finding(
        "CF206",
        f"the batch is {scaling.ratio:.4g} times lr.reference_batch, and the rule was shown to hold up to "
        f"{SHOWN_FACTOR} times",
        severity="warning",
        place=facts.run.place("lr.reference_batch"),
        label=f"this run: {scaling.has}",
        notes=(
            f"lr.rule {used} makes {_rate(scaling.reference)} a peak of {scaling.peak(used)}",
            "Goyal et al. 2017: from 256 to 8,192 samples for linear scaling; for sqrt the same is assumed",
        ),
        helps=(
            f"find a rate nearer to {scaling.batch:,} samples a step, and write it as lr.reference "
            "with its lr.reference_batch",
        ),
    )


@rule("CF207", "warning")
def long_warmup(facts: Facts) -> Iterator[Finding]:
    """CF207: the warm-up takes more than half of the run.

    A warm-up is meant to be a few percent. What gives so long a one is most often a number in another unit:
    `lr.warmup_fraction: 1` (the whole run, not one step), or steps that were right for a smaller batch and so
    for a longer run. transformers 5 reads `warmup_steps` below 1 as a share of the run and has no
    `warmup_ratio` any more; here each of the three keys has one unit, and only one of them may be given.
    (lie U7)
    """
    rate, schedule = facts.rate, facts.schedule
    if rate is None or schedule is None or rate.warmup_steps < 2 or 2 * rate.warmup_steps <= rate.total_steps:
        return
    lr = facts.run.config.lr
    total = rate.total_steps
    usual = math.ceil(0.03 * total)
    values = {
        "warmup_steps": (lr.warmup_steps, f"{usual}"),
        "warmup_fraction": (lr.warmup_fraction, "0.03"),
        "warmup_samples": (lr.warmup_samples, f"{schedule.samples_before(usual)}"),
    }
    (key,) = [key for key, (value, _) in values.items() if value is not None]
    whole = rate.warmup_steps == total
    helps = [f"set lr.{key} to {values[key][1]}: {usual:,} of {total:,} steps, the usual 3 %"]
    if lr.warmup_fraction == 1:
        helps.append("or set lr.warmup_steps to 1 in the place of lr.warmup_fraction, if one step is meant")
    yield Finding(
        "CF207",
        f"the whole run of {total:,} steps is warm-up"
        if whole
        else f"the warm-up takes {rate.warmup_steps:,} of the run's {total:,} steps",
        severity="warning",
        place=facts.run.place("lr", key),
        notes=(
            f"the rate is at its peak of {_rate(rate.peak)} in the last step only"
            if whole
            else f"only {total - rate.warmup_steps:,} steps are left for the {rate.schedule} schedule",
        ),
        helps=tuple(helps),
    )


@rule("CF208", "warning")
def rate_in_two_files(facts: Facts) -> Iterator[Finding]:
    """CF208: a launch script overrides the learning rate that the run config has.

    The script's number trains, and whoever reads the config believes another one. An override that a person
    types is a choice for one run; one that lies in a file beside the config is a second owner of the rate. A
    rate in the DeepSpeed file is CF306 or CF307.
    """
    was = facts.run.overridden.get("lr.reference")
    here = facts.run.place("lr.reference")
    reference = facts.run.config.lr.reference
    if was is None or here.file == COMMAND_LINE or was[0] == reference or any(scaled_twice(facts)):
        return
    before = finite_number(was[0])
    said = "another rate" if before is None else _rate(before)
    yield Finding(
        "CF208",
        f"two files state the rate: {here.file} says {_rate(reference)}, the config {said}",
        severity="warning",
        place=here,
        label="this one holds",
        others=((was[1], ""),),
        helps=(f"write {_rate(reference)} into the config, and remove the override from {here.file}",),
    )


@rule("CF209", "warning")
def scaled_twice(facts: Facts) -> Iterator[Finding]:
    """CF209: the rate is scaled to the batch twice, by hand and by the rule.

    The file's `lr.reference` was overridden, on the command line or in a launch script, with just the number
    that the linear or the square root rule makes of it for this batch; and `lr.rule` then multiplies it
    again. One of the two is enough.
    """
    was = facts.run.overridden.get("lr.reference")
    scaling = _scaling(facts)
    used = facts.run.config.lr.rule
    if was is None or scaling is None or used == "none":
        return
    before, place = finite_number(was[0]), was[1]
    by_hand = _factor_by_hand(scaling, before)
    if before is None or by_hand is None:
        return
    yield Finding(
        "CF209",
        f"the rate is scaled to the batch twice: {_rate(scaling.reference)} is already "
        f"{_rate(before)} x {by_hand:.4g}, and lr.rule {used} multiplies it by {scaling.factor(used):.4g}",
        severity="warning",
        place=facts.run.place("lr.reference"),
        label=f"lr.reference={_rate(scaling.reference)} makes the peak {scaling.peak(used)}",
        others=(
            (place, f"right at {scaling.reference_batch:,} samples; this run has {scaling.has}"),
            *_also(facts, "lr.rule", "scales it again"),
        ),
        helps=(
            f"leave lr.reference as the file has it: the peak is then {_rate(before * scaling.factor(used))}",
            f"or set lr.rule to none: the peak is then {_rate(scaling.reference)}",
        ),
    )


def _factor_by_hand(scaling: _Scaling, before: float | None) -> float | None:
    """The rule's factor that took `before` to the reference that is used now, if one did."""
    if before is None or before <= 0:
        return None
    for name in ("linear", "sqrt"):
        factor = scaling.factor(name)
        # Near 1 any small change of the rate would look like a rule.
        if abs(factor - 1) > 0.05 and math.isclose(scaling.reference, before * factor, rel_tol=THREE_DIGITS):
            return factor
    return None


@rule("CF210", "warning")
def rate_too_high_for_adam(facts: Facts) -> Iterator[Finding]:
    """CF210: the peak rate is above 0.01 with adamw.

    Adam moves every trained weight by about the rate in every step, whatever the size of the gradient.
    Weights of a language model are about 0.02 (`initializer_range` in its config.json), so that at 0.01 a few
    steps replace them. Published fine-tunings lie between 1e-6 and 1e-3. A rate this high is most often a
    slip of an exponent or a linear rule over a large batch, or of a ratio in `lr.groups`.
    """
    rate, config = facts.rate, facts.run.config
    if rate is None or config.optimizer.name != "adamw":
        return
    ratio, group = max([(1.0, ""), *((ratio, group) for group, ratio in rate.groups.items())])
    if rate.peak * ratio <= HIGHEST_ADAM_RATE:
        return
    if any(scaled_twice(facts)):  # it says where the rate comes from
        return
    scaled = "" if rate.peak == rate.reference else f" ({_rate(rate.reference)}, scaled by {rate.rule})"
    of = f" of {group}" if group else ""
    yield Finding(
        "CF210",
        f"the peak rate{of} is {_rate(rate.peak * ratio)}{scaled}; adamw moves every weight by about that "
        "much a step",
        severity="warning",
        place=facts.run.place("lr", "groups", group) if group else facts.run.place("lr.reference"),
        notes=("weights of a language model are about 0.02: a few such steps replace them",),
        helps=(
            f"lower lr.groups.{group} or lr.reference"
            if group
            else "lower lr.reference: Chinese-LLaMA-Alpaca-2 fine-tunes at 1e-4, 8 samples a step",
        ),
    )
