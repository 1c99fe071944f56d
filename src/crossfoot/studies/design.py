"""The design of a study: which runs it has, and what each of them sets in the config. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean

from crossfoot.arithmetic.batch import GLOBAL, Thresholds, batch_behind, ceil_div
from crossfoot.written.overriding import setting

MOST_EXTENSIONS = 3
"""So often the rates of a batch are extended beyond the best one at their edge."""
_CHECKPOINT_VALIDATIONS = 3
"""A checkpoint falls on every third validation."""


@dataclass(frozen=True)
class Asked:
    """What a study is asked. batches: samples per optimizer step, ascending. factors: of the rate, ascending.
    seeds: of the orders of samples and of the fresh weights. budget_samples: each run trains so many, or up
    to a batch more. validations: about so many over a run, beside the one before it. branch: RUN_DIR@STEP
    that all runs begin with; None: each begins with the model.
    """

    batches: tuple[int, ...]
    factors: tuple[Fraction, ...]
    seeds: tuple[int, ...]
    budget_samples: int
    validations: int
    branch: str | None = None


@dataclass(frozen=True)
class Branching:
    """Where all runs begin that branch off another one. step: optimizer steps of it; samples: trained in
    them. batches: of that run, as pairs of `batch.global_batch_size`.
    """

    step: int
    samples: int
    batches: Thresholds


@dataclass(frozen=True)
class Subject:
    """What the study is about: the config's own numbers. name: of its run. batch: samples per optimizer step.
    micro_batch_size: None where forwards are limited by tokens. reference: rate at lr.reference_batch.
    warmup_samples: over its first budget_samples; 0 without a warm-up. index_dir: of the token indexes.
    loose_batches: smaller than a forward of every rank, and yet with micro_batch_size, which another file
    fixes. branching: None where each run begins with the model.
    """

    name: str
    batch: int
    dp_degree: int
    micro_batch_size: int | None
    reference: float
    warmup_samples: int
    index_dir: str
    loose_batches: tuple[int, ...] = ()
    branching: Branching | None = None


@dataclass(frozen=True)
class RunDesign:
    """One run. name: of its folder. steps: optimizer steps of its own. words: overrides of the config;
    run.dir is the folder. first_step, first_sample: so many are those of the run that it branches off.
    """

    name: str
    batch: int
    factor: Fraction
    seed: int
    steps: int
    words: tuple[str, ...]
    first_step: int = 0
    first_sample: int = 0

    @property
    def samples(self) -> int:
        """That it trains itself."""
        return self.steps * self.batch


def factor_word(factor: Fraction) -> str:
    """`x0.5`."""
    return f"x{float(factor):.6g}"


def run_name(batch: int, factor: Fraction, seed: int) -> str:
    """`b0100-x1-s42`."""
    return f"b{batch:04d}-{factor_word(factor)}-s{seed}"


def warmup_samples(
    steps: int | None, fraction: float | None, samples: int | None, batch: int, budget_samples: int
) -> int:
    """The config's warm-up in samples: its steps at its own batch, its share of the budget, or as it is."""
    if steps is not None:
        return steps * batch
    if fraction is not None:
        return math.ceil(Fraction(repr(float(fraction))) * budget_samples)
    return samples or 0


def designed(
    asked: Asked, subject: Subject, folder: str, losses: Mapping[str, float | None]
) -> list[RunDesign]:
    """All runs, by batch, factor and seed, the grid of rates extended as far as `losses` say. losses: by name
    of a run that is over its loss after budget_samples, None or not finite where it diverged.
    """
    return [
        design(asked, subject, folder, batch, factor, seed)
        for batch in asked.batches
        for factor in factors_of(asked, batch, losses)
        for seed in asked.seeds
    ]


def factors_of(asked: Asked, batch: int, losses: Mapping[str, float | None]) -> tuple[Fraction, ...]:
    """The factors of one batch, ascending: those asked for, and, while the best lies at the edge, the next
    one beyond it. Of one factor there is no best.
    """
    factors = list(asked.factors)
    for _ in range(MOST_EXTENSIONS if len(factors) > 1 else 0):
        means = [_mean(batch, factor, asked.seeds, losses) for factor in factors]
        known = [mean for mean in means if mean is not None]
        if len(known) < len(means):
            break
        best = known.index(min(known))
        if best == 0:
            factors.insert(0, factors[0] * factors[0] / factors[1])
        elif best == len(factors) - 1:
            factors.append(factors[-1] * factors[-1] / factors[-2])
        else:
            break
    return tuple(factors)


def _mean(
    batch: int, factor: Fraction, seeds: Sequence[int], losses: Mapping[str, float | None]
) -> float | None:
    """Of the losses over the seeds; infinite where one diverged, None while one is not
    over.
    """
    names = [run_name(batch, factor, seed) for seed in seeds]
    if any(name not in losses for name in names):
        return None
    found = [losses[name] for name in names]
    numbers = [loss for loss in found if loss is not None and math.isfinite(loss)]
    return fmean(numbers) if len(numbers) == len(found) else math.inf


def design(asked: Asked, subject: Subject, folder: str, batch: int, factor: Fraction, seed: int) -> RunDesign:
    """One run: the config with its batch, its rate, its seed and its length, all else alike."""
    name, steps = run_name(batch, factor, seed), ceil_div(asked.budget_samples, batch)
    at = subject.branching
    words = (
        setting("run.name", f"{subject.name}-{name}"),
        setting("run.dir", f"{folder}/{name}"),
        f"run.seed={seed}",
        *_batch_words(subject, batch),
        *_length_words(asked, subject, batch, steps),
        f"lr.reference={float(Fraction(repr(subject.reference)) * factor)!r}",
        setting("data.index_dir", subject.index_dir),
    )
    begins = () if at is None else (at.step, at.samples)
    return RunDesign(name, batch, factor, seed, steps, words, *begins)


def _batch_words(subject: Subject, batch: int) -> Iterator[str]:
    """The batch, in forwards as large as the config's, as far as it fills one of each rank."""
    at, largest, word = subject.branching, batch, f"{GLOBAL}={batch}"
    if at is not None:
        word = batch_behind(at.batches, at.samples, batch)
        largest = max(batch, *(before for _, before in at.batches))
    yield word
    yield "batch.grad_accum_steps=null"
    micro = subject.micro_batch_size
    if micro is not None:
        filled = micro if batch in subject.loose_batches else ceil_div(largest, subject.dp_degree)
        yield f"batch.micro_batch_size={min(micro, filled)}"


def _length_words(asked: Asked, subject: Subject, batch: int, steps: int) -> Iterator[str]:
    """Equal samples in one order, every step full; validated after about as many samples each. What decides
    the steps that are done already stays.
    """
    every = max(1, round(asked.budget_samples / (asked.validations * batch)))
    at = subject.branching
    yield from ("train.epochs=null", f"train.max_steps={steps if at is None else at.step + steps}")
    if at is None:
        yield from ("data.last_step=carry", "lr.warmup_steps=null", "lr.warmup_fraction=null")
        yield f"lr.warmup_samples={subject.warmup_samples or 'null'}"
    yield "validation.at_start=true"
    yield f"validation.every_steps={every if every < steps else 'null'}"
    yield from ("validation.patience=null", "checkpoint.keep=1", "checkpoint.best=false")
    yield f"checkpoint.every_steps={every * _CHECKPOINT_VALIDATIONS}"
