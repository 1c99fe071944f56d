"""Which known mistake explains a wrong gradient. Pure numpy.

A mistake of weighting makes the gradient another sum of the same gradients of single samples: each mistake is
a list of weights, one a sample, and is recognised by the gradient that it would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.layout import Layout
from crossfoot.index.store import DataIndex
from crossfoot.ledger.reconcile import PlannedStep
from crossfoot.probing.compare import Comparison, Vector
from crossfoot.probing.samples import samples_of

MOST_SLOTS_NAMED = 5
WIDEST_TOLERANCE = 0.1
"""Of a factor, relatively, however loose the bound is."""


@dataclass(frozen=True)
class Mistake:
    """A way to be wrong: its name, and the weight that it gives to each sample (of both steps)."""

    name: str
    weights: Vector


@dataclass(frozen=True)
class Step:
    """The compared step as the diagnosis sees it.

    samples: ids, the compared step's first, then those of the step before. slots: (rank, forward) -> columns
    of `samples`. tokens: trained tokens of each of `samples`. grad_accum_steps, dp_degree: of the plan;
    layout: of what ran (folded: another one).
    """

    samples: NDArray[np.int64]
    slots: tuple[tuple[NDArray[np.int64], ...], ...]
    tokens: Vector
    count: int
    layout: Layout
    grad_accum_steps: int
    dp_degree: int


def step_of(
    index: DataIndex, before: PlannedStep, step: PlannedStep, layout: Layout, accum: int, dp: int
) -> Step:
    """The compared step and the one before it; accum and dp are the plan's."""
    compared = samples_of(step)
    samples = np.concatenate([compared, samples_of(before)])
    column = {int(sample): number for number, sample in enumerate(samples)}
    slots = tuple(
        tuple(np.array([column[int(sample)] for sample in ids], dtype=np.int64) for ids in forwards)
        for forwards in step.slots
    )
    tokens = index.trained_tokens[samples].astype(np.float64)
    return Step(samples, slots, tokens, compared.size, layout, accum, dp)


def known_factor(factor: float, step: Step, bound: float) -> str | None:
    """The name of a factor on the whole gradient, measured within about `bound`; None when it is not known.
    Different mistakes may have one factor: all are named.
    """
    near = [(abs(factor / value - 1), name) for value, name in _factors(step)]
    least = min(near)[0]
    if least > min(3 * bound, WIDEST_TOLERANCE):
        return None
    return ", or ".join(name for distance, name in near if distance - least < 1e-9)


def _factors(step: Step) -> Iterator[tuple[float, str]]:
    """(factor, its name) of every known mistake that scales the whole gradient; none is 1."""
    accum, dp, forwards = step.grad_accum_steps, step.dp_degree, step.layout.grad_accum_steps
    tokens = float(step.tokens[: step.count].sum())
    again = "divided by accumulation twice: the loss is a mean over the whole step already"
    named = [
        (1 / accum, f"1/grad_accum_steps ({again})"),
        (1 / accum**2, "1/grad_accum_steps^2 (divided by accumulation twice more)"),
        (accum, "grad_accum_steps (a sum over forwards instead of a mean)"),
        (1 / dp, "1/dp_degree (the missing dp factor: the engine averages over ranks, and the loss does not"
                 " make up for it)"),
        (1 / dp**2, "1/dp_degree^2 (averaged over ranks twice)"),
        (dp, "dp_degree (a sum over ranks instead of a mean)"),
        (1 / (accum * dp), "1/(grad_accum_steps x dp_degree) (divided by the number of slots)"),
        (accum * dp, "grad_accum_steps x dp_degree (a sum over slots)"),
        (tokens, "the trained tokens of the step (a sum over tokens instead of a mean)"),
        (1 / tokens, "1/trained tokens (divided by the tokens twice)"),
        (tokens / step.count, "trained tokens / samples (divided by samples instead of tokens)"),
        (-1.0, "-1 (uphill)"),
    ]  # fmt: skip
    if forwards != accum:
        named += [
            (1 / forwards, f"1/{forwards} forwards of the folded step ({again})"),
            (float(forwards), f"{forwards} forwards of the folded step (a sum instead of a mean)"),
        ]
    return ((value, name) for value, name in named if value != 1)


def mistakes(step: Step) -> Iterator[Mistake]:
    """Every known mistake of weighting. The right weight of each sample is 1 / trained tokens of the step."""
    yield from _means_of_means(step)
    yield from _missing_parts(step)
    leftover = step.tokens[step.count :].sum()
    weights = _right(step)
    weights[step.count :] = 1 / leftover
    yield Mistake("the gradients of the step before are still there (they were not cleared)", weights)


def _right(step: Step) -> Vector:
    weights = np.zeros(step.tokens.size)
    weights[: step.count] = 1 / step.tokens[: step.count].sum()
    return weights


def _means_of_means(step: Step) -> Iterator[Mistake]:
    """Means over parts, averaged over the parts; one without a sample counts as zero, or does not count."""
    forwards = [columns for rank in step.slots for columns in rank]
    ranks = [np.concatenate(rank) for rank in step.slots]
    micro_steps = [np.concatenate(at_once) for at_once in zip(*step.slots, strict=True)]
    samples = [np.array([column]) for column in range(step.count)]
    for what, parts in (
        ("forwards", forwards),
        ("ranks", ranks),
        ("micro-steps (one forward of every rank)", micro_steps),
        ("samples", samples),
    ):
        filled = [columns for columns in parts if columns.size]
        counts = dict.fromkeys((len(parts), len(filled)))
        for count in counts:
            weights = np.zeros(step.tokens.size)
            for columns in filled:
                weights[columns] = 1 / (count * step.tokens[columns].sum())
            empty = (
                "" if len(counts) == 1 else f", empty ones {'counted' if count == len(parts) else 'left out'}"
            )
            yield Mistake(f"mean of means over {what}{empty}", weights)


def _missing_parts(step: Step) -> Iterator[Mistake]:
    """Parts of the step that do not count, with the tokens of the whole step, or of the rest, as divisor."""
    last_forwards = np.concatenate([rank[-1] for rank in step.slots])
    parts = [
        ("the last slot (rank, forward)", step.slots[-1][-1]),
        ("the last forward of every rank", last_forwards),
        ("the first forward of every rank", np.concatenate([rank[0] for rank in step.slots])),
        ("every forward but the last of every rank",
         np.concatenate([columns for rank in step.slots for columns in rank[:-1]] or [last_forwards[:0]])),
        ("the last rank", np.concatenate(step.slots[-1])),
        ("every rank but the first",
         np.concatenate([columns for rank in step.slots[1:] for columns in rank] or [last_forwards[:0]])),
        *((f"rank {rank}, forward {forward}", columns)
          for rank, forwards in enumerate(step.slots) for forward, columns in enumerate(forwards)),
    ]  # fmt: skip
    for what, columns in parts:
        if 0 < columns.size < step.count:
            weights = _right(step)
            weights[columns] = 0
            is_tail = what.startswith("the last")
            name = f"{'the tail is dropped: ' if is_tail else ''}{what} is missing"
            yield Mistake(f"{name}, its tokens counted in the divisor", weights)
            yield Mistake(f"{name}, and not counted in the divisor", weights / (weights @ step.tokens))


def name_mistake(
    step: Step, comparison: Comparison, gradients: NDArray[np.float64], bound: float
) -> tuple[str | None, tuple[str, ...]]:
    """(the mistake that explains what was got, or None; notes with numbers).

    gradients: float64 [samples, sketched entries], the gradient of each sample's summed loss. A mistake
    explains it when the gradient it would give is within `bound` of what was got, as it is, or times a
    factor.
    """
    got = np.concatenate([entries.got for entries in comparison.sketch])
    size = float(np.linalg.norm(got))
    as_it_is: list[tuple[float, str]] = []
    with_factor: list[tuple[float, str]] = []
    for mistake in {found.weights.tobytes(): found for found in reversed([*mistakes(step)])}.values():
        expected = mistake.weights @ gradients
        norm = float(np.linalg.norm(expected))
        if not norm or not size:
            continue
        as_it_is.append((float(np.linalg.norm(got - expected)) / norm, mistake.name))
        factor = float(got @ expected) / norm**2
        name = known_factor(factor, step, bound) if factor else None
        if name is not None:
            error = float(np.linalg.norm(got - factor * expected)) / (abs(factor) * norm)
            with_factor.append((error, f"{mistake.name}, times {factor:.6g}: {name}"))
    for found in (as_it_is, with_factor):
        error, name = min(found, default=(np.inf, ""))
        if error <= bound:
            return name, (f"{name}: fits with a relative error of {error:.1e}",)
    return None, _measured_weights(step, got, gradients, bound)


def _measured_weights(
    step: Step, got: Vector, gradients: NDArray[np.float64], bound: float
) -> tuple[str, ...]:
    """Nothing known fits: which samples weigh what, when some weights of the samples explain what was got."""
    if gradients.shape[0] >= gradients.shape[1]:
        return ()
    weights, *_rest = np.linalg.lstsq(gradients.T, got, rcond=None)
    left = float(np.linalg.norm(got - weights @ gradients)) / (float(np.linalg.norm(got)) or 1.0)
    if not left <= 10 * bound:
        return ("no weights of the samples explain it: the gradient of a forward itself is another",)
    right = 1 / step.tokens[: step.count].sum()
    notes = []
    for rank, forwards in enumerate(step.slots):
        for forward, columns in enumerate(forwards):
            shares = weights[columns] / right
            odd = shares[np.abs(shares - 1) > 0.05]
            if odd.size:
                many = ", ".join(f"{share:.3f}" for share in odd)
                notes.append(f"rank {rank}, forward {forward}: samples count {many} times instead of once")
    if len(notes) > MOST_SLOTS_NAMED:
        notes = [*notes[:MOST_SLOTS_NAMED], f"and {len(notes) - MOST_SLOTS_NAMED:,} slots more"]
    return tuple(notes)
